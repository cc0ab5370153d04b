# Read by ctest after the cases of a directory: labels those of only-in-all.txt, so that scripts/test leaves them out.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/only-in-all.txt lines REGEX "^[^#].* [|] ")
foreach(line IN LISTS lines)
    string(REGEX REPLACE " [|] .*" "" case "${line}")
    set_tests_properties("${case}" PROPERTIES LABELS only-in-all)
endforeach()
