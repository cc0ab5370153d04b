// Failover: starts a guest on this host from the copy that `sidecar replicate` kept here, after its
// old host was fenced. Used by the session of `sidecar failover`.
#pragma once

#include <memory>

#include "netmove/mover.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"

namespace sidecar {

/// Brings the images to the last point (`previous`: to the one before it), records that the guest
/// belongs to this host, starts QEMU with the command line of the source, and announces the guest's
/// addresses. `movers` is to be settled afterwards, and must not outlive the guest. Fails with
/// refused if there is no complete point. May be repeated after it failed or was killed: the point
/// that was chosen first stays chosen.
core::Task<core::Result<std::unique_ptr<Guest>>> fail_over(core::Loop& loop, Paths paths,
                                                           std::string guest, Journal& journal,
                                                           bool previous,
                                                           netmove::MoverSet& movers);

}  // namespace sidecar
