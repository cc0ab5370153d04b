// The hooks of the tests. If their variables are not set, each costs one getenv.
//
// SIDECAR_TEST_STOP_AT=<name> makes the process stop itself (SIGSTOP) just before the action or
// phase of that name, so that a test can kill it there.
// SIDECAR_TEST_RELEASE_MS=<time> is limits::anchor_release_idle; `serve` looks as often.
#pragma once

#include <signal.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <string_view>

namespace sidecar {

inline void stop_for_test(std::string_view name) {
    char const* wanted = std::getenv("SIDECAR_TEST_STOP_AT");
    if (wanted != nullptr && name == wanted) raise(SIGSTOP);
}

/// The time that the variable names, or `otherwise`.
inline std::chrono::milliseconds time_for_test(char const* variable,
                                               std::chrono::milliseconds otherwise) {
    char const* const wanted = std::getenv(variable);
    if (wanted == nullptr) return otherwise;
    std::string_view const text(wanted);
    int milliseconds = 0;
    (void)std::from_chars(text.data(), text.data() + text.size(), milliseconds);
    return std::chrono::milliseconds(milliseconds);
}

}  // namespace sidecar
