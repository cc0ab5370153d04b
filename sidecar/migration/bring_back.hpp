// What the watchdog of a migration does when the source's sidecar is dead: cancel the migration and
// resume the guest, unless COMMIT is recorded. Used by daemon/watchdog_command.cpp. It acts only
// with the guest's journal locked, so never beside another sidecar.
#pragma once

#include <string>

#include "core/loop.hpp"
#include "core/task.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// One try. True when nothing is left to do: the guest runs here, is not ours to resume, or has
/// another sidecar.
core::Task<bool> bring_back(core::Loop& loop, Paths paths, std::string guest,
                            std::string qmp_socket);

}  // namespace sidecar
