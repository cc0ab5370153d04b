// BindingCache: the home agent's decisions (RFC 6275 9.5, 10; RFC 5555 4). It says for each Binding
// Update what is answered and what is done, and keeps the bindings. Pure: no descriptor; the time
// comes with each call. home_agent.hpp executes its actions.
//
//   first registration   start_detection; when the address is free: claim, route, answer
//   later updates        answer at once; route, if the care-of address changed
//   deregistration       unroute, release, answer
//   expiry               unroute, release
//
// Invariant: a binding changes only by an update of the one who may register its home address, with
// a sequence number that is newer modulo 2^16 than the last one of that home address (9.5.1). The
// cost of a call does not grow with the number of bindings, save by the logarithm of its timers.
//
// Where the RFC leaves a choice, or is not followed:
// - A repetition of the last accepted update, with its number, is answered again and changes
//   nothing (9.5.1 would refuse it with 135). So a datagram that the network doubled does no harm.
// - The number outlives the binding: for memory_of_sequence_s a new registration must be newer than
//   the last number (9.5.1 accepts any). A late old update cannot bind an address that was
//   released. A mobile node that has lost its number gets 135 with the last one, and goes on from
//   there.
// - An update that is not authenticated is not answered, so no stranger learns from the answer
// which
//   addresses exist. One without H would be of a correspondent node, which this is not: it is not
//   answered either, unless it would change a binding (139).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "core/deadline.hpp"
#include "core/json.hpp"
#include "netmove/mobile_ipv6/address_hash.hpp"
#include "netmove/mobile_ipv6/packet.hpp"
#include "netmove/mobile_ipv6/sequence.hpp"

namespace netmove::mobile_ipv6 {

using TimePoint = core::Clock::time_point;
using WallTime = std::chrono::system_clock::time_point;

/// Bindings that one home agent keeps, those included of which only the sequence number is left: a
/// limit for memory, at about 500 bytes each.
constexpr std::size_t bindings_max = 65'536;
/// Home agents refuse nothing for its length; they grant at most this (RFC 6275 10.3.1 lets them).
constexpr std::chrono::seconds lifetime_max_s{3'600};
/// A binding without an update for so long before its end is asked for (Binding Refresh Request),
/// once. Not asked for are bindings of less than twice this time.
constexpr std::chrono::seconds refresh_request_before_s{20};
/// After a binding's end the last sequence number is kept so long, against updates that are late.
/// It is three times the life of an IP packet (120 s, RFC 9293 3.4.1), and a minute for its sender.
constexpr std::chrono::seconds memory_of_sequence_s{420};
/// A mobile node behind a NAT sends a keepalive this often (RFC 5555 10: NATKATIMEOUT).
constexpr std::uint32_t nat_keepalive_s = 110;
/// NatDetection::refresh_s: no keepalives are needed (RFC 5555 3.2.2).
constexpr std::uint32_t nat_keepalive_none = 0xffff'ffff;
/// One call of expire() ends so many bindings at most: others wait meanwhile.
constexpr std::size_t expire_batch_max = 1'000;

/// Whether the first `length` bits of both addresses are equal. False for two families.
[[nodiscard]] bool is_within(Address const& address, Address const& prefix, int length);

/// Who may register which home address, from the operator's configuration. Each home address has
/// one credential: Arrival::authenticated says that the update came under that one.
struct Permission {
    Address home;  ///< IPv6.
    std::optional<Address> ipv4_home{};  ///< RFC 5555; none: not allowed.
    /// Care-of addresses that may be used: prefixes of either family; empty: any.
    std::vector<std::pair<Address, int>> care_of_prefixes{};
};

/// Where a binding's packets go.
struct CareOf {
    Address address{};  ///< IPv6, or IPv4 (RFC 5555). Of a NAT, if one is in front of the host.
    std::uint16_t udp_port = 0;  ///< IPv4 only: where UDP goes; 0: no UDP encapsulation.
    friend bool operator==(CareOf const&, CareOf const&) = default;
};

enum class BindingState : std::uint8_t {
    detecting,  ///< Duplicate address detection of the home address is under way.
    bound,
    released,  ///< Deregistered, expired or never bound: only the last sequence number is kept.
};

struct Binding {
    Address home{};
    std::optional<Address> ipv4_home{};
    CareOf care_of{};
    BindingState state = BindingState::detecting;
    std::uint16_t sequence = 0;  ///< Of the last update that was accepted, or waits for detection.
    LifetimeUnits lifetime{0};  ///< Granted with that update.
    TimePoint expires{};  ///< released: when the sequence number is forgotten.
    TimePoint since{};  ///< When this care-of address was bound.
    std::uint64_t updates = 0;  ///< Accepted.
    bool link_local_compatible = false;
    /// What the mobile node asked for. It is answered "no": there is no IKE here to move.
    bool key_management_mobility = false;
};

/// What the home agent is to do, in this order. Before an answer is sent, what it says must be
/// durable: else a restart would forget a binding that the mobile node relies on.

/// Look for another station with these addresses, then call detected(), once.
struct StartDetection {
    Address home{};
    std::optional<Address> ipv4_home{};
    bool link_local_compatible = false;
};
struct Claim {  ///< Proxy on the home link: answer ND (and ARP) for it, announce it once.
    Address home{};
    std::optional<Address> ipv4_home{};
    bool link_local_compatible = false;
};
struct Release {  ///< No proxy any more. The station itself announces that it is back.
    Address home{};
    std::optional<Address> ipv4_home{};
    bool link_local_compatible = false;
};
struct Route {  ///< Packets for the home addresses go to `care_of` from now on.
    Address home{};
    std::optional<Address> ipv4_home{};
    CareOf care_of{};
};
struct Unroute {
    Address home{};
    std::optional<Address> ipv4_home{};
};
struct Send {
    SignallingPacket packet{};
    CareOf to{};  ///< Where the datagram goes, if `to.address` is IPv4: UDP, always.
};
using HomeAgentAction = std::variant<StartDetection, Claim, Release, Route, Unroute, Send>;

/// How an update arrived.
struct Arrival {
    CareOf from{};  ///< Source of the datagram: of the IPv6 header, or of IPv4 and UDP.
    bool over_udp = false;  ///< Over an IPv4 network.
    bool authenticated = false;  ///< By ESP, with the credential of this home address.
};

class BindingCache {
public:
    struct Options {
        Address agent{};  ///< The home agent's address on the home link.
        Address home_prefix{};  ///< Of the home link.
        int home_prefix_length = 64;
        std::vector<Permission> permissions{};
        bool require_authentication = true;
        std::chrono::seconds lifetime_max = lifetime_max_s;
        /// The answer advises a refresh after this time (RFC 6275 6.2.4), if the node was granted
        /// more. For a planned restart, say. None: they decide.
        std::optional<std::chrono::seconds> refresh_advice{};
        std::size_t bindings_limit = bindings_max;

        /// Fails with invalid, naming the address: it is of the wrong family, outside of the home
        /// prefix, given twice or the agent's; a prefix length that its family does not have; more
        /// permissions than bindings_max.
        [[nodiscard]] core::Result<> validate() const;
    };
    /// `options` are valid: see validate().
    explicit BindingCache(Options options);

    /// A Binding Update that arrived.
    std::vector<HomeAgentAction> handle(SignallingPacket const& packet, Arrival const& arrival,
                                        TimePoint now);
    /// The detection that StartDetection asked for has ended. `duplicate`: another station has one
    /// of the addresses.
    std::vector<HomeAgentAction> detected(Address const& home, bool duplicate, TimePoint now);
    /// What has expired; expire_batch_max of it: next_due() says when to call again.
    std::vector<HomeAgentAction> expire(TimePoint now);
    /// When expire() is to be called; max: never.
    [[nodiscard]] TimePoint next_due() const;

    /// The binding of a packet's destination: an IPv6 or IPv4 home address. None: not bound. Valid
    /// until the next call that is not const.
    [[nodiscard]] Binding const* find(Address const& home) const;
    /// Bindings in the state `bound`.
    [[nodiscard]] std::size_t size() const { return bound_; }
    /// Bindings of any state, ordered by home address: for a status. Valid as find()'s.
    [[nodiscard]] std::vector<Binding const*> all() const;

    struct Counters {
        std::uint64_t accepted = 0;  ///< Updates; repetitions are counted each time.
        std::uint64_t refused = 0;  ///< Answered with a status of 128 or more.
        std::uint64_t ignored = 0;  ///< Not answered.
    };
    [[nodiscard]] Counters const& counters() const { return counters_; }

    // Durability. Times are kept as wall clock, because no other survives a restart.

    /// All bindings and remembered sequence numbers: {"version": 1, "bindings": [record, ...]}.
    [[nodiscard]] core::Json to_json(TimePoint now, WallTime wall) const;
    /// The record of one home address, for a log that is written after each change; null: there is
    /// nothing to remember. Of two records of an address the later one counts.
    [[nodiscard]] core::Json record(Address const& home, TimePoint now, WallTime wall) const;
    /// After a restart, before anything else. Returns the actions that claim and route what is
    /// still bound. Records of addresses that are no longer permitted are skipped. A wall clock
    /// that was set back cannot make a lifetime longer than the one granted. Fails with invalid,
    /// and is then empty as before.
    core::Result<std::vector<HomeAgentAction>> restore(core::Json const& json, TimePoint now,
                                                       WallTime wall);

private:
    /// Where the answer to an update goes (RFC 6275 9.5.4).
    struct ReplyTo {
        Address source{};  ///< Of the update's IPv6 header.
        CareOf datagram{};  ///< Source of its datagram.
    };
    struct Request;
    struct Entry {
        Binding binding{};
        /// The update that binding.sequence is of; none after a restart.
        std::optional<BindingUpdate> update{};
        ReplyTo reply{};
        std::optional<Ipv4Acknowledgement> ipv4_answer{};
        std::optional<NatDetection> nat{};
        bool detection_runs = false;  ///< One at a time for an address, whatever becomes of it.
        bool refresh_requested = false;
        TimePoint due = TimePoint::max();  ///< Its timer.
    };
    using Actions = std::vector<HomeAgentAction>;

    [[nodiscard]] Entry* entry_of(Address const& home);
    [[nodiscard]] std::optional<BindingStatus> refusal(Request const& request,
                                                       Entry const* entry) const;
    [[nodiscard]] std::optional<BindingStatus> care_of_refusal(Permission const& permission,
                                                               Address const& care_of) const;
    Actions refuse(Request const& request, BindingStatus status, std::uint16_t sequence);
    Actions answer_again(Entry const& entry);
    Actions deregister(Request const& request, Entry* entry, TimePoint now);
    Actions register_home(Request const& request, Entry* entry, TimePoint now);
    void end(Entry& entry, TimePoint now, Actions& actions);
    void change(Entry& entry, Binding const& before, TimePoint now, Actions& actions);
    void take(Entry& entry, Request const& request, TimePoint now);
    void expire_one(Entry& entry, TimePoint now, Actions& actions);
    void set_state(Entry& entry, BindingState state);
    void set_timer(Entry& entry, TimePoint now);
    void send_accepted(Entry const& entry, Actions& actions) const;
    [[nodiscard]] Send answer(ReplyTo const& to, Address const& home,
                              BindingAcknowledgement const& message) const;
    [[nodiscard]] core::Json record_of(Entry const& entry, TimePoint now, WallTime wall) const;
    [[nodiscard]] core::Result<std::optional<Entry>> read_record(core::Json const& json,
                                                                 TimePoint now,
                                                                 WallTime wall) const;

    Options options_;
    std::unordered_map<Address, Permission, AddressHash> permissions_;
    std::unordered_map<Address, Address, AddressHash> ipv4_homes_;  ///< To the IPv6 one; permitted.
    std::unordered_map<Address, Entry, AddressHash> entries_;
    std::set<std::pair<TimePoint, Address>> timers_;
    std::size_t bound_ = 0;
    Counters counters_;
};

}  // namespace netmove::mobile_ipv6
