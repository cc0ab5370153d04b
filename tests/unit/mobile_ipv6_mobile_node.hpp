// A host's registration machine for unit tests, its clock and its actions. Used by the tests of the
// mobile node. Invariant: time passes only by due() and by the tests themselves.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>

#include "netmove/mobile_ipv6/registration.hpp"
#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_node {

using namespace netmove::mobile_ipv6;
using namespace registration;
using namespace std::chrono_literals;
using mobile::ip;
using netmove::Address;
using Kind = Outcome::Kind;

inline Address const home = ip("2001:db8:1::100");
inline Address const agent = ip("2001:db8:1::1");
inline Place const source{ip("2001:db8:2::1")};
inline Place const destination{ip("2001:db8:3::1")};
inline Place const at_home{ip("2001:db8:1::9"), true};
inline Place const over_ipv4{ip("198.51.100.7")};

inline MobileNode node() { return {.home = home, .agent = agent}; }

/// A machine, its clock and the actions of its last step.
struct Machine {
    State state{};
    TimePoint now = TimePoint{} + 1000s;
    std::vector<Action> actions{};

    void happens(Event const& event) {
        auto next = step(state, event, now);
        state = std::move(next.state);
        actions = std::move(next.actions);
    }
    /// The timer comes, as set. Returns how long that took.
    Interval due() {
        REQUIRE(state.due != TimePoint::max());
        auto const waited = std::chrono::duration_cast<Interval>(state.due - now);
        now = state.due;
        happens(Due{});
        return waited;
    }
    void answer(BindingAcknowledgement const& answer) { happens(Arrived{answer}); }
    void accept(std::uint16_t sequence, std::uint16_t units = 150) {
        answer({.sequence = sequence, .lifetime = LifetimeUnits{units}});
    }
    void refuse(BindingStatus status, std::uint16_t sequence) {
        answer({.status = status, .sequence = sequence});
    }
    template <class T>
    [[nodiscard]] T const* find() const {
        auto const at = std::ranges::find_if(
            actions, [](auto const& action) { return std::holds_alternative<T>(action); });
        return at == actions.end() ? nullptr : &std::get<T>(*at);
    }
    [[nodiscard]] bool sent() const { return find<SendUpdate>() != nullptr; }
    [[nodiscard]] BindingUpdate update() const {
        REQUIRE(sent());
        return std::get<BindingUpdate>(find<SendUpdate>()->packet.message);
    }
    [[nodiscard]] std::uint16_t number() const { return update().sequence; }
    [[nodiscard]] Kind kind() const { return state.outcome.kind; }

    /// Registered abroad, the round trip measured as 40 ms. The last number is 102.
    static Machine registered() {
        Machine one;
        one.happens(Begin{node(), source, 100});
        one.now += 1100ms;
        one.accept(101);
        one.now += 40ms;
        one.accept(102);
        REQUIRE(one.kind() == Kind::registered);
        REQUIRE(one.state.phase == Phase::settled);
        return one;
    }
    HandOver give() {
        happens(GiveAway{});
        REQUIRE(find<Give>() != nullptr);
        return find<Give>()->record;
    }
    static Machine takes(HandOver const& record, Place const& place = destination) {
        Machine one;
        one.happens(TakeOver{record, place});
        return one;
    }
};

}  // namespace mobile_node
