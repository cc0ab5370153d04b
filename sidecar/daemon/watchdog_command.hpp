// `sidecar watchdog GUEST`: the process that Watchdog (guest/watchdog.hpp) starts. It reads its
// sidecar's messages. If the sidecar dies or hangs, it does the sidecar's work: bring_back() of a
// migration, thaw_left() of a replication.
#pragma once

#include <string>

#include "core/loop.hpp"
#include "core/task.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// `pipe_fd` is the reading end. Without a `qmp_socket` it is the watchdog of a replication.
/// Returns the exit status.
core::Task<int> watchdog_command(core::Loop& loop, Paths paths, std::string guest,
                                 std::string qmp_socket, int pipe_fd);

}  // namespace sidecar
