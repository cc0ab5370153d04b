// The `bridge` mover: both hosts' bridges are on one L2 network. Fires RARP, gratuitous ARP,
// unsolicited NA and an MLD report for every address of the guest, and the destination bridge's FDB
// entry.
//
// Invariant: each frame for the guest goes to one place. The destination's announcement moves every
// bridge on its way; what was on its way before goes on to the source's tap, whose ring holds it,
// until release().
#pragma once

#include <memory>

#include "core/loop.hpp"
#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove {

/// Source half. `tap` and `netlink` must outlive it.
/// prepare: the tap is in the bridge named and forwards. Its ring stays as it is: `sidecar run` has
///     made it long, and to change it under traffic loses frames.
/// fire: what this bridge still gets for the guest goes to the tap and nowhere else, whatever the
///     bridge learns meanwhile (a fixed FDB entry); nothing is flooded to it any more, since that
///     reaches the destination as well.
/// release: the guest's FDB entries leave the tap's port, also those that were fixed before.
/// settle: a tap that stays gets its flags back; another one goes with its QEMU.
/// rollback: such entries and flags return, and everything is announced from here.
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
