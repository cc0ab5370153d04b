// The capacity of a line: bytes sent over several TCP connections at once, without any processing
// at either end. The floor of the benchmark of distances.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tests/support/command.hpp"

namespace bench {

/// Sends `bytes` from `near` to `far` over `connections` existing connections. Returns the
/// milliseconds until the far end has confirmed that all bytes arrived. `address` is the far end's,
/// in its own namespace. `line_to` puts the line in front of that port, and returns the host and
/// port by which the near end reaches it.
double bare_line_ms(lab::Place const& near, lab::Place const& far, std::string const& address,
                    std::uint64_t bytes, unsigned connections,
                    std::function<std::pair<std::string, int>(int port)> const& line_to);

}  // namespace bench
