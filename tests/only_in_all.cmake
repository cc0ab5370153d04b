# ctest reads this after the cases of a directory, through a file that sets `ring`. It labels the cases of
# only-in-all.txt, which scripts/test then leaves out. They keep the label of their ring, for --all --ring NAME.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/only-in-all.txt lines REGEX "^[^#].* [|] ")
foreach(line IN LISTS lines)
    string(REGEX REPLACE " [|] .*" "" case "${line}")
    set_tests_properties("${case}" PROPERTIES LABELS "${ring};only-in-all")
endforeach()
