// Devices whose state one QEMU writes and another cannot read, although both have the device and
// the machine type: faults of QEMU, which otherwise end a migration after everything was copied.
// Used by the destination's check.
#pragma once

#include <string>
#include <vector>

#include "core/loop.hpp"
#include "core/task.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Names of the devices of `line` whose state does not pass from QEMU `source` to QEMU
/// `destination`: major versions.
std::vector<std::string> unreadable_devices(qmp::CommandLine const& line, int source,
                                            int destination);

/// At the destination. Fails with refused if QEMU here cannot read the state of one of the guest's
/// devices.
core::Task<core::Result<>> check_device_states(core::Loop& loop, HostMaps maps,
                                               Description const& description,
                                               core::Deadline deadline);

}  // namespace sidecar
