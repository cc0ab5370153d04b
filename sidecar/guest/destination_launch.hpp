// Arrival: creates a guest's taps and its QEMU on the host to which it comes. Either RAM follows
// (the destination of a migration), or the guest boots from its copy (failover). Used by these two.
#pragma once

#include "netmove/mover.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// Starts QEMU, stopped before its first instruction, with the taps of `description`, and puts both
/// into `guest`. The description's interfaces are this host's, see map_interfaces. The netlink of
/// `guest` is open if it has interfaces. The movers go into `movers`. `incoming`: QEMU waits for
/// RAM. After a failure, what was created is in `guest`, or removed.
core::Task<core::Result<>> start_here(Guest& guest, HostMaps const& maps,
                                      Description const& description, bool incoming,
                                      netmove::MoverSet& movers);

/// Puts a tap of the guest into `guest`, and its mover, if it is routed or on a bridge, into
/// `movers`.
core::Result<> add_nic(Guest& guest, netmove::GuestInterface interface, netmove::Tap tap,
                       netmove::MoverSet& movers);

}  // namespace sidecar
