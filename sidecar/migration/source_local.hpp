// The source's part in a guest's local addresses (netmove/local_address.hpp): which interface gets
// those that the operator has given, and what is known of its home network. Used by SourceNetwork.
#pragma once

#include "sidecar/anchor/source_anchors.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

/// The first interface that an anchor moves gets the local addresses: AnchorMove::local of the
/// description, which travels to the destination. Nothing to do if none were given. Fails with
/// refused.
core::Result<> note_local_choice(SourceContext const& context, SourceAnchors const& anchors);
/// Only a guest that an anchor moves away from home can have them. Fails with refused.
core::Result<> check_local_choice(SourceContext const& context, SourceAnchors const& anchors);
/// Continues the line about the interface of `migrate --check`.
std::string local_choice_text(netmove::LocalChoice const& local);

}  // namespace sidecar
