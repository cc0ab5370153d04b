// Whether a QEMU that runs as another user can use the guest's disks. QEMU opens them as root at
// its start, and once more, as that user, whenever it begins to write: at the destination, and at
// the source after a migration that failed.
#pragma once

#include "sidecar/guest/description.hpp"

namespace sidecar {

/// At the source. Fails with refused, in a sentence that says what to do.
core::Result<> check_qemu_may_write(pid_t qemu, std::vector<MovedDisk> const& disks);

/// At the destination: its user exists here, and may pass the directories of the disks. `paths`: of
/// the disks here. Fails with refused.
core::Result<> check_user_here(Description const& description,
                               std::vector<std::string> const& paths);

/// The line with the option for QEMU's user that this host's QEMU has: -runas was removed in 10.0.
core::Task<core::Result<qmp::CommandLine>> fit_user_option(core::Loop& loop, qmp::CommandLine line,
                                                           core::Deadline deadline);

}  // namespace sidecar
