// The mobile node's decisions while its guest moves (netmove/mobile_ipv6/registration.hpp): the
// machines of two hosts, COMMIT and rollback.
#include "tests/unit/mobile_ipv6_mobile_node.hpp"

namespace mobile_ipv6_registration_move_cases {

using namespace mobile_node;

TEST_CASE("registration: the destination goes on from the source's number",
          "[mobile-ipv6][registration]") {
    auto from = Machine::registered();
    auto const record = from.give();
    CHECK(record.node == node());
    CHECK(record.sequence == 102);
    CHECK(record.bound_for == 599'960ms);
    CHECK(record.round_trip == RoundTrip{40ms, 20ms});
    CHECK(from.state.due == TimePoint::max());

    auto to = Machine::takes(record);
    CHECK(to.number() == 103);
    CHECK(to.update().alternate_care_of == destination.address);
    CHECK(to.kind() == Kind::pending);
    CHECK(to.due() == 120ms);
    CHECK(to.number() == 104);
    to.now += 30ms;
    to.accept(104);
    CHECK(to.kind() == Kind::registered);
    CHECK(to.state.round_trip == RoundTrip::with(record.round_trip, 30ms));

    // The source sends nothing, whatever arrives.
    auto const given = from.state;
    for (Event const& event :
         {Event(Refresh{}), Event(Due{}), Event(GiveAway{}),
          Event(Arrived{BindingRefreshRequest{}}), Event(Arrived{BindingError{1, home}}),
          Event(Arrived{BindingAcknowledgement{.sequence = 102}})}) {
        from.happens(event);
        CHECK(from.actions.empty());
        CHECK(from.state == given);
    }
    from.happens(Committed{});
    CHECK(from.kind() == Kind::moved);
    CHECK(from.state.right == Right::ended);

    to.happens(Committed{});
    CHECK(to.state.right == Right::held);
    CHECK_FALSE(to.sent());
    CHECK(to.due() > 299s);
    CHECK(to.number() == 105);
}

TEST_CASE("registration: before COMMIT the destination has only so many numbers",
          "[mobile-ipv6][registration]") {
    auto from = Machine::registered();
    auto const record = from.give();
    auto to = Machine::takes(record);
    std::uint16_t last = to.number();
    while (to.state.due != TimePoint::max()) {
        to.due();
        if (to.sent()) last = to.number();
    }
    CHECK(last == record.sequence + provisional_updates_max);
    CHECK(to.kind() == Kind::unreachable);
    SECTION("after COMMIT it goes on") {
        to.happens(Committed{});
        CHECK(to.number() == last + 1);
        CHECK(to.due() == 120ms);
    }
    SECTION("a rollback is newer than all of them") {
        from.happens(RolledBack{});
        CHECK(from.number() == last + 1);
        CHECK(from.update().alternate_care_of == source.address);
        CHECK(record.last_sequence() == last);
    }
    SECTION("a late answer is taken") {
        to.accept(record.sequence);
        CHECK(to.kind() == Kind::unreachable);
        to.accept(last);
        CHECK(to.kind() == Kind::registered);
    }
}

TEST_CASE("registration: COMMIT finds the destination registered, trying, or refused",
          "[mobile-ipv6][registration]") {
    auto from = Machine::registered();
    auto to = Machine::takes(from.give());
    SECTION("trying: the intervals begin anew, earlier updates may still be answered") {
        to.due(), to.due(), to.due();
        to.happens(Committed{});
        CHECK_FALSE(to.sent());
        to.due();
        CHECK(to.number() == 107);
        CHECK(to.due() == 240ms);
        to.accept(103);
        CHECK(to.kind() == Kind::registered);
    }
    SECTION("refused: it tries at once, then slowly") {
        to.refuse(BindingStatus::insufficient_resources, 103);
        CHECK(to.kind() == Kind::refused);
        CHECK(to.state.due == TimePoint::max());
        to.happens(Committed{});
        CHECK(to.number() == 104);
        to.refuse(BindingStatus::insufficient_resources, 104);
        CHECK(to.due() == refused_retry);
    }
    SECTION("registered, and its refresh is long due") {
        to.accept(103, 1);
        to.due();
        CHECK_FALSE(to.sent());
        CHECK(to.state.due == TimePoint::max());
        to.happens(Committed{});
        CHECK(to.number() == 104);
    }
}

TEST_CASE("registration: a rollback that the destination has not heard of supersedes it",
          "[mobile-ipv6][registration]") {
    auto from = Machine::registered();
    auto to = Machine::takes(from.give());
    from.happens(RolledBack{});
    auto const number = from.number();
    CHECK(number == 102 + provisional_updates_max + 1);
    CHECK(from.state.right == Right::held);
    CHECK(from.due() == 120ms);  // within the same bound as any update
    from.accept(number);
    CHECK(from.kind() == Kind::registered);

    to.refuse(BindingStatus::sequence_out_of_window, number);
    CHECK(to.kind() == Kind::superseded);
    CHECK_FALSE(to.sent());
    CHECK(to.state.due == TimePoint::max());
    SECTION("then it hears of it") {
        to.happens(RolledBack{});
        CHECK(to.kind() == Kind::moved);
        CHECK(to.state.right == Right::ended);
    }
    SECTION("COMMIT would say that the number was another's") {
        to.happens(Committed{});
        CHECK(to.number() == number + 1);
    }
    SECTION("the guest moves again: the next destination is newer still") {
        auto next = Machine::takes(from.give());
        CHECK(next.number() == number + 2);  // one was sent again
    }
}

TEST_CASE("registration: a guest that comes home is deregistered after COMMIT",
          "[mobile-ipv6][registration]") {
    auto from = Machine::registered();
    auto to = Machine::takes(from.give(), at_home);
    CHECK_FALSE(to.sent());
    CHECK(to.kind() == Kind::pending);
    CHECK(to.state.due == TimePoint::max());
    SECTION("COMMIT") {
        to.happens(Committed{});
        auto const& packet = to.find<SendUpdate>()->packet;
        CHECK(packet.source == at_home.address);
        CHECK(packet.home_option == home);
        CHECK(to.update() ==
              BindingUpdate{.sequence = 103, .lifetime = {}, .alternate_care_of = home});
        to.due();
        auto const status = GENERATE(BindingStatus::accepted, BindingStatus::not_home_agent);
        to.refuse(status, 104);
        CHECK(to.kind() == Kind::at_home);
        CHECK(to.find<AnnounceHome>() != nullptr);
        CHECK(to.state.due == TimePoint::max());
    }
    SECTION("a rollback: the binding is as it was, and is renewed") {
        to.happens(RolledBack{});
        CHECK_FALSE(to.sent());
        from.happens(RolledBack{});
        CHECK(from.update().lifetime == LifetimeUnits{150});
    }
}

TEST_CASE("registration: a guest that leaves home", "[mobile-ipv6][registration]") {
    Machine from;
    from.happens(Begin{node(), at_home, 100});
    CHECK_FALSE(from.sent());
    CHECK(from.kind() == Kind::at_home);
    from.happens(Refresh{});
    CHECK_FALSE(from.sent());
    auto const record = from.give();
    CHECK(record.bound_for == 0ms);
    auto to = Machine::takes(record);
    CHECK(to.number() == 101);
    CHECK(to.state.due == to.now + 1500ms);  // the home agent's detection comes first
    from.happens(RolledBack{});
    CHECK(from.update().lifetime == LifetimeUnits{0});
    CHECK(from.number() == 101 + provisional_updates_max);
    from.refuse(BindingStatus::not_home_agent, from.number());
    CHECK(from.kind() == Kind::at_home);
}

TEST_CASE("registration: events that mean nothing change nothing", "[mobile-ipv6][registration]") {
    Machine one;
    for (Event const& event :
         {Event(Refresh{}), Event(GiveAway{}), Event(Committed{}), Event(RolledBack{}),
          Event(Due{}), Event(Arrived{BindingAcknowledgement{}}),
          Event(Arrived{BindingRefreshRequest{}}), Event(Arrived{BindingUpdate{}})}) {
        one.happens(event);
        CHECK(one.actions.empty());
        CHECK(one.state == State{});
    }
    one = Machine::registered();
    auto const before = one.state;
    for (Event const& event : {Event(Begin{}), Event(TakeOver{}), Event(Committed{}),
                               Event(RolledBack{}), Event(Due{})}) {
        one.happens(event);
        CHECK(one.state == before);
    }
}

TEST_CASE("registration: the record travels as it was made", "[mobile-ipv6][registration]") {
    HandOver record{.node = node(),
                    .sequence = 65'530,
                    .bound_for = 1234ms,
                    .round_trip = RoundTrip{Interval(40'001), Interval(5)}};
    CHECK(HandOver::from_json(record.to_json()).value() == record);
    record.node.ipv4_home = ip("192.0.2.100");
    record.node.ipv4_agent = ip("192.0.2.1");
    record.node.link_local_compatible = record.node.key_management_mobility = true;
    record.round_trip.reset();
    CHECK(HandOver::from_json(record.to_json()).value() == record);
    CHECK(record.last_sequence() == 10);

    auto const refused = [&record](std::string_view key, core::Json value) {
        auto json = record.to_json();
        json.set(key, std::move(value));
        return !HandOver::from_json(json);
    };
    CHECK(refused("home", "192.0.2.1"));
    CHECK(refused("home", "fe80::1"));
    CHECK(refused("agent", "::"));
    CHECK(refused("ipv4_home", "2001:db8::1"));
    CHECK(refused("sequence", 65'536));
    CHECK(refused("updates_max", 0));
    CHECK(refused("updates_max", provisional_updates_max + 1));
    CHECK(refused("lifetime_units", 0));
    CHECK(refused("bound_for_ms", -1));
    CHECK(refused("round_trip_us", 60'000'001));
    CHECK(refused("link_local", 1));
    CHECK_FALSE(HandOver::from_json(core::Json()));
}

TEST_CASE("registration: names", "[mobile-ipv6][registration]") {
    CHECK(name(Right::provisional) == "provisional");
    CHECK(name(Phase::settled) == "settled");
    CHECK(name(Kind::unreachable) == "home agent unreachable");
}

}  // namespace mobile_ipv6_registration_move_cases
