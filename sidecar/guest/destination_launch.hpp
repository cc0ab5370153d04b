// Arrival: a guest's taps and its QEMU on the host it comes to, whether RAM is to follow (the
// destination of a migration) or it is to boot from its copy (failover). Used by these two.
#pragma once

#include "netmove/mover.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// Starts QEMU, stopped before its first instruction, with the taps of `description` (whose
/// interfaces are this host's, see map_interfaces), into `guest`, whose netlink is open if it has
/// interfaces; their movers go into `movers`. `incoming`: it waits for RAM. What it made before it
/// failed is in `guest`, or gone.
core::Task<core::Result<>> start_here(Guest& guest, HostMaps const& maps,
                                      Description const& description, bool incoming,
                                      netmove::MoverSet& movers);

/// Puts a tap of the guest into `guest`, and its mover, if it is on a bridge, into `movers`.
core::Result<> add_nic(Guest& guest, netmove::GuestInterface interface, netmove::Tap tap,
                       netmove::MoverSet& movers);

}  // namespace sidecar
