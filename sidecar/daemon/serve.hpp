// serve: accepts migrations into this host. It authenticates the other host, starts a sidecar for
// the guest when there is none, and from then on only carries bytes between the two: what a source
// asks is read and decided by the guest's own sidecar. Serve may be restarted at any time; sources
// come back.
#pragma once

#include "sidecar/channel/connection.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Runs until stopped. Fails when it cannot listen or its key or certificates are unusable.
core::Task<core::Result<>> serve(core::Loop& loop, SessionSettings options,
                                 std::stop_token terminate);

}  // namespace sidecar
