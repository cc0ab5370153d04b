// Makes sure that the guest runs on this QEMU. Used by both drivers and by the watchdog; the
// source's driver and the watchdog never exist at the same time.
#pragma once

#include "qmp/client.hpp"

namespace sidecar {

enum class RunState : std::uint8_t { running, stopped_by_others };

/// The destination's guest, started with -S: ok only when query-status says `running`.
core::Task<core::Result<>> ensure_running(qmp::Client& client, core::Deadline deadline);

/// The source's guest after a migration that was cancelled, failed, or completed without a commit.
/// Continues a `postmigrate` guest, and waits for a migration that is still being cancelled. A
/// guest that was stopped from outside (`paused`, `io-error`, ...) is not continued. (QEMU 7.2
/// forgets that a guest was stopped before its migration: such a guest is continued.)
core::Task<core::Result<RunState>> run_after_migration(qmp::Client& client,
                                                       core::Deadline deadline);

}  // namespace sidecar
