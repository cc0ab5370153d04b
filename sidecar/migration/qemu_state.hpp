// What QEMU does with its guest and its migration, in the machine's words. Used by the source's
// driver, by the watchdog, and after each reconnect.
#pragma once

#include "qmp/client.hpp"
#include "sidecar/machine/source.hpp"

namespace sidecar {

/// Asks query-status and query-migrate. Never `copying` or `gone`: these are for the caller to
/// know. Fails as Client::execute does.
core::Task<core::Result<machine::source::Qemu>> qemu_state(qmp::Client& client,
                                                           core::Deadline deadline);

}  // namespace sidecar
