// The home agent's decisions about IPv4 (RFC 5555 4), and what of its bindings survives a restart
// (netmove/mobile_ipv6/binding_cache.hpp).
#include "tests/unit/mobile_ipv6_home_agent.hpp"

namespace mobile_ipv6_binding_records_cases {

using namespace home_agent;

// ---- RFC 5555 -----------------------------------------------------------------------------------

TEST_CASE("binding cache: an IPv4 home address is bound with the IPv6 one",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto first = update(1, source);
    first.ipv4_home = Ipv4HomeAddress{.address = ipv4_home};
    CHECK(find<StartDetection>(one.arrives(first, source))->ipv4_home == ipv4_home);
    auto const ended = one.free();
    CHECK(find<Claim>(ended)->ipv4_home == ipv4_home);
    CHECK(find<Route>(ended)->ipv4_home == ipv4_home);
    CHECK(answer(ended).ipv4_home == Ipv4Acknowledgement{Ipv4Status::accepted, 32, ipv4_home});
    REQUIRE(one.cache.find(ipv4_home) != nullptr);
    CHECK(one.cache.find(ipv4_home)->home == home);

    // An update without it ends the IPv4 half.
    auto const changed = one.arrives(update(2, source), source);
    CHECK(find<Unroute>(changed)->ipv4_home == ipv4_home);
    CHECK(find<Release>(changed)->ipv4_home == ipv4_home);
    CHECK_FALSE(find<Claim>(changed)->ipv4_home);
    CHECK(one.cache.find(ipv4_home) == nullptr);
    CHECK(one.place() == source);
}

TEST_CASE("binding cache: a refused IPv4 home address leaves the IPv6 binding",
          "[mobile-ipv6][binding-cache]") {
    struct Case {
        char const* home;
        Ipv4HomeAddress asked;
        Ipv4Status status;
    };
    auto const of = GENERATE(
        Case{"2001:db8:1::100", {}, Ipv4Status::accepted},
        Case{"2001:db8:1::100", {ip("192.0.2.101")}, Ipv4Status::incorrect_address},
        Case{"2001:db8:1::100", {ip("127.0.0.1")}, Ipv4Status::invalid_address},
        Case{"2001:db8:1::100",
             {.address = ip("192.0.2.0"), .prefix_length = 24, .prefix_requested = true},
             Ipv4Status::prefix_allocation_unauthorized},
        Case{"2001:db8:1::101", {}, Ipv4Status::dynamic_assignment_unavailable},
        Case{"2001:db8:1::101", {ip("192.0.2.101")}, Ipv4Status::administratively_prohibited});
    HomeAgent one;
    auto first = update(1, source);
    first.ipv4_home = of.asked;
    one.arrives(first, source, ip(of.home));
    auto const ended = one.free(ip(of.home));
    auto const said = answer(ended);
    CHECK(said.status == BindingStatus::accepted);
    REQUIRE(said.ipv4_home);
    CHECK(said.ipv4_home->status == of.status);
    bool const accepted = of.status == Ipv4Status::accepted;
    CHECK(said.ipv4_home->address == (accepted ? ipv4_home : of.asked.address));
    CHECK(find<Route>(ended)->ipv4_home.has_value() == accepted);
    CHECK(one.place(ip(of.home)) == source);
}

TEST_CASE("binding cache: an IPv4 care-of address, with and without a NAT",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    BindingUpdate first{.sequence = 1, .lifetime = LifetimeUnits{15}};
    SECTION("no NAT: no UDP for data, and no option") {
        first.ipv4_care_of = nat;
        one.arrives_over_ipv4(first, {nat, dual_stack_port});
        auto const ended = one.free();
        CHECK(find<Route>(ended)->care_of == CareOf{nat, 0});
        CHECK_FALSE(answer(ended).nat);
        auto const& send = *find<Send>(ended);
        CHECK(send.to == CareOf{nat, dual_stack_port});
        CHECK(send.packet.destination == home);
        CHECK_FALSE(send.packet.routing_home);
    }
    SECTION("no NAT, and UDP is wanted") {
        first.ipv4_care_of = nat;
        first.force_udp = true;
        one.arrives_over_ipv4(first, {nat, dual_stack_port});
        auto const ended = one.free();
        CHECK(find<Route>(ended)->care_of == CareOf{nat, dual_stack_port});
        CHECK(answer(ended).nat == NatDetection{true, nat_keepalive_none});
    }
    SECTION("behind a NAT: the source of the datagram counts, and keepalives are needed") {
        first.ipv4_care_of = private_host;
        one.arrives_over_ipv4(first, {nat, 40'000});
        auto const ended = one.free();
        CHECK(find<Route>(ended)->care_of == CareOf{nat, 40'000});
        CHECK(answer(ended).nat == NatDetection{false, nat_keepalive_s});
        // The NAT has another port now: a new place.
        ++first.sequence;
        auto const moved = one.arrives_over_ipv4(first, {nat, 40'001});
        CHECK(find<Route>(moved)->care_of == CareOf{nat, 40'001});
        CHECK(find<Send>(moved)->to == CareOf{nat, 40'001});
        // The same update by another way is not a repetition.
        CHECK(only(one.arrives_over_ipv4(first, {nat, 40'002}),
                   BindingStatus::sequence_out_of_window));
        // A request for a refresh goes through the binding as well.
        auto const asked = one.wait(40s);
        REQUIRE(asked.size() == 1);
        CHECK(std::get<Send>(asked[0]).to == CareOf{nat, 40'001});
        CHECK(std::get<Send>(asked[0]).packet.destination == home);
    }
    SECTION("no IPv4 care-of address named: as behind a NAT") {
        one.arrives_over_ipv4(first, {nat, 40'000});
        CHECK(answer(one.free()).nat == NatDetection{false, nat_keepalive_s});
    }
    SECTION("an address that no host has") {
        one.arrives_over_ipv4(first, {ip("127.0.0.1"), 40'000});
        CHECK(one.cache.all().empty());
    }
    SECTION("the source is the home address, and this is no deregistration") {
        one.arrives_over_ipv4(first, {nat, 40'000});
        one.free();
        CHECK(one.place() == nat);
        first.lifetime = LifetimeUnits{0};
        ++first.sequence;
        CHECK(find<Unroute>(one.arrives_over_ipv4(first, {nat, 40'000})) != nullptr);
    }
}

// ---- durability ---------------------------------------------------------------------------------

TEST_CASE("binding cache: after a restart, what has time left is claimed and routed again",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    auto first = update(7, source);
    first.ipv4_home = Ipv4HomeAddress{.address = ipv4_home};
    first.link_local_compatible = true;
    one.arrives(first, source);
    one.free();
    auto const second = ip("2001:db8:1::101");
    auto const third = ip("2001:db8:1::102");
    one.bound(destination, 65'000, second);
    one.arrives(update(65'001, second, 0), second, second);
    one.arrives(update(9, source), source, third);  // its detection is under way
    auto const text = one.cache.to_json(one.now, one.wall).dump();

    HomeAgent next;  // with another steady clock
    next.now += 77'777s;
    next.wall = one.wall + 20s;
    auto const actions =
        next.cache.restore(core::Json::parse(text).value(), next.now, next.wall).value();
    REQUIRE(actions.size() == 2);
    CHECK(std::get<Claim>(actions[0]).link_local_compatible);
    CHECK(std::get<Claim>(actions[0]).ipv4_home == ipv4_home);
    CHECK(std::get<Route>(actions[1]).care_of == CareOf{source, 0});
    auto const* const binding = next.cache.find(ipv4_home);
    REQUIRE(binding != nullptr);
    CHECK(binding->expires == next.now + 40s);
    CHECK(binding->since == next.now - 20s);
    CHECK(binding->sequence == 7);
    CHECK(binding->updates == 1);
    CHECK(next.cache.size() == 1);
    CHECK(next.cache.all().size() == 3);

    // Old updates are still old, new ones are taken, and all of it ends in its time.
    CHECK(only(next.arrives(update(6, destination), destination),
               BindingStatus::sequence_out_of_window));
    CHECK(only(next.arrives(update(65'000, destination), destination, second),
               BindingStatus::sequence_out_of_window));
    CHECK(only(next.arrives(update(9, destination), destination, third),
               BindingStatus::sequence_out_of_window));
    CHECK(find<StartDetection>(next.arrives(update(10, source), source, third)) != nullptr);
    CHECK(find<Unroute>(next.wait(20s)) == nullptr);
    CHECK(find<Unroute>(next.wait(20s)) != nullptr);
}

TEST_CASE("binding cache: records of what ended, or is no longer permitted",
          "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    one.bound(source, 7);
    auto const second = ip("2001:db8:1::101");
    one.bound(source, 7, second);
    auto const json = one.cache.to_json(one.now, one.wall);
    HomeAgent next;
    SECTION("it expired meanwhile: its number is remembered from its end on") {
        REQUIRE(next.cache.restore(json, next.now, one.wall + 100s).value().empty());
        CHECK(only(next.arrives(update(7, source), source), BindingStatus::sequence_out_of_window));
        next.wait(memory_of_sequence_s - 40s);
        CHECK(next.cache.all().empty());
    }
    SECTION("that is over as well") {
        REQUIRE(next.cache.restore(json, next.now, one.wall + 1000s).value().empty());
        next.wait(0s);
        CHECK(next.cache.all().empty());
    }
    SECTION("a clock that was set back gives no more than was granted") {
        REQUIRE(next.cache.restore(json, next.now, one.wall - 1000s).value().size() == 4);
        CHECK(next.cache.find(home)->expires == next.now + 60s);
    }
    SECTION("a home address without permission") {
        auto fewer = options();
        fewer.permissions.erase(fewer.permissions.begin());
        next.cache = BindingCache(fewer);
        CHECK(next.cache.restore(json, next.now, one.wall).value().size() == 2);
        CHECK(next.cache.find(second) != nullptr);
    }
    SECTION("a care-of address without permission") {
        auto narrow = options();
        narrow.permissions[0].care_of_prefixes = {{ip("2001:db8:7::"), 48}};
        next.cache = BindingCache(narrow);
        CHECK(next.cache.restore(json, next.now, one.wall).value().size() == 2);
        CHECK(next.cache.find(home) == nullptr);
        CHECK(only(next.arrives(update(7, source), source), BindingStatus::sequence_out_of_window));
    }
}

TEST_CASE("binding cache: a log of records is read in its order", "[mobile-ipv6][binding-cache]") {
    HomeAgent one;
    CHECK(one.cache.record(home, one.now, one.wall).is_null());
    one.bound(source, 7);
    auto log = core::Json::array();
    log.add(one.cache.record(home, one.now, one.wall));
    one.arrives(update(8, destination), destination);
    log.add(one.cache.record(home, one.now, one.wall));
    HomeAgent next;
    auto const json = core::Json::object({{"version", 1}, {"bindings", log}});
    CHECK(next.cache.restore(json, next.now, one.wall).value().size() == 2);
    CHECK(next.place() == destination);
    CHECK_FALSE(next.cache.restore(json, next.now, one.wall));  // not empty
}

TEST_CASE("binding cache: records that cannot be are refused", "[mobile-ipv6][binding-cache]") {
    auto const* const text = GENERATE(
        R"({})", R"({"version":2,"bindings":[]})", R"({"version":1})",
        R"({"version":1,"bindings":[{}]})",
        R"({"version":1,"bindings":[{"home":"x","bound":false,"sequence":1,"until_ms":1}]})",
        R"({"version":1,"bindings":[{"home":"2001:db8:1::100","bound":false,"sequence":65536,"until_ms":1}]})",
        R"({"version":1,"bindings":[{"home":"2001:db8:1::100","bound":false,"sequence":1,"until_ms":-1}]})",
        R"({"version":1,"bindings":[{"home":"2001:db8:1::100","bound":true,"sequence":1,"until_ms":1}]})");
    HomeAgent one;
    INFO(text);
    CHECK_FALSE(one.cache.restore(core::Json::parse(text).value(), one.now, one.wall));
    CHECK(one.cache.all().empty());
}

TEST_CASE("binding cache: options that cannot be are refused", "[mobile-ipv6][binding-cache]") {
    CHECK(options().validate());
    auto const wrong = [](auto change) {
        auto of = options();
        change(of);
        return !of.validate();
    };
    using Options = BindingCache::Options;
    CHECK(wrong([](Options& of) { of.agent = ip("fe80::1"); }));
    CHECK(wrong([](Options& of) { of.home_prefix = ip("192.0.2.0"); }));
    CHECK(wrong([](Options& of) { of.home_prefix_length = 129; }));
    CHECK(wrong([](Options& of) { of.permissions.push_back(of.permissions[0]); }));
    CHECK(wrong([](Options& of) { of.permissions[1].ipv4_home = ipv4_home; }));
    CHECK(wrong([](Options& of) { of.permissions[1].ipv4_home = source; }));
    CHECK(wrong([](Options& of) { of.permissions[1].home = agent; }));
    CHECK(wrong([](Options& of) { of.permissions[1].home = source; }));
    CHECK(wrong([](Options& of) { of.permissions[1].home = ipv4_home; }));
    CHECK(wrong([](Options& of) { of.permissions[1].care_of_prefixes = {{nat, 33}}; }));
    CHECK(wrong([](Options& of) { of.permissions.resize(bindings_max + 1); }));
    CHECK(is_within(ip("10.1.2.3"), ip("10.1.0.0"), 15));
    CHECK_FALSE(is_within(ip("10.2.0.0"), ip("10.1.0.0"), 15));
    CHECK(is_within(source, ip("::"), 0));
    CHECK_FALSE(is_within(nat, ip("::"), 0));
}

TEST_CASE("binding cache: many bindings end in batches, in their order",
          "[mobile-ipv6][binding-cache]") {
    constexpr unsigned count = 10'000;
    BindingCache::Options many{.agent = agent, .home_prefix = ip("2001:db8:1::")};
    for (unsigned number = 0; number < count; ++number) {
        auto const text = fmt::format("2001:db8:1::{:x}:{:x}", 1 + number / 256, number % 256);
        many.permissions.push_back({.home = ip(text.c_str())});
    }
    HomeAgent one;
    one.cache = BindingCache(many);
    for (auto const& permission : many.permissions) {
        one.bound(source, 1, permission.home);
        one.now += 1ms;
    }
    CHECK(one.cache.size() == count);
    one.now += 29s;
    CHECK(one.cache.expire(one.now).empty());
    one.now += 31s;  // all have ended, or are to be asked for
    std::size_t ended = 0;
    while (one.cache.next_due() <= one.now) {
        auto const actions = one.cache.expire(one.now);
        REQUIRE(actions.size() <= 2 * expire_batch_max);
        ended += static_cast<std::size_t>(std::ranges::count_if(
            actions, [](auto const& one) { return std::holds_alternative<Release>(one); }));
    }
    CHECK(ended == count);
    CHECK(one.cache.size() == 0);
}

}  // namespace mobile_ipv6_binding_records_cases
