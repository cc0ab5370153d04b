// The gateway of a guest's home network, as a host of another network answers for it when the
// guest's anchor has ended (local_address.hpp). The guest keeps its default routes, and this host
// takes what it sends there. Used by the far end of an anchor.
//
//   GatewayWatcher    while the anchor is there: who answered for which address
//   HomeGateways      what was learned; recorded, so that a restart forgets nothing
//   GatewayResponder  afterwards: answers ARP requests, neighbour and router solicitations for the
//                     gateways, with the MAC addresses that the guest knows, and repeats the last
//                     router advertisement before its lifetime ends
//
// A gateway is a station that the guest has sent packets for other networks to, or that has
// advertised itself as a router. For other stations of the home network nobody answers.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/task.hpp"
#include "netmove/frame.hpp"
#include "netmove/tap.hpp"

namespace netmove {

/// Gateways and routers of one guest: a network has one or two of each.
constexpr std::size_t home_gateways_max = 16;
/// Stations of the home network that are remembered, because one of them may be a gateway.
constexpr std::size_t home_neighbours_max = 256;
/// A router advertisement fits into one frame without fragments (RFC 4861 6.2).
constexpr std::size_t router_message_bytes_max = 1'500;
/// How often the advertisement is repeated at most, and at least: a third of its lifetime between
/// these. (RFC 4861 6.2.1: a router waits for 3 s to 1,800 s.)
constexpr core::seconds advertisement_interval_min{5};
constexpr core::seconds advertisement_interval_max{200};

class HomeGateways {
public:
    struct Neighbour {
        Address address;
        MacAddress mac;
        friend bool operator==(Neighbour const&, Neighbour const&) = default;
    };
    /// An IPv6 router that has advertised itself.
    struct Router {
        Neighbour at;
        Bytes message;  ///< Its last advertisement, from the ICMPv6 type on.
        [[nodiscard]] core::seconds lifetime() const;
        friend bool operator==(Router const&, Router const&) = default;
    };

    /// What a frame on the guest's wire proves about stations of its home network. Untagged frames
    /// only. Whatever the bytes are, parsing stays inside them.
    void learn(EthernetFrame const& frame, MacAddress const& guest);
    /// The guest sends packets for other networks to this station.
    void note_used(MacAddress const& mac);

    /// Some station is known to be a gateway: the guest has used it here.
    [[nodiscard]] bool used() const { return !used_.empty(); }
    /// The address and the MAC address of a gateway of that family are known.
    [[nodiscard]] bool knows(Address::Family family) const;
    [[nodiscard]] std::vector<Neighbour> gateways() const;
    [[nodiscard]] std::vector<Router> const& routers() const { return routers_; }

    /// What the gateways answer to a frame of the guest.
    [[nodiscard]] std::vector<Bytes> answers(EthernetFrame const& frame,
                                             MacAddress const& guest) const;
    /// The advertisements of all routers.
    [[nodiscard]] std::vector<Bytes> advertisements() const;
    /// The pause between two rounds of them; none: there are no routers.
    [[nodiscard]] std::optional<core::seconds> interval() const;

    /// The gateways; not what else was remembered.
    [[nodiscard]] core::Json to_json() const;
    static core::Result<HomeGateways> from_json(core::Json const& json);

private:
    void note(Neighbour neighbour);
    void note_router(Neighbour at, ByteView message);
    void learn_arp(EthernetFrame const& frame, MacAddress const& guest);
    void learn_ipv6(EthernetFrame const& frame, MacAddress const& guest);
    [[nodiscard]] bool is_gateway(Neighbour const& one) const;

    std::vector<MacAddress> used_;
    std::vector<Neighbour> neighbours_;  ///< The one heard of last comes last.
    std::vector<Router> routers_;
};

/// Hears ARP and neighbour discovery of the guest's wire, both ways.
class GatewayWatcher {
public:
    /// `tap`: of the tunnel. Needs CAP_NET_RAW.
    static core::Result<GatewayWatcher> open(std::string const& tap);
    /// Adds what has come since the last call. Does not wait.
    void take_in(HomeGateways& into, MacAddress const& guest);
    /// Asks the routers of the home network to advertise themselves. `own`: the sender's address.
    core::Result<> ask_routers(MacAddress const& own);

private:
    explicit GatewayWatcher(core::Fd socket) : socket_(std::move(socket)) {}
    core::Fd socket_;
};

/// Reads `tap` in the place of the tunnel; what is not for it is dropped.
class GatewayResponder {
public:
    /// `tap` must outlive it.
    GatewayResponder(core::Loop& loop, Tap const& tap, MacAddress guest, HomeGateways gateways)
        : loop_(loop), tap_(tap), guest_(guest), gateways_(std::move(gateways)) {}
    /// Until stopped. One at a time.
    core::Task<void> run(std::stop_token token);
    [[nodiscard]] std::uint64_t answered() const { return answered_; }

private:
    /// Whether more waits.
    core::Result<bool> answer_some();
    void advertise();

    core::Loop& loop_;
    Tap const& tap_;
    MacAddress guest_;
    HomeGateways gateways_;
    std::vector<std::uint8_t> buffer_ = std::vector<std::uint8_t>(tap_frame_max);
    std::uint64_t answered_ = 0;
};

}  // namespace netmove
