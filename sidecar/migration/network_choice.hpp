// Which mover an interface in a bridge gets, by what both hosts say of that bridge and by what the
// operator has chosen. Used by SourceNetwork; pure. Interfaces that an anchor moves, and routed
// ones, are not asked about here.
#pragma once

#include <string>

#include "core/result.hpp"
#include "netmove/mover.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Sets `evpn` of an interface whose `vxlan_source` and `vxlan_destination` are known, and resets
/// both ends if the bridge mover is to move it alone. Fails with refused if the operator has chosen
/// a mover that cannot move it.
core::Result<> choose_mover(NetworkChoice choice, netmove::GuestInterface& interface);

/// What moves an interface whose bridges are both in a VXLAN, and why: for `migrate --check`.
std::string choice_in_vxlan(NetworkChoice choice, netmove::GuestInterface const& interface);

/// Continues the line about an interface whose anchor's tunnel is in the kernel. `destination`: its
/// address.
std::string plane_text(netmove::Netlink& netlink, netmove::AnchorVxlan const& vxlan,
                       std::string const& destination);

}  // namespace sidecar
