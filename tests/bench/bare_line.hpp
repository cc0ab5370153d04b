// What a line itself can carry: bytes sent over several connections of TCP at once, with nothing
// behind either end. The floor of the benchmark of distances.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tests/support/command.hpp"

namespace bench {

/// Sends `bytes` from `near` to `far` over `connections` that are already there, and returns how
/// long it took until the far end had told that all had come, in milliseconds. `address`: of the
/// far end, in its own namespace. `line_to`: puts the line in front of that port, and returns where
/// the near end reaches it (host and port).
double bare_line_ms(lab::Place const& near, lab::Place const& far, std::string const& address,
                    std::uint64_t bytes, unsigned connections,
                    std::function<std::pair<std::string, int>(int port)> const& line_to);

}  // namespace bench
