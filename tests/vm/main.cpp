// The vm tests' main. On a machine that cannot run the lab every test is skipped with the reason,
// not passed (77 is the exit status that ctest is configured to treat as skipped).
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include <cstdio>

#include "tests/support/lab.hpp"

int main(int argc, char** argv) {
    constexpr int skipped = 77;
    Catch::Session session;
    if (int const wrong = session.applyCommandLine(argc, argv); wrong != 0) return wrong;
    auto const& asked = session.configData();
    bool const lists =
        asked.listTests || asked.listTestNamesOnly || asked.listTags || asked.showHelp;
    if (auto const why = lab::why_impossible(); !lists && !why.empty()) {
        std::fprintf(stderr, "skipped: %s\n", why.c_str());
        return skipped;
    }
    return session.run();
}
