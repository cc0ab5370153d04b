// A QEMU without a running guest that a killed sidecar left behind, known by its monitor's socket
// alone. Used by the replica and by failover, before they start one of their own in its place.
#pragma once

#include <string>

#include "qmp/client.hpp"

namespace sidecar {

/// Makes it quit, and returns when nothing listens on its socket any more: then its images are free
/// too. `client` is connected to it, and is closed.
core::Task<core::Result<>> end_left_qemu(core::Loop& loop, qmp::Client& client,
                                         core::Deadline deadline);

}  // namespace sidecar
