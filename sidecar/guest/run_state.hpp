// Making sure that the guest runs on this QEMU: after a cancelled or failed migration, or one that
// completed and was not committed. Used by the source's driver and by the watchdog, which may not
// both exist at a time.
#pragma once

#include "qmp/client.hpp"

namespace sidecar {

/// Ok only when query-status says `running`. Continues a paused or postmigrate guest; waits out a
/// migration that is still being cancelled.
core::Task<core::Result<>> ensure_running(qmp::Client& client, core::Deadline deadline);

}  // namespace sidecar
