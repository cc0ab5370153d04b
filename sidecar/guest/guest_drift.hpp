// What must not change in a guest between its description and its stop: its devices, and the nodes
// to which its disks write. The destination starts from the description, and each of our bitmaps
// records the writes of one node. After a snapshot, a hot-plugged disk or an ejected one, bytes
// would be missing at the destination, so such a change ends the migration with a message. (QEMU
// itself refuses a resize while its NBD server exports the disk.) Used by the source's driver.
#pragma once

#include <string>
#include <vector>

#include "core/sync.hpp"
#include "qmp/block.hpp"
#include "qmp/client.hpp"
#include "sidecar/guest/description.hpp"

namespace sidecar {

/// QOM names of the devices made by `-device` and `device_add`: "disk0",
/// and "(anonymous) device[2]".
core::Task<core::Result<std::vector<std::string>>> device_names(qmp::Client& client,
                                                                core::Deadline deadline);

/// Fails with refused if the destination would not have the images that the guest writes: a disk
/// has another image on top (a snapshot was taken), or a throttle group came later. `line`: of the
/// guest as it runs.
core::Result<> check_images(qmp::CommandLine const& line, Description const& description);

/// Fails with refused if a removable medium is not the one of the command line, or was ejected.
core::Result<> check_media(qmp::CommandLine const& line,
                           std::vector<qmp::BlockDevice> const& devices,
                           std::string const& working_directory);

/// Fails with refused if a disk was ejected, removed, resized, or now writes to another node. One
/// QMP command: fast enough for the pause.
core::Task<core::Result<>> check_same_disks(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

/// The same for everything in the description.
core::Task<core::Result<>> check_same_parts(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

/// The same, and that the guest's run state is that of the description.
core::Task<core::Result<>> check_same_guest(qmp::Client& client, Description const& description,
                                            core::Deadline deadline);

}  // namespace sidecar
