// What a Guest needs to find its network interfaces on this host; the rest of it is in
// guest.cpp. Used when a guest is started, when a sidecar joins a running one, and when taps have
// been plugged in or unplugged since.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sidecar/guest/guest.hpp"

namespace sidecar {

core::Result<std::vector<netmove::GuestAddress>> parse_addresses(
    std::vector<std::string> const& texts);

/// The actual MAC of a NIC: from the command line, else from QEMU (query-rx-filter knows
/// virtio-net).
core::Task<core::Result<netmove::MacAddress>> mac_of(qmp::Client& client, qmp::TapOption tap,
                                                     std::size_t index);

/// Fills in what the kernel knows about the tap.
core::Result<std::unique_ptr<Nic>> make_nic(core::Loop& loop, netmove::Netlink& netlink,
                                            std::string const& netdev,
                                            netmove::MacAddress const& mac, netmove::Tap tap);

}  // namespace sidecar
