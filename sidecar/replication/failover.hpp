// Failover: a guest started on this host from the copy that `sidecar replicate` kept here, its old
// host being fenced. Used by the session of `sidecar failover`.
#pragma once

#include <memory>

#include "netmove/mover.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"

namespace sidecar {

/// Brings the images to the last point (`previous`: to the one before it), records that the guest
/// is this host's, starts QEMU from the command line it had at its source, and announces its
/// addresses; `movers` is to be settled afterwards, and must not outlive the guest. Fails with
/// refused when there is no complete point. May be asked again after it failed or was killed: the
/// point that was chosen first stays chosen.
core::Task<core::Result<std::unique_ptr<Guest>>> fail_over(core::Loop& loop, Paths paths,
                                                           std::string guest, Journal& journal,
                                                           bool previous,
                                                           netmove::MoverSet& movers);

}  // namespace sidecar
