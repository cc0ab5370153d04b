// What must not change in a guest between its description and its stop: its devices, and the nodes
// its disks write to. The destination is started from the command line, and our bitmaps record the
// writes of one node each; a snapshot, a hot-plugged disk or an ejected one would be missing bytes
// there, so it ends the migration with a sentence. (A resize is refused by QEMU itself while its
// NBD server exports the disk.) Used by the source's driver.
#pragma once

#include <string>
#include <vector>

#include "core/sync.hpp"
#include "qmp/client.hpp"
#include "sidecar/guest/description.hpp"

namespace sidecar {

/// QOM names of what `-device` and `device_add` have made: "disk0", and "(anonymous) device[2]".
core::Task<core::Result<std::vector<std::string>>> device_names(qmp::Client& client,
                                                                core::Deadline deadline);

/// Fails with refused when the guest is not what its command line makes: a device was plugged in or
/// taken out, or a disk has another image on top (a snapshot was taken).
core::Result<> check_as_started(qmp::CommandLine const& line, Description const& description);

/// Fails with refused when a disk was ejected, taken out, resized, or writes to another node now.
/// One QMP command: fit for the pause.
core::Task<core::Result<>> check_same_disks(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

/// The same for everything that is described.
core::Task<core::Result<>> check_same_parts(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

/// The same, and that the guest runs.
core::Task<core::Result<>> check_same_guest(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

}  // namespace sidecar
