// The `evpn` mover: the hosts are VTEPs of an EVPN fabric. A routing daemon on each (FRR:
// docs/recipes/frr-evpn.conf) announces the stations that its kernel's tables have, and writes
// those of other hosts there. So what this mover writes at the destination, FRR announces at once,
// with a higher mobility sequence number (RFC 7432, 15). Stands beside the `bridge` mover, as vxlan
// does, and in place of that one.
//
//                 bridge's table                       the host's neighbour entries
//   destination   fire: at the tap (bridge mover)      fire: the guest's addresses
//   source        at the VXLAN port when FRR has       as FRR has learned; release: ours go
//                 learned the guest's new place
//
// The bridge mover's announcement comes first: only a frame that a bridge has learned from makes it
// take an entry back that a routing daemon wrote. One written by netlink would stay the daemon's.
//
// Invariant: each frame for the guest goes to one place. From fire() on what VXLAN brings goes to
// the tap (redirect.hpp), also when FRR has moved the bridge's entry away, so that the frames of
// VTEPs which do not know the new place yet are caught.
#pragma once

#include <memory>
#include <string>

#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// The VXLAN device of a bridge that EVPN can control: it and its port do not learn, and the bridge
/// filters no VLANs. Fails with refused, saying what to change.
core::Result<Link> evpn_port(Netlink& netlink, std::string const& bridge);
/// Whether a routing daemon says here where the guest is: its entry in the bridge is such a
/// daemon's, or the bridge's own where the guest runs.
core::Result<bool> evpn_knows(Netlink& netlink, std::string const& bridge, MacAddress const& guest);

/// Source half, of an interface with both ends. `netlink` must outlive it. Before the bridge mover
/// in the set.
/// prepare: changes nothing that other stations see.
/// fire: what VXLAN brings goes to the tap.
/// may_release: this host's bridge sends to the VXLAN device, so FRR has learned the new place.
/// release, settle: entries of the guest that are not FRR's are removed.
/// rollback: the guest's addresses are written here again, and FRR takes it back. It asks no other
///     host.
std::unique_ptr<Mover> evpn_mover_source(Netlink& netlink, GuestInterface const& interface);

/// Destination half. After the bridge mover in the set.
/// prepare: FRR has announced the guest from the source, or could.
/// fire: the neighbour entries; what VXLAN brings goes to the tap.
/// rollback: the entries that fire() made are removed, unless FRR has overwritten them.
std::unique_ptr<Mover> evpn_mover_destination(Netlink& netlink, GuestInterface const& interface);

}  // namespace netmove
