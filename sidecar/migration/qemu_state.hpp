// What QEMU does with its guest and its migration, as the machine's enumerator. Used by the
// source's driver, by the watchdog, and after each reconnect.
#pragma once

#include "qmp/client.hpp"
#include "sidecar/machine/source.hpp"

namespace sidecar {

/// Asks query-status and query-migrate. Never returns `copying` or `gone`: the caller has to know
/// these. Fails as Client::execute does.
core::Task<core::Result<machine::source::Qemu>> qemu_state(qmp::Client& client,
                                                           core::Deadline deadline);

}  // namespace sidecar
