// path_of(): the path that a tunnel of an anchor takes, tested before any frame of a guest does.
// Used by HomeEnds and AnchorService.
#pragma once

#include <string>

#include "netmove/tunnel/tunnel.hpp"
#include "sidecar/channel/protocol_anchor.hpp"

namespace sidecar {

/// Waits until the two ends of a tunnel know each other, and tests the path between them. The
/// tunnel may be removed meanwhile: cancelled. Fails with refused, saying what to open.
core::Task<core::Result<protocol::AnchorPath>> path_of(netmove::tunnel::Tunnel& tunnel,
                                                       std::string peer);

}  // namespace sidecar
