// What one version of QEMU writes and another cannot read, although both have the devices and the
// machine type: it would end a migration after everything was copied. Used by the destination's
// check.
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

/// "pc-q35-7.2" and Ubuntu's "pc-q35-noble" have a version, "microvm" and "isapc" have none: they
/// are another machine in another QEMU.
bool has_version(std::string const& machine_type);

/// At the destination. Fails with refused if QEMU here is of another version, and cannot read the
/// state of one of the guest's devices, or has another machine of that type.
core::Task<core::Result<>> check_device_states(core::Loop& loop, HostMaps maps,
                                               Description const& description,
                                               core::Deadline deadline);

}  // namespace sidecar
