// The process that is a QMP monitor for a guest of libvirt (`sidecar libvirt-monitor`). libvirt
// holds QEMU's only monitor; its API passes commands, descriptors and events on. This process
// serves them on a Unix socket as QEMU does: a greeting, one client at a time. The guest's sidecar
// starts it (monitor.hpp). Invariant: it outlives its clients, and ends with QEMU.
#pragma once

#include <string>

namespace sidecar::libvirt {

struct MonitorProcess {
    std::string guest;  ///< The domain's name.
    std::string uri;
    int listener_fd = -1;  ///< A listening socket.
    /// Gets one MonitorStarted (monitor.hpp) or {"error": SENTENCE}; then closed.
    int ready_fd = -1;
};

/// Returns the exit status, when QEMU has ended, or if it could not begin.
int serve_monitor(MonitorProcess const& settings);

}  // namespace sidecar::libvirt
