// The mobile node's decisions for a guest (netmove/mobile_ipv6/registration.hpp): one host's
// machine alone, its answers written by hand. Moves: mobile_ipv6_registration_move.cpp. With a home
// agent and a bad network: mobile_ipv6_exploration.cpp.
#include "tests/unit/mobile_ipv6_mobile_node.hpp"

namespace mobile_ipv6_registration_cases {

using namespace mobile_node;

TEST_CASE("registration: the guest is registered at the source's care-of address",
          "[mobile-ipv6][registration]") {
    Machine one;
    one.happens(Begin{node(), source, 65'535});
    auto const& packet = one.find<SendUpdate>()->packet;
    CHECK(packet.source == source.address);
    CHECK(packet.destination == agent);
    CHECK(packet.home_option == home);
    CHECK(one.update() == BindingUpdate{.sequence = 0,
                                        .lifetime = LifetimeUnits{150},
                                        .alternate_care_of = source.address});
    CHECK(one.kind() == Kind::pending);
    CHECK(one.state.due == one.now + 1500ms);  // the home agent's detection
    one.now += 1100ms;
    one.accept(0);
    REQUIRE(one.find<Tell>() != nullptr);
    CHECK(one.kind() == Kind::registered);
    CHECK(one.state.outcome.lifetime == LifetimeUnits{150});
    // The detection was in this answer: the round trip is measured by a second update.
    CHECK(one.number() == 1);
    CHECK_FALSE(one.state.round_trip);
    one.now += 30ms;
    one.accept(1);
    CHECK_FALSE(one.sent());
    CHECK(one.state.round_trip == RoundTrip{30ms, 15ms});
    CHECK(one.state.bound_until == one.now - 30ms + 600s);
    CHECK(one.state.due == one.now - 30ms + 300s);
}

TEST_CASE("registration: a binding is refreshed in time", "[mobile-ipv6][registration]") {
    auto one = Machine::registered();
    SECTION("at half of its lifetime, again and again") {
        one.due();
        CHECK(one.number() == 103);
        one.now += 40ms;
        one.accept(103);
        CHECK(one.find<Tell>() == nullptr);  // nothing has changed
        CHECK(one.due() > 299s);
        CHECK(one.number() == 104);
    }
    SECTION("when the home agent advises it") {
        one.happens(Refresh{});
        one.answer(
            {.sequence = 103, .lifetime = LifetimeUnits{150}, .refresh_advice = LifetimeUnits{10}});
        CHECK(one.state.due == one.now + 40s);
    }
    SECTION("but not without a pause") {
        one.happens(Refresh{});
        one.answer(
            {.sequence = 103, .lifetime = LifetimeUnits{1}, .refresh_advice = LifetimeUnits{0}});
        CHECK(one.state.due == one.now + refresh_min);
    }
    SECTION("the home agent asks for it: once in a while") {
        one.happens(Arrived{BindingRefreshRequest{}});
        CHECK(one.number() == 103);
        one.accept(103);
        one.happens(Arrived{BindingRefreshRequest{}});
        CHECK_FALSE(one.sent());
        one.now += refresh_min;
        one.happens(Arrived{BindingRefreshRequest{}});
        CHECK(one.sent());
    }
    SECTION("the home agent has lost the binding") {
        one.happens(Arrived{BindingError{1, ip("2001:db8:1::101")}});  // of another guest
        CHECK_FALSE(one.sent());
        one.happens(Arrived{BindingError{1, home}});
        CHECK(one.number() == 103);
        CHECK(one.state.detects);
        one.accept(103);
        CHECK(one.number() == 104);  // measures the round trip
        CHECK(one.state.round_trip->smoothed == 40ms);
        one.accept(104);
        one.happens(Arrived{BindingError{1, home}});
        CHECK_FALSE(one.sent());
    }
}

TEST_CASE("registration: retransmissions follow the measured round trip",
          "[mobile-ipv6][registration]") {
    auto one = Machine::registered();
    one.happens(Refresh{});
    CHECK(one.number() == 103);
    CHECK(one.state.round_trip->timeout() == 120ms);
    CHECK(one.due() == 120ms);
    CHECK(one.number() == 104);  // each has a number of its own (RFC 6275 11.8)
    CHECK(one.due() == 240ms);
    CHECK(one.due() == 480ms);
    CHECK(one.due() == 960ms);
    for (unsigned sent = 5; sent < fast_updates_max; ++sent) {
        CHECK(one.kind() == Kind::registered);
        CHECK(one.due() == 1s);
    }
    CHECK(one.due() == 1s);
    CHECK(one.kind() == Kind::unreachable);
    CHECK(one.sent());
    CHECK(one.due() == 32s);
    CHECK(one.find<Tell>() == nullptr);  // told once
    CHECK(one.due() == 32s);
    one.happens(Refresh{});  // a move is near: quickly again
    CHECK(one.sent());
    CHECK(one.due() == 120ms);
    one.happens(Refresh{});
    CHECK_FALSE(one.sent());
    one.accept(one.state.sequence);
    CHECK(one.kind() == Kind::registered);
    CHECK_FALSE(one.state.due == TimePoint::max());
}

TEST_CASE("registration: without a measured round trip the RFC's times begin",
          "[mobile-ipv6][registration]") {
    Machine one;
    one.happens(Begin{node(), source, 100});
    for (unsigned sent = 0; sent < fast_updates_max; ++sent) CHECK(one.due() == 1500ms);
    CHECK(one.kind() == Kind::unreachable);
    CHECK(one.due() == 32s);
}

TEST_CASE("registration: the estimate of the round trip is RFC 6298's",
          "[mobile-ipv6][registration]") {
    auto const first = RoundTrip::with(std::nullopt, 80ms);
    CHECK(first == RoundTrip{80ms, 40ms});
    CHECK(first.timeout() == 240ms);
    auto const second = RoundTrip::with(first, 160ms);
    CHECK(second == RoundTrip{90ms, 50ms});
    CHECK(RoundTrip{100ms, 0ms}.timeout() == 110ms);
    CHECK(RoundTrip{1ms, 0ms}.timeout() == retransmit_min);
    CHECK(RoundTrip::with(std::nullopt, -5ms).smoothed == 0ms);
    CHECK(RoundTrip::with(std::nullopt, 100h).smoothed == round_trip_max);
}

TEST_CASE("registration: an answer names the update it is for", "[mobile-ipv6][registration]") {
    auto one = Machine::registered();
    one.happens(Refresh{});  // 103
    SECTION("each update that was sent may be answered, and is measured by itself") {
        one.due();  // 104, 120 ms later
        one.now += 10ms;
        one.accept(103);
        CHECK(one.state.phase == Phase::settled);
        CHECK(one.state.round_trip == RoundTrip::with(RoundTrip{40ms, 20ms}, 130ms));
        CHECK(one.state.bound_until == one.now - 130ms + 600s);
        // What else arrives changes nothing.
        auto const settled = one.state;
        one.accept(104, 1);
        one.accept(103, 1);
        one.refuse(BindingStatus::reason_unspecified, 104);
        one.refuse(BindingStatus::sequence_out_of_window, 500);
        CHECK(one.state == settled);
    }
    SECTION("others are ignored") {
        auto const before = one.state;
        one.accept(102);
        one.accept(104);
        one.refuse(BindingStatus::reason_unspecified, 102);
        CHECK(one.state == before);
    }
    SECTION("an answer that may have waited for a detection is measured again") {
        auto const before = one.state.round_trip;
        one.due(), one.due(), one.due();
        one.now += 200ms;  // 1,040 ms after 103
        one.accept(103);
        CHECK(one.state.round_trip == before);
        auto const number = one.number();
        CHECK(number == 107);
        one.now += 1s;  // the path is so slow
        one.accept(number);
        CHECK(one.state.round_trip == RoundTrip::with(before, 1s));
        CHECK_FALSE(one.sent());
    }
}

TEST_CASE("registration: status 135 gives the number to go on from",
          "[mobile-ipv6][registration]") {
    Machine one;
    one.happens(Begin{node(), source, 100});
    one.due();  // 102
    SECTION("taken once") {
        one.refuse(BindingStatus::sequence_out_of_window, 500);
        CHECK(one.number() == 501);
        one.refuse(BindingStatus::sequence_out_of_window, 500);  // the answer to 102
        CHECK_FALSE(one.sent());
        one.accept(101);
        CHECK(one.kind() == Kind::pending);
        one.refuse(BindingStatus::sequence_out_of_window, 600);
        CHECK_FALSE(one.sent());
        CHECK(one.kind() == Kind::refused);
        CHECK(one.state.outcome.status == BindingStatus::sequence_out_of_window);
        CHECK(one.due() == refused_retry);
        CHECK(one.number() == 601);
        one.accept(601);
        CHECK(one.kind() == Kind::registered);
    }
    SECTION("not if it is that of an update which overtook another one") {
        one.refuse(BindingStatus::sequence_out_of_window, 102);
        CHECK_FALSE(one.sent());
        CHECK(one.state.phase == Phase::updating);
        one.refuse(BindingStatus::sequence_out_of_window, 50);
        CHECK_FALSE(one.sent());
        one.accept(102);
        CHECK(one.kind() == Kind::registered);
    }
}

TEST_CASE("registration: a refusal is stated, and tried again slowly",
          "[mobile-ipv6][registration]") {
    auto const status =
        GENERATE(BindingStatus::reason_unspecified, BindingStatus::administratively_prohibited,
                 BindingStatus::insufficient_resources,
                 BindingStatus::home_registration_not_supported, BindingStatus::not_home_subnet,
                 BindingStatus::not_home_agent, BindingStatus::duplicate_address_detection_failed,
                 BindingStatus::registration_type_change_disallowed,
                 BindingStatus::invalid_care_of_address, static_cast<BindingStatus>(250));
    Machine one;
    one.happens(Begin{node(), source, 100});
    one.refuse(status, 101);
    REQUIRE(one.find<Tell>() != nullptr);
    CHECK(one.kind() == Kind::refused);
    CHECK(one.state.outcome.status == status);
    CHECK_FALSE(one.sent());
    CHECK(one.due() == refused_retry);
    CHECK(one.number() == 102);
    one.refuse(status, 102);
    CHECK(one.find<Tell>() == nullptr);  // told once
    one.due();
    one.accept(103);
    CHECK(one.kind() == Kind::registered);
}

TEST_CASE("registration: answers that accept, and what they leave out",
          "[mobile-ipv6][registration]") {
    auto asked = node();
    asked.ipv4_home = ip("192.0.2.100");
    asked.key_management_mobility = true;
    asked.link_local_compatible = true;
    Machine one;
    one.happens(Begin{asked, source, 100});
    CHECK(one.update().ipv4_home == Ipv4HomeAddress{.address = ip("192.0.2.100")});
    CHECK(one.update().key_management_mobility);
    CHECK(one.update().link_local_compatible);
    SECTION("status 1 accepts; the IPv4 home address was not answered, nor K") {
        one.answer({.status = BindingStatus::accepted_prefix_discovery_necessary,
                    .sequence = 101,
                    .lifetime = LifetimeUnits{150}});
        CHECK(one.kind() == Kind::registered);
        CHECK_FALSE(one.state.outcome.ipv4_home);
        CHECK(one.find<RenewKeys>() != nullptr);
        one.accept(102);
        CHECK(one.find<RenewKeys>() == nullptr);  // once for a place
    }
    SECTION("K and the IPv4 home address are answered") {
        Ipv4Acknowledgement const ipv4{Ipv4Status::accepted, 32, ip("192.0.2.100")};
        one.answer({.key_management_mobility = true,
                    .sequence = 101,
                    .lifetime = LifetimeUnits{150},
                    .ipv4_home = ipv4});
        CHECK(one.state.outcome.ipv4_home == ipv4);
        CHECK(one.find<RenewKeys>() == nullptr);
    }
    SECTION("no lifetime is no binding") {
        one.accept(101, 0);
        CHECK(one.kind() == Kind::refused);
        CHECK(one.due() == refused_retry);
    }
    SECTION("it knows no Binding Updates") {
        one.happens(Arrived{BindingError{2, home}});
        CHECK(one.kind() == Kind::unsupported);
        CHECK(one.due() == refused_retry);
    }
}

TEST_CASE("registration: in an IPv4 network", "[mobile-ipv6][registration]") {
    Machine one;
    one.happens(Begin{node(), over_ipv4, 100});
    auto const& packet = one.find<SendUpdate>()->packet;
    CHECK(packet.source == home);
    CHECK_FALSE(packet.home_option);
    CHECK(one.update().ipv4_care_of == over_ipv4.address);
    CHECK_FALSE(one.update().alternate_care_of);
    one.accept(101);
    one.answer({.sequence = 102, .lifetime = LifetimeUnits{150}, .nat = NatDetection{false, 0}});
    CHECK(one.state.outcome.nat == NatDetection{false, 0});
    CHECK(one.state.due == one.now + nat_refresh_default);  // the update keeps the NAT open
    one.due();
    one.answer(
        {.sequence = 103, .lifetime = LifetimeUnits{150}, .nat = NatDetection{true, 0xffff'ffff}});
    CHECK(one.state.due == one.now + 300s);
    one.due();
    one.answer({.sequence = 104, .lifetime = LifetimeUnits{150}, .nat = NatDetection{false, 30}});
    CHECK(one.state.due == one.now + 30s);
}

}  // namespace mobile_ipv6_registration_cases
