// reconnect_monitor: both drivers lose the connection to their QEMU's monitor in the same way, and
// reconnect with it. Used by QemuMonitor (source) and DestinationQemu.
#pragma once

#include <functional>
#include <stop_token>

#include "core/loop.hpp"
#include "core/sync.hpp"
#include "qmp/client.hpp"

namespace sidecar {

/// Reconnects until it succeeds, with pauses from limits::retry_pause_min to retry_pause_max.
/// Returns false if `stop` is triggered, or if `wanted` is false before an attempt; `client` is not
/// used after that. `failed` gets the error of each attempt that failed. Neither may suspend.
core::Task<bool> reconnect_monitor(core::Loop& loop, qmp::Client& client,
                                   std::function<bool()> wanted,
                                   std::function<void(core::Error const&)> failed,
                                   std::stop_token stop);

}  // namespace sidecar
