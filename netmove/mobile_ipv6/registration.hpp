// The mobile node's decisions (RFC 6275 11.7 and 11.8, RFC 5555 4.2), for a guest that knows
// nothing of them. One machine on each host; while the guest moves, each has its part. Pure: it
// sees no clock and no descriptor, and the time comes with each event. What acts for it sends the
// updates and sets one timer, at State::due.
//
//   Begin       source: the guest is registered here, and refreshed
//   GiveAway    source, at STOP: it sends nothing any more
//   TakeOver    destination, at STOP: it registers its own care-of address, with numbers of the
//               source
//   Committed   both: the destination alone goes on; the source has ended
//   RolledBack  both: the source registers itself again; the destination has ended
//
// Invariant: at any moment one host may send, and it is in State::right. What a destination sends
// before COMMIT is older than anything that the source sends after a rollback, for the home agent
// too. So the binding is in the end where the guest is, whatever the network does to the messages.
//
// Why a rollback wins. The source gives its last number s away, and allows the destination n
// numbers (HandOver::updates_max). Before COMMIT the destination uses s+1 to s+n, each once,
// whatever it hears. The source goes on with s+n+1. A home agent takes only newer numbers (9.5.1),
// so after that update none of the destination's counts, be it late or sent once more by a
// destination that has not heard of the rollback. n+1 is enough, and far from 32,768, where numbers
// would look old.
//
// Deviations from RFC 6275:
// - Retransmissions follow the measured round trip (RFC 6298), not one second and more (11.8):
//   while no answer comes, packets for the guest take a longer path. At most fast_updates_max of
//   them, at least retransmit_min apart, doubling; then one every retransmit_slow.
// - So there are more than three updates a second (MAX_UPDATE_RATE), for a moment.
// - A guest that returns home is deregistered after COMMIT, not at STOP: a registration that had to
//   come back would wait a second for the home agent's detection. The source forwards meanwhile.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "core/deadline.hpp"
#include "core/json.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6::registration {

using TimePoint = core::Clock::time_point;
using Interval = std::chrono::microseconds;

/// Shorter the first interval never is: the scheduling of two hosts and their home agent.
constexpr Interval retransmit_min = std::chrono::milliseconds(20);
/// Intervals double up to this, or to the first one if that is longer.
constexpr Interval retransmit_max = std::chrono::seconds(1);
/// After fast_updates_max (RFC 6275 12: MAX_BINDACK_TIMEOUT).
constexpr Interval retransmit_slow = std::chrono::seconds(32);
/// Before a round trip was measured (RFC 6275 12: INITIAL_BINDACK_TIMEOUT); of a first
/// registration, which waits for the home agent's detection (InitialBindackTimeoutFirstReg).
constexpr Interval first_interval = std::chrono::seconds(1);
constexpr Interval first_interval_detection = std::chrono::milliseconds(1'500);
/// Updates without an answer before the home agent is called unreachable: 11 s and more.
constexpr unsigned fast_updates_max = 16;
/// Numbers that a destination may use before COMMIT: as many as one quick attempt takes.
constexpr unsigned provisional_updates_max = fast_updates_max;
/// After a refusal: its cause is a setting or a station, and takes an operator.
constexpr Interval refused_retry = std::chrono::seconds(60);
/// Refreshes are at least so far apart, whatever the home agent advises; also what unprotected
/// messages can cause: a Binding Error, a Binding Refresh Request.
constexpr Interval refresh_min = std::chrono::seconds(2);
/// An answer that took longer may have waited for duplicate address detection, which takes a second
/// (RFC 4862 5.1): it is measured once more.
constexpr Interval detection_suspected = std::chrono::milliseconds(900);
/// NatDetection::refresh_s is 0: RFC 5555 10, NATKATIMEOUT.
constexpr Interval nat_refresh_default = std::chrono::seconds(110);
/// Longer round trips are not believed of a record.
constexpr Interval round_trip_max = std::chrono::seconds(60);

/// A guest's interface as a mobile node: the same on each host.
struct MobileNode {
    Address home{};  ///< IPv6.
    std::optional<Address> ipv4_home{};  ///< Asked for with it (RFC 5555).
    Address agent{};  ///< The home agent, IPv6.
    std::optional<Address> ipv4_agent{};  ///< Its address for hosts in IPv4 networks.
    LifetimeUnits lifetime{150};  ///< Asked for. 600 s.
    /// The guest's link-local address has the same interface identifier (L).
    bool link_local_compatible = false;
    bool key_management_mobility = false;  ///< K: IKE protects the signalling.
    friend bool operator==(MobileNode const&, MobileNode const&) = default;
};

/// A host as the home agent sees it.
struct Place {
    Address address{};  ///< The care-of address, IPv6 or IPv4. At home: the host's, IPv6.
    bool at_home = false;  ///< The guest's interface is on its home link here.
    bool force_udp = false;  ///< F, where `address` is IPv4: UDP even without a NAT.
    friend bool operator==(Place const&, Place const&) = default;
};

/// RFC 6298 2: of updates and their answers. An answer names its update, so each one can be used.
struct RoundTrip {
    Interval smoothed{};
    Interval variation{};

    /// The estimate after one more measurement; `before`: none yet.
    [[nodiscard]] static RoundTrip with(std::optional<RoundTrip> const& before, Interval measured);
    /// How long to wait for an answer, at least retransmit_min.
    [[nodiscard]] Interval timeout() const;
    friend bool operator==(RoundTrip const&, RoundTrip const&) = default;
};

/// What the source gives the destination.
struct HandOver {
    MobileNode node{};
    std::uint16_t sequence = 0;  ///< The last number that was used.
    unsigned updates_max = provisional_updates_max;  ///< Numbers the destination may use at first.
    std::chrono::milliseconds bound_for{};  ///< What is left of the binding; 0: there is none.
    std::optional<RoundTrip> round_trip{};

    [[nodiscard]] core::Json to_json() const;
    /// Fails with invalid, naming what cannot be.
    static core::Result<HandOver> from_json(core::Json const& json);
    /// The last number that any host may have used: what a source begins with that has lost its
    /// machine after it had given this record.
    [[nodiscard]] std::uint16_t last_sequence() const {
        return static_cast<std::uint16_t>(sequence + updates_max);
    }
    friend bool operator==(HandOver const&, HandOver const&) = default;
};

/// The granularity of RFC 6298 2 (G): what the hosts' scheduling may add to a round trip.
constexpr Interval round_trip_granularity = std::chrono::milliseconds(10);

/// Whether this host may send.
enum class Right : std::uint8_t {
    none,  ///< Not begun.
    held,  ///< It alone may.
    given,  ///< It gave it away. Only a rollback brings it back.
    provisional,  ///< Before COMMIT: HandOver::updates_max updates, and no more.
    ended,  ///< Another host has it for good.
};

enum class Phase : std::uint8_t {
    idle,  ///< There is nothing to send.
    updating,  ///< An update waits for its answer.
    settled,  ///< The home agent has accepted.
    /// For the next try, or for COMMIT: State::outcome says why.
    waiting,
};

/// What is to be reached at the home agent.
enum class Target : std::uint8_t { binding, no_binding };

/// How it stands. Tell reports it whenever it changes.
struct Outcome {
    enum class Kind : std::uint8_t {
        none,
        pending,  ///< Nothing was answered yet, or COMMIT is waited for.
        at_home,  ///< There is no binding, and none is needed.
        registered,
        unreachable,  ///< No answer to fast_updates_max updates. It is tried further, slowly.
        refused,  ///< `status` says why. It is tried again, slowly.
        unsupported,  ///< It knows no Binding Updates (Binding Error 2). As refused.
        /// A destination before COMMIT: the home agent has a newer number, as after a rollback that
        /// was not heard of. Nothing is sent before COMMIT.
        superseded,
        moved,  ///< The guest and its registration belong to another host.
    };
    Kind kind = Kind::none;
    std::optional<BindingStatus> status{};  ///< With refused.
    // With registered:
    LifetimeUnits lifetime{0};  ///< Granted.
    std::optional<Ipv4Acknowledgement> ipv4_home{};  ///< None: the home agent did not answer it.
    std::optional<NatDetection> nat{};  ///< A NAT was found, or UDP is required.
    friend bool operator==(Outcome const&, Outcome const&) = default;
};

struct State {
    MobileNode node{};
    Place place{};
    Right right = Right::none;
    Phase phase = Phase::idle;
    Target target = Target::binding;
    Outcome outcome{};
    std::uint16_t sequence = 0;  ///< Of the last update that was sent, by any host.
    std::uint16_t first = 0;  ///< Of the first update with this content: see Phase::updating.
    unsigned updates = 0;  ///< Sent since the intervals began anew.
    unsigned provisional_left = 0;  ///< What may still be sent before COMMIT.
    unsigned updates_max = 0;  ///< Numbers that a destination may use before COMMIT.
    bool resynchronised = false;  ///< The number of a status 135 was taken.
    bool detects = false;  ///< The home agent may have no binding: its answer is late.
    bool measures = false;  ///< Sent to measure the round trip.
    std::optional<RoundTrip> round_trip{};
    TimePoint bound_until{};  ///< The end of the home agent's binding, as far as is known.
    TimePoint prompted{};  ///< When a message that is not an answer last caused an update.
    TimePoint due = TimePoint::max();  ///< When Due is to come; max: never.
    std::array<TimePoint, fast_updates_max> sent{};  ///< By number, modulo its size.
    friend bool operator==(State const&, State const&) = default;
};

// ---- events -------------------------------------------------------------------------------------

/// The first host. `sequence`: the last number used; a random one, if none is known. A guest at
/// home is not registered.
struct Begin {
    MobileNode node{};
    Place place{};
    std::uint16_t sequence = 0;
    /// What a destination is given: HandOver::updates_max.
    unsigned updates_max = provisional_updates_max;
};
/// A move is near: renew the binding, and measure the round trip, before the record is asked for.
struct Refresh {};
/// Source, at STOP: Give follows, and nothing is sent any more.
struct GiveAway {};
/// Destination, at STOP.
struct TakeOver {
    HandOver record{};
    Place place{};
};
struct Committed {};
struct RolledBack {};
/// From the home agent, for this home address, and protected where the signalling is.
struct Arrived {
    Message message{};
};
/// State::due has come.
struct Due {};
using Event = std::variant<Begin, Refresh, GiveAway, TakeOver, Committed, RolledBack, Arrived, Due>;

// ---- actions ------------------------------------------------------------------------------------

/// To the home agent; over IPv4 and UDP if the care-of address is IPv4.
struct SendUpdate {
    SignallingPacket packet{};
};
struct Give {
    HandOver record{};
};
struct Tell {
    Outcome outcome{};
};
/// The guest is at home again: its addresses are announced on the home link (RFC 6275 11.5.5).
struct AnnounceHome {};
/// The home agent did not move the keys of IKE (K): they are to be agreed again (11.7.3).
struct RenewKeys {};
using Action = std::variant<SendUpdate, Give, Tell, AnnounceHome, RenewKeys>;

struct Step {
    State state{};
    std::vector<Action> actions{};  ///< In order.
};

/// One transition: pure, and total (an event that means nothing in a state changes nothing).
[[nodiscard]] Step step(State const& state, Event const& event, TimePoint now);

/// The update that the state's place sends, with its last number.
[[nodiscard]] SignallingPacket update_of(State const& state);

[[nodiscard]] std::string_view name(Right right);
[[nodiscard]] std::string_view name(Phase phase);
[[nodiscard]] std::string_view name(Outcome::Kind kind);

}  // namespace netmove::mobile_ipv6::registration
