// A home agent for unit tests: a BindingCache, what arrives at it, and its clock. Used by the tests
// of the binding cache. Invariant: time passes only by wait().
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>

#include "netmove/mobile_ipv6/binding_cache.hpp"
#include "tests/support/mobile_ipv6_bytes.hpp"

namespace home_agent {

using namespace netmove;
using namespace netmove::mobile_ipv6;
using namespace std::chrono_literals;
using mobile::ip;

using Actions = std::vector<HomeAgentAction>;

inline Address const agent = ip("2001:db8:1::1");
inline Address const home = ip("2001:db8:1::100");
inline Address const source = ip("2001:db8:2::1");  ///< A care-of address.
inline Address const destination = ip("2001:db8:3::1");  ///< Another one.
inline Address const ipv4_home = ip("192.0.2.100");
inline Address const nat = ip("203.0.113.9");
inline Address const private_host = ip("10.0.0.7");

inline BindingCache::Options options() {
    return {
        .agent = agent,
        .home_prefix = ip("2001:db8:1::"),
        .permissions = {{.home = home, .ipv4_home = ipv4_home},
                        {.home = ip("2001:db8:1::101")},
                        {.home = ip("2001:db8:1::102"),
                         .care_of_prefixes = {{ip("2001:db8:2::"), 48}, {ip("203.0.113.0"), 24}}}}};
}

/// A home agent, what arrives at it, and its clock.
struct HomeAgent {
    BindingCache cache{options()};
    TimePoint now = TimePoint{} + 1000s;
    WallTime wall = WallTime{} + std::chrono::hours(500'000);

    Actions arrives(BindingUpdate const& update, Address const& from, Address const& of = home) {
        SignallingPacket const packet{.source = from,
                                      .destination = agent,
                                      .home_option = from == of ? std::nullopt : std::optional(of),
                                      .message = update};
        return cache.handle(packet, {.from = {from, 0}, .authenticated = true}, now);
    }
    /// Over an IPv4 network: the inner IPv6 header is from the home address (RFC 5555 4.4).
    Actions arrives_over_ipv4(BindingUpdate const& update, CareOf const& from) {
        SignallingPacket const packet{.source = home, .destination = agent, .message = update};
        return cache.handle(packet, {.from = from, .over_udp = true, .authenticated = true}, now);
    }
    Actions free(Address const& of = home) { return cache.detected(of, false, now); }
    /// Registered at `from` with this number.
    void bound(Address const& from, std::uint16_t sequence, Address const& of = home);
    /// Time passes, and with it what expires.
    Actions wait(core::Clock::duration time) {
        now += time;
        wall += std::chrono::duration_cast<WallTime::duration>(time);
        return cache.expire(now);
    }
    [[nodiscard]] Address place(Address const& of = home) const {
        auto const* const binding = cache.find(of);
        return binding == nullptr ? Address() : binding->care_of.address;
    }
};

inline BindingUpdate update(std::uint16_t sequence, Address const& care_of,
                            std::uint16_t units = 15) {
    return {.sequence = sequence, .lifetime = LifetimeUnits{units}, .alternate_care_of = care_of};
}

template <class T>
T const* find(Actions const& actions) {
    auto const at = std::ranges::find_if(
        actions, [](auto const& action) { return std::holds_alternative<T>(action); });
    return at == actions.end() ? nullptr : &std::get<T>(*at);
}

/// The one answer among the actions.
inline BindingAcknowledgement answer(Actions const& actions) {
    auto const* const send = find<Send>(actions);
    REQUIRE(send != nullptr);
    REQUIRE(std::holds_alternative<BindingAcknowledgement>(send->packet.message));
    return std::get<BindingAcknowledgement>(send->packet.message);
}
inline BindingStatus status(Actions const& actions) { return answer(actions).status; }
/// It was only answered, with this status.
inline bool only(Actions const& actions, BindingStatus wanted) {
    return actions.size() == 1 && status(actions) == wanted;
}

inline void HomeAgent::bound(Address const& from, std::uint16_t sequence, Address const& of) {
    arrives(update(sequence, from), from, of);
    free(of);
    REQUIRE(place(of) == from);
}

}  // namespace home_agent
