// A QEMU without a running guest that a killed sidecar left, known only by its monitor's socket.
// Used by the replica and by failover, before they start their own QEMU instead.
#pragma once

#include <string>

#include "qmp/client.hpp"

namespace sidecar {

/// Makes it quit. Returns when nothing listens on its socket any more: then its images are released
/// too. `client` is connected to it, and is closed.
core::Task<core::Result<>> end_left_qemu(core::Loop& loop, qmp::Client& client,
                                         core::Deadline deadline);

}  // namespace sidecar
