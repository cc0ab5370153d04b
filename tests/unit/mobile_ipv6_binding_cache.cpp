// The home agent's decisions (netmove/mobile_ipv6/binding_cache.hpp): RFC 6275 9.5 and 10. Each
// update is given as it would have arrived; answers and actions are read as values. IPv4 and
// durability: mobile_ipv6_binding_records.cpp.
#include "tests/unit/mobile_ipv6_home_agent.hpp"

namespace mobile_ipv6_binding_cache_cases {

using namespace home_agent;

TEST_CASE("binding cache: a first registration is answered after detection",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto const begun = one.arrives(update(7, source), source);
    REQUIRE(begun.size() == 1);
    CHECK(find<StartDetection>(begun)->home == home);
    CHECK(one.cache.find(home) == nullptr);
    CHECK(one.cache.all().at(0)->state == BindingState::detecting);

    auto const ended = one.free();
    REQUIRE(ended.size() == 3);
    CHECK(std::get<Claim>(ended[0]).home == home);
    CHECK(std::get<Route>(ended[1]).care_of == CareOf{source, 0});
    auto const& packet = std::get<Send>(ended[2]).packet;
    CHECK(packet.source == agent);
    CHECK(packet.destination == source);
    CHECK(packet.routing_home == home);
    auto const said = answer(ended);
    CHECK(said.status == BindingStatus::accepted);
    CHECK(said.sequence == 7);
    CHECK(said.lifetime == LifetimeUnits{15});
    CHECK_FALSE(said.refresh_advice);
    CHECK_FALSE(said.nat);
    CHECK(one.place() == source);
    CHECK(one.cache.size() == 1);
    CHECK(one.free().empty());  // nothing was asked for
}

TEST_CASE("binding cache: a duplicate address ends in 134", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.arrives(update(7, source), source);
    auto const ended = one.cache.detected(home, true, one.now);
    CHECK(only(ended, BindingStatus::duplicate_address_detection_failed));
    CHECK(answer(ended).sequence == 7);
    CHECK(one.cache.find(home) == nullptr);
    // Another try begins a detection again, if it is newer.
    CHECK(only(one.arrives(update(7, source), source), BindingStatus::sequence_out_of_window));
    CHECK(find<StartDetection>(one.arrives(update(8, source), source)) != nullptr);
}

TEST_CASE("binding cache: updates during detection supersede the one that waits",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.arrives(update(7, source), source);
    CHECK(one.arrives(update(7, source), source).empty());  // doubled by the network
    CHECK(one.arrives(update(8, source), source).empty());
    CHECK(one.arrives(update(9, destination), destination).empty());
    CHECK(only(one.arrives(update(8, source), source), BindingStatus::sequence_out_of_window));
    auto const ended = one.free();
    CHECK(answer(ended).sequence == 9);
    CHECK(find<Send>(ended)->packet.destination == destination);
    CHECK(one.place() == destination);
}

TEST_CASE("binding cache: a deregistration during detection ends it",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.arrives(update(7, source), source);
    auto const ended = one.arrives(update(8, home, 0), home);
    CHECK(only(ended, BindingStatus::accepted));
    CHECK(answer(ended).lifetime == LifetimeUnits{0});
    // The same detection serves a registration that follows: one at a time.
    CHECK(one.arrives(update(9, source), source).empty());
    CHECK(status(one.free()) == BindingStatus::accepted);
    CHECK(one.place() == source);

    HomeAgent other;
    other.arrives(update(7, source), source);
    other.arrives(update(8, home, 0), home);
    CHECK(other.free().empty());
    CHECK(other.place() == Address());
}

TEST_CASE("binding cache: a later update moves the binding at once",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    auto const since = one.cache.find(home)->since;
    one.wait(10s);
    auto const refreshed = one.arrives(update(8, source), source);
    CHECK(only(refreshed, BindingStatus::accepted));  // nothing changes outside
    CHECK(one.cache.find(home)->since == since);
    CHECK(one.cache.find(home)->expires == one.now + 60s);

    auto const moved = one.arrives(update(9, destination), destination);
    REQUIRE(moved.size() == 2);
    CHECK(std::get<Route>(moved[0]).care_of == CareOf{destination, 0});
    CHECK(status(moved) == BindingStatus::accepted);
    CHECK(one.cache.find(home)->since == one.now);
    CHECK(one.cache.find(home)->updates == 3);
    CHECK(one.cache.counters().accepted == 3);
}

TEST_CASE("binding cache: sequence numbers are newer modulo 65536",
          "[mobile-ipv6][binding-cache]") {
    // The example of RFC 6275 9.5.1: after 15, 0 to 15 and 32783 to 65535 are not newer.
    for (unsigned number = 0; number <= 0xffff; ++number) {
        bool const old = number <= 15 || number >= 32'783;
        if (is_newer(static_cast<std::uint16_t>(number), 15) == old) FAIL(number);
    }
    HomeAgent one;
    one.bound(source, 65'535);
    CHECK(status(one.arrives(update(0, destination), destination)) == BindingStatus::accepted);
    auto const late = one.arrives(update(65'535, source), source);
    CHECK(only(late, BindingStatus::sequence_out_of_window));
    CHECK(answer(late).sequence == 0);  // the last accepted one
    CHECK(find<Send>(late)->packet.destination == source);
    CHECK(one.place() == destination);
    CHECK(status(one.arrives(update(32'767, source), source)) == BindingStatus::accepted);
    CHECK(only(one.arrives(update(65'535, destination), destination),
               BindingStatus::sequence_out_of_window));
}

TEST_CASE("binding cache: a repetition is answered again, another update of that number is not",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    one.wait(8s);
    auto const expires = one.cache.find(home)->expires;
    auto const again = one.arrives(update(7, source), source);
    CHECK(only(again, BindingStatus::accepted));
    CHECK(answer(again).lifetime == LifetimeUnits{15});
    CHECK(one.cache.find(home)->expires == expires);
    CHECK(one.cache.find(home)->updates == 1);
    CHECK(only(one.arrives(update(7, destination), destination),
               BindingStatus::sequence_out_of_window));
    CHECK(only(one.arrives(update(7, source, 16), source), BindingStatus::sequence_out_of_window));
    CHECK(one.place() == source);
}

TEST_CASE("binding cache: a deregistration, from home or abroad", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    SECTION("from home, whatever its lifetime") {
        auto const ended = one.arrives(update(8, home), home);
        REQUIRE(ended.size() == 3);
        CHECK(std::get<Unroute>(ended[0]).home == home);
        CHECK(std::get<Release>(ended[1]).home == home);
        auto const& packet = std::get<Send>(ended[2]).packet;
        CHECK(packet.destination == home);
        CHECK_FALSE(packet.routing_home);  // RFC 6275 9.5.4
        CHECK(answer(ended).lifetime == LifetimeUnits{0});
        CHECK(only(one.arrives(update(8, home), home), BindingStatus::accepted));
    }
    SECTION("from abroad, with lifetime 0") {
        auto const ended = one.arrives(update(8, source, 0), source);
        REQUIRE(ended.size() == 3);
        CHECK(find<Send>(ended)->packet.routing_home == home);
        CHECK(status(ended) == BindingStatus::accepted);
    }
    CHECK(one.cache.find(home) == nullptr);
    CHECK(one.cache.size() == 0);
    // An old update does not bind it again, and tells which number does.
    auto const late = one.arrives(update(7, source), source);
    CHECK(only(late, BindingStatus::sequence_out_of_window));
    CHECK(answer(late).sequence == 8);
    CHECK(find<StartDetection>(one.arrives(update(9, source), source)) != nullptr);
}

TEST_CASE("binding cache: a deregistration of what is not bound gets 133, and counts",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    CHECK(only(one.arrives(update(20, home, 0), home), BindingStatus::not_home_agent));
    // An update that was sent before it, and arrives after it.
    CHECK(only(one.arrives(update(19, source), source), BindingStatus::sequence_out_of_window));
    CHECK(only(one.arrives(update(21, home, 0), home), BindingStatus::accepted));
}

TEST_CASE("binding cache: the sequence number is remembered for a time, then forgotten",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    one.arrives(update(8, home, 0), home);
    CHECK(one.cache.next_due() == one.now + memory_of_sequence_s);
    one.wait(memory_of_sequence_s - 1s);
    CHECK(only(one.arrives(update(8, source), source), BindingStatus::sequence_out_of_window));
    CHECK(one.wait(1s).empty());
    CHECK(one.cache.all().empty());
    CHECK(one.cache.next_due() == TimePoint::max());
    CHECK(find<StartDetection>(one.arrives(update(8, source), source)) != nullptr);
}

TEST_CASE("binding cache: a binding expires, after a request for a refresh",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);  // for 60 s
    CHECK(one.wait(39s).empty());
    auto const asked = one.wait(1s);
    REQUIRE(asked.size() == 1);
    auto const& packet = std::get<Send>(asked[0]).packet;
    CHECK(std::holds_alternative<BindingRefreshRequest>(packet.message));
    CHECK(packet.destination == source);
    CHECK(packet.routing_home == home);
    CHECK(one.wait(19s).empty());  // once

    SECTION("an update in time keeps it, and is asked for again") {
        one.arrives(update(8, source), source);
        CHECK(one.wait(39s).empty());
        CHECK(one.wait(1s).size() == 1);
    }
    SECTION("without one it ends, and nothing is answered") {
        auto const ended = one.wait(1s);
        REQUIRE(ended.size() == 2);
        CHECK(std::get<Unroute>(ended[0]).home == home);
        CHECK(std::get<Release>(ended[1]).home == home);
        CHECK(one.cache.find(home) == nullptr);
        CHECK(only(one.arrives(update(7, source), source), BindingStatus::sequence_out_of_window));
        one.wait(memory_of_sequence_s);
        CHECK(one.cache.all().empty());
    }
}

TEST_CASE("binding cache: a short binding is not asked for, and one that waits expires too",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.arrives(update(1, source, 10), source);
    one.free();
    CHECK(one.cache.next_due() == one.now + 40s);
    CHECK(one.wait(40s).size() == 2);

    one.arrives(update(2, source, 1), source);
    CHECK(one.wait(4s).empty());  // its detection never ended
    CHECK(one.cache.all().at(0)->state == BindingState::released);
    CHECK(one.free().empty());
}

TEST_CASE("binding cache: a lifetime is granted up to a limit, and refreshed as advised",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.arrives(update(1, source, lifetime_infinite.count()), source);
    CHECK(answer(one.free()).lifetime == LifetimeUnits{900});
    CHECK(one.cache.find(home)->expires == one.now + lifetime_max_s);

    auto advised = options();
    advised.lifetime_max = 100s;
    advised.refresh_advice = 50s;
    one.cache = BindingCache(advised);
    one.arrives(update(1, source, 900), source);
    auto const said = answer(one.free());
    CHECK(said.lifetime == LifetimeUnits{25});
    CHECK(said.refresh_advice == LifetimeUnits{12});
    // It must be less than the lifetime (RFC 6275 6.2.4).
    CHECK_FALSE(answer(one.arrives(update(2, source, 12), source)).refresh_advice);
}

TEST_CASE("binding cache: who may register what", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    SECTION("an address of another subnet: 132") {
        auto const other = ip("2001:db8:9::1");
        CHECK(only(one.arrives(update(1, source), source, other), BindingStatus::not_home_subnet));
    }
    SECTION("an address without permission: 129") {
        auto const other = ip("2001:db8:1::200");
        CHECK(only(one.arrives(update(1, source), source, other),
                   BindingStatus::administratively_prohibited));
        CHECK(only(one.arrives(update(1, other, 0), other, other),
                   BindingStatus::administratively_prohibited));
    }
    SECTION("care-of addresses of its prefixes only") {
        auto const narrow = ip("2001:db8:1::102");
        CHECK(only(one.arrives(update(1, destination), destination, narrow),
                   BindingStatus::administratively_prohibited));
        CHECK(find<StartDetection>(one.arrives(update(1, source), source, narrow)) != nullptr);
    }
    SECTION("nobody who is not authenticated: no answer") {
        one.bound(source, 7);
        for (auto const units : {15, 0}) {
            SignallingPacket const packet{
                .source = destination,
                .destination = agent,
                .home_option = home,
                .message = update(8, destination, static_cast<std::uint16_t>(units))};
            CHECK(one.cache.handle(packet, {.from = {destination, 0}}, one.now).empty());
        }
        CHECK(one.place() == source);
        CHECK(one.cache.counters().ignored == 2);
    }
    SECTION("unless the operator wants it so") {
        auto open = options();
        open.require_authentication = false;
        one.cache = BindingCache(open);
        SignallingPacket const packet{.source = source,
                                      .destination = agent,
                                      .home_option = home,
                                      .message = update(1, source)};
        CHECK(one.cache.handle(packet, {.from = {source, 0}}, one.now).size() == 1);
    }
}

TEST_CASE("binding cache: care-of addresses that cannot be get 174",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    for (auto const* const text : {"ff02::1", "::", "::1", "fe80::1", "2001:db8:1::1",
                                   "2001:db8:1::101", "::ffff:192.0.2.1"}) {
        INFO(text);
        CHECK(
            only(one.arrives(update(8, ip(text)), source), BindingStatus::invalid_care_of_address));
    }
    auto named = update(8, source);
    named.ipv4_care_of = nat;  // over IPv6
    CHECK(only(one.arrives(named, source), BindingStatus::invalid_care_of_address));
    CHECK(one.place() == source);
    // None of them has used up the number.
    CHECK(status(one.arrives(update(8, destination), destination)) == BindingStatus::accepted);
}

TEST_CASE("binding cache: an update without H changes no home registration",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto other = update(8, destination);
    other.home_registration = false;
    CHECK(one.arrives(other, destination).empty());  // of a correspondent node: none is here
    one.bound(source, 7);
    CHECK(
        only(one.arrives(other, destination), BindingStatus::registration_type_change_disallowed));
    CHECK(one.place() == source);
    CHECK(status(one.arrives(update(8, source), source)) == BindingStatus::accepted);
}

TEST_CASE("binding cache: an accepted update without A is not answered, a refused one is",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    auto quiet = update(8, destination);
    quiet.acknowledge = false;
    auto const moved = one.arrives(quiet, destination);
    REQUIRE(moved.size() == 1);
    CHECK(std::holds_alternative<Route>(moved[0]));
    quiet.sequence = 6;
    CHECK(only(one.arrives(quiet, destination), BindingStatus::sequence_out_of_window));
}

TEST_CASE("binding cache: what is not for it is ignored", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    Arrival const arrival{.from = {source, 0}, .authenticated = true};
    SignallingPacket packet{.source = source,
                            .destination = ip("2001:db8:1::2"),
                            .home_option = home,
                            .message = update(1, source)};
    CHECK(one.cache.handle(packet, arrival, one.now).empty());
    packet.destination = agent;
    packet.source = ip("fe80::1");
    CHECK(one.cache.handle(packet, arrival, one.now).empty());
    packet.source = source;
    packet.message = BindingAcknowledgement{};
    CHECK(one.cache.handle(packet, arrival, one.now).empty());
    CHECK(one.cache.counters().ignored == 3);
}

TEST_CASE("binding cache: more bindings than the limit get 130", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto small = options();
    small.bindings_limit = 1;
    one.cache = BindingCache(small);
    one.bound(source, 7);
    auto const other = ip("2001:db8:1::101");
    CHECK(
        only(one.arrives(update(1, source), source, other), BindingStatus::insufficient_resources));
    CHECK(status(one.arrives(update(8, destination), destination)) == BindingStatus::accepted);
    CHECK(only(one.arrives(update(1, other, 0), other, other), BindingStatus::not_home_agent));
    CHECK(one.cache.all().size() == 1);
}

TEST_CASE("binding cache: K is answered with no, L is claimed with the home address",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto first = update(1, source);
    first.link_local_compatible = true;
    first.key_management_mobility = true;
    first.tlv_header = true;
    auto const begun = one.arrives(first, source);
    CHECK(find<StartDetection>(begun)->link_local_compatible);
    auto const ended = one.free();
    CHECK(find<Claim>(ended)->link_local_compatible);
    CHECK_FALSE(answer(ended).key_management_mobility);
    CHECK_FALSE(answer(ended).tlv_header);
    CHECK(one.cache.find(home)->key_management_mobility);

    auto const changed = one.arrives(update(2, source), source);
    REQUIRE(changed.size() == 5);
    CHECK(std::get<Release>(changed[1]).link_local_compatible);
    CHECK_FALSE(std::get<Claim>(changed[2]).link_local_compatible);
    CHECK(std::holds_alternative<Route>(changed[3]));
}

}  // namespace mobile_ipv6_binding_cache_cases
