// The requests about anchors (sidecar/anchor/): to the `serve` that holds a guest's anchor, and
// from a process of this host to its own `serve`. Each names everything that it needs and may be
// repeated.
//
//   source's sidecar                                         who answers
//     anchor_probe {peer}                   ->   serve of the anchor     tests the path
//     anchor_where {guest}                  ->   serve of this host      is the guest anchored?
//     anchor_prepare {tunnels, peer}        ->   serve of the anchor     tunnel, path tested
//     anchor_point {tunnels}                ->   serve of the anchor     frames take this tunnel
//     anchor_keep {tunnels}                 ->   serve of the anchor     removes the other tunnels
//     anchor_stand_in {interfaces, peer}    ->   serve of a third host   can it be the anchor?
//     anchor_end_stand_in {tunnels}         ->   serve of a third host   it is the anchor no more
//   serve of the guest's host
//     anchor_end_away {tunnels}             ->   serve of the anchor     the guest needs it no more
//     anchor_leave {guest}                  ->   serve of this host      removes the far ends
//   destination's sidecar
//     anchor_offer, anchor_receive          ->   serve of this host      makes the far ends
//     anchor_leave {migration_id}           ->   serve of this host      of a dropped preparation
//     anchor_return {guest}                 ->   serve of this host      the guest is home again
//   commands
//     anchor_list, anchor_release           ->   serve of this host
#pragma once

#include "sidecar/channel/protocol.hpp"

namespace sidecar::protocol {

/// One interface of a guest, and a tunnel of its anchor.
struct AnchorEnd {
    netmove::MacAddress mac;
    std::uint64_t id = 0;  ///< Of the tunnel in use; 0: none.
    std::string tap = {};  ///< At the anchor, with anchor_prepare.
    int mtu = 1500;
    std::optional<netmove::tunnel::Key> key = {};  ///< Of the tunnel that is to be used.
    /// For the far end: the guest has these addresses here too, and `addresses` at home.
    std::optional<netmove::LocalChoice> local = {};
    std::vector<netmove::Address> addresses = {};
    /// For a stand-in, with anchor_prepare and anchor_point: the interface as it is at the source.
    /// The stand-in announces its addresses in its bridge.
    std::optional<netmove::GuestInterface> stand_in = {};
    std::string home_bridge = {};  ///< For the far end: AnchorMove::home_bridge.
    std::optional<netmove::PortSettings> home_port = {};  ///< For the far end; none: as new.
    /// The tunnel of `key` is in the kernel (--anchor-plane=vxlan); none: in user space.
    std::optional<netmove::AnchorVxlan> vxlan = {};
    [[nodiscard]] Json to_json() const;
    static Result<AnchorEnd> from_json(Json const& json);
};

/// What the test of the path to the other end found.
struct AnchorPath {
    std::uint64_t round_trip_us = 0;
    std::uint64_t datagram_max = 0;  ///< Bytes.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorPath> from_json(Json const& json);
};

/// Tests the path to a host where the guest may go, by a tunnel that carries nothing and is removed
/// before the answer.
struct AnchorProbe {
    static constexpr Verb verb = Verb::anchor_probe;
    using Answer = AnchorPath;
    std::string guest;
    netmove::tunnel::Endpoint peer;
    netmove::tunnel::Key key;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorProbe> from_json(Json const& json);
};

/// Makes the tunnels to the host where the guest is going, and tests the path. Before the first
/// move it takes the guest's taps: only a process of the anchor's own host may ask for that. For
/// ends with `stand_in` it makes a tap instead, and another host may ask.
struct AnchorPrepare {
    static constexpr Verb verb = Verb::anchor_prepare;
    using Answer = AnchorPath;
    std::string guest;
    std::string migration_id;
    netmove::tunnel::Endpoint peer;
    std::vector<AnchorEnd> ends;  ///< Each with the id of the tunnel in use, and the new key.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorPrepare> from_json(Json const& json);
};

/// From now on the guest's frames take the tunnel `id`; 0: they wait.
struct AnchorPoint {
    static constexpr Verb verb = Verb::anchor_point;
    using Answer = Nothing;
    std::string guest;
    std::vector<AnchorEnd> ends;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorPoint> from_json(Json const& json);
};

/// The tunnel `id` is the only one from now on; 0: the guest never left, and the anchor ends.
struct AnchorKeep {
    static constexpr Verb verb = Verb::anchor_keep;
    using Answer = Nothing;
    std::string guest;
    std::vector<AnchorEnd> ends;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorKeep> from_json(Json const& json);
};

struct AnchorStandInAnswer {
    int port = 0;  ///< TCP, of this `serve`.
    AnchorPath path;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorStandInAnswer> from_json(Json const& json);
};

/// Whether this host can be the anchor of a guest that runs on another host of its home network:
/// the bridges are here, and no interface or anchor is in the way. Tests the path to where the
/// guest may go, as AnchorProbe does. Changes nothing. Fails with refused; the sentence says what
/// "it", this host, lacks.
struct AnchorStandIn {
    static constexpr Verb verb = Verb::anchor_stand_in;
    using Answer = AnchorStandInAnswer;
    std::string guest;
    std::vector<netmove::GuestInterface> interfaces;  ///< As they are at the source.
    std::string destination_id;  ///< HostIdentity::id of where the guest may go; empty: not known.
    netmove::tunnel::Endpoint peer;
    netmove::tunnel::Key key;  ///< Of the tunnel that tests the path.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorStandIn> from_json(Json const& json);
};

/// The stand-in that has the tunnel `id` in use ends: the guest stays at home (0: it has not left),
/// or is back there.
struct AnchorEndStandIn {
    static constexpr Verb verb = Verb::anchor_end_stand_in;
    using Answer = Nothing;
    std::string guest;
    std::vector<AnchorEnd> ends;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorEndStandIn> from_json(Json const& json);
};

/// The guest runs elsewhere, behind the tunnel `id`, and needs its anchor no more: it ends. Asked
/// by the `serve` of the guest's host (--release-when-idle).
struct AnchorEndAway {
    static constexpr Verb verb = Verb::anchor_end_away;
    using Answer = Nothing;
    std::string guest;
    std::vector<AnchorEnd> ends;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorEndAway> from_json(Json const& json);
};

struct AnchorWhereAnswer {
    struct End {
        netmove::MacAddress mac;
        std::uint64_t id = 0;
        std::string home;  ///< HOST:PORT of the `serve` that holds the anchor; empty: not known.
        [[nodiscard]] Json to_json() const;
        static Result<End> from_json(Json const& json);
    };
    int serve_port = 0;  ///< TCP, of this host.
    std::vector<End> ends;  ///< The far ends of the guest on this host.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorWhereAnswer> from_json(Json const& json);
};

struct AnchorWhere {
    static constexpr Verb verb = Verb::anchor_where;
    using Answer = AnchorWhereAnswer;
    std::string guest;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorWhere> from_json(Json const& json);
};

struct AnchorOfferAnswer {
    int port = 0;  ///< UDP, of tunnels.
    std::vector<bool> here;  ///< Of each end: its anchor is on this host.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorOfferAnswer> from_json(Json const& json);
};

/// Whether this host can take part. Changes nothing; the other end of a probe stays for some
/// seconds.
struct AnchorOffer {
    static constexpr Verb verb = Verb::anchor_offer;
    using Answer = AnchorOfferAnswer;
    std::string guest;
    std::vector<AnchorEnd> ends;
    std::optional<netmove::tunnel::Key> probe = {};  ///< See AnchorProbe.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorOffer> from_json(Json const& json);
};

struct AnchorReceiveAnswer {
    int port = 0;  ///< UDP; 0: no tunnel was made, the guest returns home.
    std::vector<std::string> bridges;  ///< Of each end: the bridge for the guest's tap.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorReceiveAnswer> from_json(Json const& json);
};

/// Makes the far ends of a guest that comes here; for an end whose anchor is here, nothing.
struct AnchorReceive {
    static constexpr Verb verb = Verb::anchor_receive;
    using Answer = AnchorReceiveAnswer;
    std::string guest;
    std::string migration_id;
    int anchor_port = 0;  ///< TCP, of the `serve` that holds the anchor.
    std::vector<AnchorEnd> ends;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorReceive> from_json(Json const& json);
};

struct AnchorLeave {
    static constexpr Verb verb = Verb::anchor_leave;
    using Answer = Nothing;
    std::string guest;
    std::string migration_id;  ///< Only the far ends that it made; empty: all.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorLeave> from_json(Json const& json);
};

struct AnchorReturn {
    static constexpr Verb verb = Verb::anchor_return;
    using Answer = Nothing;
    std::string guest;
    [[nodiscard]] Json to_json() const;
    static Result<AnchorReturn> from_json(Json const& json);
};

using AnchorList = Bare<Verb::anchor_list, Document>;

struct AnchorRelease {
    static constexpr Verb verb = Verb::anchor_release;
    using Answer = Nothing;
    std::string guest;
    bool force = false;  ///< Also while the guest runs elsewhere through it.
    [[nodiscard]] Json to_json() const;
    static Result<AnchorRelease> from_json(Json const& json);
};

using FromAnchorSource = std::variant<AnchorProbe, AnchorPrepare, AnchorPoint, AnchorKeep,
                                      AnchorStandIn, AnchorEndStandIn, AnchorEndAway>;
using FromLocal =
    std::variant<AnchorProbe, AnchorPrepare, AnchorPoint, AnchorKeep, AnchorWhere, AnchorOffer,
                 AnchorReceive, AnchorLeave, AnchorReturn, AnchorList, AnchorRelease>;

}  // namespace sidecar::protocol
