// What the watchdog of a migration does when the source's sidecar is dead: it cancels the migration
// and resumes the guest, unless COMMIT is recorded (machine/watchdog.hpp has the rule). Used by
// daemon/watchdog_command.cpp. It acts only while it holds the guest's journal lock, so never at
// the same time as another sidecar.
#pragma once

#include <string>

#include "core/loop.hpp"
#include "core/task.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// The result of one try.
enum class BringBack {
    done,  ///< Nothing is left to do: the guest runs here, or is not ours to resume.
    other_sidecar,  ///< Another sidecar holds the journal and decides.
    not_yet,  ///< QEMU does not answer, or a step failed: try again.
};

/// One try: does what machine::watchdog::next() says until nothing is left to do.
core::Task<BringBack> bring_back(core::Loop& loop, Paths paths, std::string guest,
                                 std::string qmp_socket);

}  // namespace sidecar
