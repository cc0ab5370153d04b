// DestinationAnchors: the destination's part in a move by an anchor. The `serve` of this host makes
// and holds the far ends of the guest's interfaces. For an interface whose anchor is on this host
// the guest returns home: its tap goes into the anchor's bridge, and the anchor ends with the
// migration. If its anchor is a stand-in on another host of the network that this host is in, its
// tap goes into the bridge of this host as without an anchor, and the source ends the stand-in.
#pragma once

#include <string>
#include <vector>

#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/migration/destination_context.hpp"

namespace sidecar {

class DestinationAnchors {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit DestinationAnchors(DestinationContext context) : context_(context) {}

    /// Adds what `serve` says to the answer of a check. Changes nothing, but answers a probe of the
    /// path for some seconds. Fails with refused if no `serve` answers.
    Outcome<> offer(Description const& description, std::optional<netmove::tunnel::Key> probe,
                    protocol::CheckAnswer& answer);
    /// From the source's `prepare`.
    void take(std::vector<netmove::tunnel::Key> tunnels, int anchor_port) {
        tunnels_ = std::move(tunnels);
        anchor_port_ = anchor_port;
    }
    /// Makes the far ends: the interfaces of the description get their bridges on this host.
    Outcome<> receive();
    /// The guest is owned here: its anchor ends, if it was on this host. Best effort.
    core::Task<void> end();
    /// UDP; 0: no tunnel leads here.
    [[nodiscard]] int tunnel_port() const { return tunnel_port_; }
    void restore(int tunnel_port) { tunnel_port_ = tunnel_port; }

private:
    DestinationContext context_;
    std::vector<netmove::tunnel::Key> tunnels_;
    int anchor_port_ = 0;
    int tunnel_port_ = 0;
};

/// Removes the far ends that a migration made. Best effort: what is left is replaced by the next
/// migration of the guest into this host, and removed by `sidecar anchor release`.
core::Task<void> leave_anchors(DestinationContext context, Description description,
                               std::string migration_id);

}  // namespace sidecar
