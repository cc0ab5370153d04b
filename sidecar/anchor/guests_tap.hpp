// The tap of a guest on this host, as its QEMU holds it: what becomes an anchor when the guest
// leaves home. Used by HomeEnds.
#pragma once

#include <string>

#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// The tap that `end` names, from the guest's QEMU, according to the guest's manifest on this host.
/// Fails with refused.
core::Result<netmove::Tap> tap_of_guest(Paths const& paths, std::string const& guest,
                                        protocol::AnchorEnd const& end);
/// What is recorded of it. Fails with refused if it is in no bridge.
core::Result<AnchorTap> description_of(netmove::Netlink& netlink, netmove::Tap const& tap,
                                       netmove::Link const& link);

}  // namespace sidecar
