// The sign of life of this host in the registry, for `sidecar locate`. Used by `serve`.
#pragma once

#include "core/sync.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Runs until stopped; nothing to do without `--registry`. Its owner joins it.
core::Task<void> hold_host_lease(core::Loop& loop, SessionSettings settings, std::stop_token token);

}  // namespace sidecar
