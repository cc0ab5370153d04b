// serve: accepts migrations into this host. It authenticates the other host and starts a
// sidecar for the guest if there is none. After that it only forwards bytes between the two:
// the guest's own sidecar parses and decides the source's requests. `serve` may be restarted at
// any time; sources reconnect.
#pragma once

#include "sidecar/channel/connection.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Runs until stopped. Fails when it cannot listen or its key or certificates are unusable.
core::Task<core::Result<>> serve(core::Loop& loop, SessionSettings options,
                                 std::stop_token terminate);

}  // namespace sidecar
