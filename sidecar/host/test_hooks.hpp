// The one hook of the fault tests: SIDECAR_TEST_STOP_AT=<name> makes the process stop itself
// (SIGSTOP) just before the action or phase of that name, so that a test can kill it there. If the
// variable is not set, it costs one getenv.
#pragma once

#include <signal.h>

#include <cstdlib>
#include <string_view>

namespace sidecar {

inline void stop_for_test(std::string_view name) {
    char const* wanted = std::getenv("SIDECAR_TEST_STOP_AT");
    if (wanted != nullptr && name == wanted) raise(SIGSTOP);
}

}  // namespace sidecar
