// A library needs a file: this one has the precompiled headers of the tests (tests/CMakeLists.txt).
