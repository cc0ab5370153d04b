// The addresses of its host on which QEMU listens for the guest's own services: -vnc, -spice and
// the forwarded ports of a user network (hostfwd=). Another host has other addresses, and its ports
// may be taken. Used by the destination of a migration. Pure: looks at no socket.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/command_line.hpp"

namespace qmp {

struct BoundAddress {
    std::string option;  ///< As written: for messages.
    std::string host;  ///< As written, without brackets; empty: every address.
    std::uint16_t first_port = 0;  ///< QEMU takes the first that is free.
    std::uint16_t last_port = 0;
    bool udp = false;
};
std::vector<BoundAddress> bound_addresses(CommandLine const& line);

/// {OLD, NEW}: NEW for OLD, both numeric, IPv4 or IPv6.
using AddressMap = std::vector<std::pair<std::string, std::string>>;
/// The value of `key` of an option with its host replaced, if `map` names it; else unchanged.
std::string map_bound_address(AddressMap const& map, std::string_view kind, std::string_view key,
                              std::string_view value);
/// Whether `text` is an IPv4 or IPv6 address.
bool is_numeric_address(std::string const& text);

}  // namespace qmp
