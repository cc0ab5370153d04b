// Whether the bridges of both hosts are in one L2 network, found out before anything is touched:
// the source sends a frame from each of its bridges, and the destination says which have arrived.
// Used by SourceNetwork, which decides what follows from it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sidecar/migration/source_context.hpp"

namespace sidecar {

/// A bridge of this host, and the name that the destination knows its network by.
struct BridgeToSurvey {
    std::string here;
    std::string asked_for;  ///< The destination's maps are applied to it.
};

/// One bridge of the guest's, and what the destination has for it.
struct SurveyedBridge {
    std::string here;
    std::vector<std::string> subnets_here;  ///< "192.0.2.0/24".
    std::string there;  ///< Empty: the destination has none.
    std::vector<std::string> subnets_there;
    std::optional<bool> adjacent;  ///< A frame arrived, or none did; none: it was not tested.
    int frames_sent = 0;

    /// Why both are not in one network; empty: nothing says so. Without a test their subnets tell.
    [[nodiscard]] std::string why_apart() const;
};

/// The destination must have Feature::anchor. Sends up to limits::adjacency_tries frames from each
/// bridge. Fails with the error of netlink or of the channel.
core::Task<core::Result<std::vector<SurveyedBridge>>> survey_bridges(
    SourceContext context, std::vector<BridgeToSurvey> bridges);

}  // namespace sidecar
