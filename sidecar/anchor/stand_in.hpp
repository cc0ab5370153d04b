// StandIn: a tap that takes a guest's place in a bridge of this host, which is in the guest's home
// network, while the guest runs in another one. The guest was on a third host. Used by HomeEnds,
// which makes the tap and holds it as an anchor.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "core/loop.hpp"
#include "netmove/bridge_mover.hpp"
#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Announces the guest at that tap, as the destination's half of the bridge mover does.
class StandIn {
public:
    /// `netlink` and `tap` must outlive it. `here`: as stood_in_here() says.
    StandIn(core::Loop& loop, netmove::Netlink& netlink, netmove::Tap const& tap,
            netmove::GuestInterface const& here)
        : mover_(netmove::bridge_mover_destination(loop, netlink, tap, here)) {}

    /// While the guest is at home: nothing is flooded to the tap, and its ring is empty. Fails with
    /// refused or timed_out if the bridge cannot have the tap.
    core::Task<core::Result<>> prepare();
    /// The guest's place is here from now on. `now`: its addresses, if others were learned since
    /// prepare(). Does not suspend; may be repeated. Fails with netlink.
    core::Result<> announce(std::optional<netmove::GuestInterface> const& now);
    /// The guest stays at home. Does not suspend; the log has what fails.
    void withdraw();
    /// Announces it again after announce(), for a switch or host that lost that: once. It ends
    /// early after end().
    core::Task<void> announce_again();
    void end() { ended_.request_stop(); }

private:
    std::unique_ptr<netmove::Mover> mover_;
    bool to_repeat_ = false;
    std::stop_source ended_;
};

/// The guest's interface with this host's names: of the stand-in's tap, and of the bridge.
netmove::GuestInterface stood_in_here(HostMaps const& maps, std::string const& guest,
                                      netmove::GuestInterface interface);
/// Whether this host can stand in for an interface of a guest of another host. Fails with refused:
/// a sentence about "it", this host. Changes nothing.
core::Result<> check_stand_in_here(netmove::Netlink& netlink, HostMaps const& maps,
                                   Paths const& paths, std::string const& guest,
                                   netmove::GuestInterface const& at_source);

}  // namespace sidecar
