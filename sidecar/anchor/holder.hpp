// The holder of a tap: a process that keeps the tap's descriptors open and does nothing else. While
// `serve` is away, frames for the guest wait in the tap's ring, which the kernel empties when the
// last descriptor is closed. `serve` starts it, and finds it again by what it has recorded.
#pragma once

#include "core/process.hpp"
#include "netmove/tap.hpp"

namespace sidecar {

/// Starts one, `sidecar anchor-holder TAP`. It outlives this process.
core::Result<core::ProcessIdentity> hold(netmove::Tap const& tap);
/// The descriptors of a holder. Fails with closed if it has ended, for example with the last boot.
core::Result<netmove::Tap> held(core::ProcessIdentity const& holder, std::string const& tap);
/// Ends it. Also when it has ended already.
core::Task<void> end_holder(core::Loop& loop, core::ProcessIdentity holder);
/// The holder's own part: returns at SIGINT or SIGTERM.
int anchor_holder();

}  // namespace sidecar
