// DestinationSurvey: what this host says before a guest comes of what both hosts may share: images
// that it sees too, and bridges at which a frame arrives that the source sends from its own.
// Changes nothing.
#pragma once

#include <optional>
#include <vector>

#include "netmove/adjacency.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/destination_context.hpp"

namespace sidecar {

class DestinationSurvey {
public:
    explicit DestinationSurvey(DestinationContext context) : context_(context) {}

    /// Listens on one of the ports on which disks and RAM arrive, until `prepare`. A
    /// source that can connect to it can send them. Fails with refused if none is free.
    core::Result<protocol::DataPort> offer_port();
    void end_offer() { offered_.reset(); }
    /// Which images of the source are files that this host sees too, and lets guests use.
    [[nodiscard]] protocol::FindSharedAnswer find_shared(protocol::FindShared const& request) const;
    /// Listens from now on, instead of for an earlier request. Fails with the error of netlink.
    core::Result<protocol::SurveyAnswer> begin(protocol::Survey const& survey);
    /// Waits for what has not arrived yet, for limits::adjacency_wait.
    core::Task<core::Result<protocol::HeardAnswer>> heard();

private:
    struct Bridge {
        std::optional<netmove::AdjacencyListener> listener;  ///< None: it cannot be tested.
        bool heard = false;
    };

    DestinationContext context_;
    core::Fd offered_;  ///< Nothing is accepted: the kernel has connected the caller by then.
    std::uint64_t number_ = 0;  ///< Of the first bridge.
    std::vector<Bridge> bridges_;
};

}  // namespace sidecar
