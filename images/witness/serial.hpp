// The serial port: a liveness line at a fixed interval, and commands if there is no network.
// Invariant: after this has started, no other code writes to the port, so lines are never mixed.
#pragma once

#include "control.hpp"

#include <cstdint>

namespace witness {

/// Writes {"alive":N,...} each `alive_ms` and answers command lines as {"answer":{...}}. Never
/// returns. It blocks while the other end of the port does not read.
[[noreturn]] void run_serial(Parts& parts, std::uint64_t alive_ms);

} // namespace witness
