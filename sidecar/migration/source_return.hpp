// Whether a guest whose anchor is a stand-in returns to its home network with this migration, at a
// host that is not the anchor's. Used by SourceNetwork.
#pragma once

#include "sidecar/anchor/source_anchors.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

/// With --network=auto: a frame from the guest's bridge here passes the tunnel and the anchor. If
/// it arrives at the home network's bridge on the destination, the guest returns there, and its
/// interfaces in the description get these bridges. Otherwise it moves on. Fails with the error of
/// netlink or of the channel.
core::Task<core::Result<>> choose_return(SourceContext context, SourceAnchors& anchors);

}  // namespace sidecar
