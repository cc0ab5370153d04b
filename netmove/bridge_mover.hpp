// The `bridge` mover: both hosts' bridges are on one L2 network. Fires RARP, gratuitous ARP,
// unsolicited NA and an MLD report for every address of the guest, and the destination bridge's FDB
// entry.
//
// Invariant: each frame for the guest goes to one place. Until the destination announces, the
// source's bridge keeps sending to the source's tap (whose ring holds it); the announcement itself
// moves every bridge on its way.
#pragma once

#include <memory>

#include "core/loop.hpp"
#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove {

/// Source half. `tap` and `netlink` must outlive it.
/// prepare: the tap is in the bridge named and forwards; its ring is lengthened.
/// fire: FDB entries that learning could not move (static, sticky) leave the tap's port. Learned
///     ones stay until the destination's announcement moves them: deleted, they would flood frames
///     to both places.
/// settle: nothing; the tap goes with its QEMU.
/// rollback: such entries return, and everything is announced from here.
std::unique_ptr<Mover> bridge_mover_source(core::Loop& loop, Netlink& netlink, Tap const& tap,
                                           GuestInterface const& interface);

/// Destination half. `tap` and `netlink` must outlive it.
/// prepare: the tap is quiet, in the bridge, up, forwarding (waits for STP), with a long ring; MTU
///     of tap and bridge at least the source's; the bridge floods nothing to it yet, so that its
///     ring is empty at STOP.
/// fire: the announcements through the tap, as if the guest had sent them; then the port is opened
///     for broadcasts, the FDB entry and the host's own neighbour entries are written.
/// settle: the announcements again, spaced; ends early when the deadline's token is stopped.
/// rollback: FDB entry and flood flags as before; nothing is announced from here.
std::unique_ptr<Mover> bridge_mover_destination(core::Loop& loop, Netlink& netlink, Tap const& tap,
                                                GuestInterface const& interface);

}  // namespace netmove
