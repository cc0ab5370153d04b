// The monitor of a libvirt guest's QEMU, as its sidecar sees it: a Unix socket that a process of
// its own serves (monitor_process.hpp). Used where QEMU's monitor is connected on the source.
// Nothing here loads libvirt.
#pragma once

#include <sys/types.h>

#include <string>

#include "core/deadline.hpp"
#include "core/loop.hpp"
#include "core/result.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar::libvirt {

constexpr char const* default_uri = "qemu:///system";

/// What libvirt knows of the guest.
struct MonitorStarted {
    pid_t qemu = -1;
    std::string uuid = {};
};

std::string monitor_socket(Paths const& paths, std::string const& guest);

/// Starts the process for the domain of the guest's name, instead of one that an earlier sidecar
/// has left. Its socket accepts clients. Fails with refused, in libvirt's words.
core::Task<core::Result<MonitorStarted>> start_monitor(core::Loop& loop, Paths paths,
                                                       std::string guest, std::string uri,
                                                       core::Deadline deadline);
/// Starts the process again if it has died. For a guest that has none nothing happens.
core::Result<> ensure_monitor(Paths const& paths, std::string const& guest);
void end_monitor(Paths const& paths, std::string const& guest);

}  // namespace sidecar::libvirt
