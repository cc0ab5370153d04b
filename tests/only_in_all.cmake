# ctest reads this after the cases of a directory. It labels the cases of only-in-all.txt, which scripts/test then
# leaves out.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/only-in-all.txt lines REGEX "^[^#].* [|] ")
foreach(line IN LISTS lines)
    string(REGEX REPLACE " [|] .*" "" case "${line}")
    set_tests_properties("${case}" PROPERTIES LABELS only-in-all)
endforeach()
