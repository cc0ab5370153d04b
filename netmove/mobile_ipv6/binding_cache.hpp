// BindingCache: the home agent's decisions (RFC 6275 10, RFC 5555 4). It says for each Binding
// Update what is answered and what is done, and keeps the bindings. Pure: no descriptor; the time
// comes with each call. home_agent.hpp executes its actions.
//
//   first registration   start_detection; when the address is free: claim, route, answer
//   later updates        answer at once; route, if the care-of address changed
//   deregistration       unroute, release, answer
//   expiry               unroute, release
//
// Invariant: a binding changes only by an update of the one who may register its home address, with
// a sequence number that is newer modulo 2^16 than the last accepted one (9.5.1). The cost of a call
// does not grow with the number of bindings, save by the logarithm of its timers.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/json.hpp"
#include "core/loop.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

using TimePoint = core::Clock::time_point;

/// Bindings that one home agent keeps: a limit for memory, at about 300 bytes each.
constexpr std::size_t bindings_max = 65'536;
/// Home agents refuse nothing for its length; they grant at most this (RFC 6275 10.3.1 lets them).
constexpr std::chrono::seconds lifetime_max_s{3'600};
/// A binding without an update for so long before its end is asked for (Binding Refresh Request).
constexpr std::chrono::seconds refresh_request_before_s{20};
/// After a deregistration the last sequence number is kept so long, against updates that are late.
constexpr std::chrono::seconds memory_of_sequence_s{420};  // MAX_TOKEN_LIFETIME + some

/// Who may register which home address, from the operator's configuration.
struct Permission {
    Address home;  ///< IPv6.
    std::optional<Address> ipv4_home;  ///< RFC 5555; none: not allowed.
    /// Care-of addresses that may be used; empty: any. A prefix of the IPv6 Internet each.
    std::vector<std::pair<Address, int>> care_of_prefixes;
};

/// Where a binding's packets go.
struct CareOf {
    Address address;  ///< IPv6, or IPv4 (RFC 5555).
    std::uint16_t udp_port = 0;  ///< Of the NAT in front of it; 0: no UDP encapsulation.
    friend bool operator==(CareOf const&, CareOf const&) = default;
};

enum class BindingState : std::uint8_t {
    detecting,  ///< Duplicate address detection of the home address is under way.
    bound,
    released,  ///< Deregistered or expired: only the last sequence number is kept.
};

struct Binding {
    Address home;
    std::optional<Address> ipv4_home;
    CareOf care_of;
    BindingState state = BindingState::detecting;
    std::uint16_t sequence = 0;
    TimePoint expires{};
    TimePoint since{};  ///< When this care-of address was bound.
    std::uint64_t updates = 0;  ///< Accepted.
    bool link_local_compatible = false;
    bool key_management_mobility = false;
};

/// What the home agent is to do, in this order.
struct StartDetection {
    Address home;
};
struct Claim {  ///< Proxy on the home link: answer ND (and ARP) for it, announce it once.
    Address home;
    std::optional<Address> ipv4_home;
    bool link_local_compatible = false;
};
struct Release {  ///< No proxy any more. The station itself announces that it is back.
    Address home;
    std::optional<Address> ipv4_home;
    bool link_local_compatible = false;
};
struct Route {  ///< Packets for the home addresses go to `care_of` from now on.
    Address home;
    std::optional<Address> ipv4_home;
    CareOf care_of;
};
struct Unroute {
    Address home;
    std::optional<Address> ipv4_home;
};
struct Send {
    SignallingPacket packet;
    CareOf to;  ///< Where the datagram goes, if `to.address` is IPv4.
};
using HomeAgentAction = std::variant<StartDetection, Claim, Release, Route, Unroute, Send>;

/// How an update arrived.
struct Arrival {
    CareOf from;  ///< Source of the datagram: of the IPv6 header, or of IPv4 and UDP.
    bool over_udp = false;
    bool authenticated = false;  ///< By ESP, for this home address.
};

class BindingCache {
public:
    struct Options {
        Address agent;  ///< The home agent's address on the home link.
        Address home_prefix;  ///< Of the home link.
        int home_prefix_length = 64;
        std::vector<Permission> permissions;
        bool require_authentication = true;
    };
    explicit BindingCache(Options options);

    /// A Binding Update that arrived. Updates without the H flag are ignored with status 130-ish by
    /// no answer at all (no correspondent node here).
    std::vector<HomeAgentAction> handle(SignallingPacket const& packet, Arrival const& arrival,
                                        TimePoint now);
    /// Duplicate address detection has ended.
    std::vector<HomeAgentAction> detected(Address const& home, bool duplicate, TimePoint now);
    /// What has expired.
    std::vector<HomeAgentAction> expire(TimePoint now);
    /// When expire() is to be called; max: never.
    [[nodiscard]] TimePoint next_due() const;

    /// The binding of a packet's destination: an IPv6 or IPv4 home address. None: not bound.
    [[nodiscard]] Binding const* find(Address const& home) const;
    [[nodiscard]] std::size_t size() const;

    // For durability: what is written, and read after a restart (remaining lifetimes, wall clock).
    [[nodiscard]] core::Json to_json(TimePoint now, std::chrono::system_clock::time_point wall) const;
    core::Result<std::vector<HomeAgentAction>> restore(core::Json const& json, TimePoint now,
                                                       std::chrono::system_clock::time_point wall);
};

}  // namespace netmove::mobile_ipv6
