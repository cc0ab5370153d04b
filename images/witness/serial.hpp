// The serial port: a line of liveness at a fixed interval, and commands when there is no network.
// Invariant: nobody else writes to the port after this started, so lines are never mixed.
#pragma once

#include "control.hpp"

#include <cstdint>

namespace witness {

/// Writes {"alive":N,...} each `alive_ms` and answers command lines as {"answer":{...}}, for ever.
/// Nothing happens here while the other end of the port does not take what is written.
[[noreturn]] void run_serial(Parts& parts, std::uint64_t alive_ms);

} // namespace witness
