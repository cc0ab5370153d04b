// One interface's settings in /proc/sys/net: read, and those of IPv6 written where they can be
// written (those of IPv4 can be set by netlink).
#pragma once

#include <optional>
#include <string>

namespace netmove {

/// Of /proc/sys/net/ipv6/conf/INTERFACE: "disable_ipv6", "addr_gen_mode". None: there is no such
/// setting, as on a host without IPv6.
std::optional<std::string> read_ipv6_setting(std::string const& interface,
                                             std::string const& setting);
/// Of /proc/sys/net/ipv4/conf/INTERFACE.
std::optional<std::string> read_ipv4_setting(std::string const& interface,
                                             std::string const& setting);
/// False when it cannot be written: no IPv6, or a /proc/sys that is read-only.
bool write_ipv6_setting(std::string const& interface, std::string const& setting,
                        std::string const& value);

}  // namespace netmove
