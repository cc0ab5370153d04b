// The command line of a guest as it runs: QEMU's own, without what was unplugged since its start,
// and with options that make again what was plugged in since then. The guest that the destination
// starts with it has the same devices at the same places. Everything that a migration asks about
// the command line is asked of this one. A line whose devices are all as they were started stays
// byte for byte.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "qmp/client.hpp"
#include "qmp/command_line.hpp"

namespace sidecar {

struct RunningLine {
    qmp::CommandLine line;
    std::map<std::string, std::string> taps = {};  ///< By netdev: the host's name, if it is known.
    std::vector<std::string> warnings = {};  ///< What differs at the destination.
};

/// `qemu`: the process, with that line and working directory. Fails with refused if a device was
/// plugged in or unplugged that the destination cannot start with or without: by its name, with
/// what to do.
core::Task<core::Result<RunningLine>> running_line(qmp::Client& client, pid_t qemu,
                                                   qmp::CommandLine line,
                                                   std::string working_directory,
                                                   core::Deadline deadline);

}  // namespace sidecar
