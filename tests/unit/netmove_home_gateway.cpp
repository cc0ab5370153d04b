// The gateways of a guest's home network: what is learned of them from frames, and what is answered
// in their name.
#include <catch2/catch.hpp>

#include "netmove/home_gateway.hpp"

namespace netmove_home_gateway_cases {

using namespace netmove;

namespace {

MacAddress mac(char const* text) { return MacAddress::parse(text).value(); }
Address ip(char const* text) { return Address::parse(text).value(); }

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const router = mac("52:54:00:aa:bb:01");
MacAddress const neighbour = mac("52:54:00:aa:bb:02");

void learn(HomeGateways& into, Bytes const& frame) {
    auto const parsed = parse_ethernet(frame);
    REQUIRE(parsed);
    into.learn(*parsed, guest);
}

std::vector<Bytes> answers(HomeGateways const& gateways, Bytes const& frame) {
    auto const parsed = parse_ethernet(frame);
    REQUIRE(parsed);
    return gateways.answers(*parsed, guest);
}

/// The request of the guest, 192.0.2.10, for an address; to one station, or to all.
Bytes request(Address const& target, MacAddress const& to = mac("ff:ff:ff:ff:ff:fe")) {
    // An answer of the guest is turned into a request.
    auto frame = arp_answer(guest, ip("192.0.2.10"), to, target);
    frame[21] = 1;
    return frame;
}

Bytes solicitation(Address const& source, Address const& target) {
    auto frame = router_neighbour_answer(guest, source, router, target);
    frame[14 + 40] = 135;
    std::ranges::copy(target.bytes(), frame.begin() + 14 + 40 + 8);
    return frame;
}

Bytes advertisement(std::uint16_t lifetime) {
    return {134,
            0,
            0,
            0,
            64,
            0,
            static_cast<std::uint8_t>(lifetime >> 8),
            static_cast<std::uint8_t>(lifetime & 0xff),
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0};
}

}  // namespace

TEST_CASE("home gateway: a station that the guest sends through is answered for, no other",
          "[netmove][release]") {
    HomeGateways gateways;
    learn(gateways, arp_answer(router, ip("192.0.2.1"), guest, ip("192.0.2.10")));
    learn(gateways, arp_answer(neighbour, ip("192.0.2.2"), guest, ip("192.0.2.10")));
    CHECK_FALSE(gateways.knows(Address::Family::ipv4));
    CHECK(answers(gateways, request(ip("192.0.2.1"))).empty());
    gateways.note_used(router);
    CHECK(gateways.knows(Address::Family::ipv4));
    CHECK_FALSE(gateways.knows(Address::Family::ipv6));
    auto const given = answers(gateways, request(ip("192.0.2.1")));
    REQUIRE(given.size() == 1);
    CHECK(given[0] == arp_answer(router, ip("192.0.2.1"), guest, ip("192.0.2.10")));
    CHECK(answers(gateways, request(ip("192.0.2.2"))).empty());
    CHECK(answers(gateways, request(ip("192.0.2.10"))).empty());
    // Of the guest only, and not to answers.
    auto other = request(ip("192.0.2.1"));
    other[11] = 0x57;
    CHECK(answers(gateways, other).empty());
    CHECK(answers(gateways, arp_answer(guest, ip("192.0.2.10"), router, ip("192.0.2.1"))).empty());
}

TEST_CASE("home gateway: a guest that confirms an address shows whose it is",
          "[netmove][release]") {
    HomeGateways gateways;
    gateways.note_used(router);
    learn(gateways, request(ip("192.0.2.1"), router));
    CHECK(gateways.knows(Address::Family::ipv4));
    learn(gateways, solicitation(ip("fd01::10"), ip("fd01::1")));
    CHECK(gateways.knows(Address::Family::ipv6));
    auto const given = answers(gateways, solicitation(ip("fd01::10"), ip("fd01::1")));
    REQUIRE(given.size() == 1);
    CHECK(given[0] == router_neighbour_answer(router, ip("fd01::1"), guest, ip("fd01::10")));
    // Router, solicited, override (RFC 4861 4.4).
    CHECK(given[0][14 + 40 + 4] == 0xe0);
    auto const message = ByteView(given[0]).subspan(14 + 40);
    CHECK(icmpv6_checksum(ip("fd01::1"), ip("fd01::10"), message) == 0);
}

TEST_CASE("home gateway: a router is known by its advertisement, which is repeated in time",
          "[netmove][release]") {
    HomeGateways gateways;
    CHECK_FALSE(gateways.interval());
    learn(gateways, router_announcement(router, ip("fe80::1"), advertisement(1800)));
    CHECK(gateways.knows(Address::Family::ipv6));
    CHECK_FALSE(gateways.used());
    CHECK(gateways.interval() == advertisement_interval_max);
    learn(gateways, router_announcement(neighbour, ip("fe80::2"), advertisement(30)));
    CHECK(gateways.interval() == core::seconds(10));
    CHECK(gateways.advertisements().size() == 2);
    auto const asked = answers(gateways, router_question(guest));
    CHECK(asked == gateways.advertisements());
    CHECK(asked[0] == router_announcement(router, ip("fe80::1"), advertisement(1800)));
    // It is a router no more.
    learn(gateways, router_announcement(neighbour, ip("fe80::2"), advertisement(0)));
    CHECK(gateways.advertisements().size() == 1);
    CHECK(answers(gateways, solicitation(ip("fd01::10"), ip("fe80::1"))).size() == 1);

    auto const again = HomeGateways::from_json(gateways.to_json());
    REQUIRE(again);
    CHECK(again->to_json().dump() == gateways.to_json().dump());
    CHECK(again->advertisements() == gateways.advertisements());
}

TEST_CASE("home gateway: many stations, and bytes of any kind, are taken", "[netmove][release]") {
    HomeGateways gateways;
    gateways.note_used(router);
    learn(gateways, arp_answer(router, ip("192.0.2.1"), guest, ip("192.0.2.10")));
    for (int number = 0; number < 1'000; ++number) {
        auto const address = fmt::format("10.0.{}.{}", number / 200, number % 200 + 1);
        learn(gateways, arp_answer(neighbour, ip(address.c_str()), guest, ip("192.0.2.10")));
    }
    CHECK(gateways.gateways().size() == 1);
    auto const whole = router_announcement(router, ip("fe80::1"), advertisement(1800));
    for (std::size_t size = 14; size <= whole.size(); ++size) {
        Bytes const part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
        learn(gateways, part);
        (void)answers(gateways, part);
    }
    auto const refused = [](char const* text) {
        return !HomeGateways::from_json(core::Json::parse(text).value());
    };
    CHECK(refused(R"({"used":["x"]})"));
    CHECK(refused(R"({"used":[],"gateways":[{"address":"1.2.3","mac":"52:54:00:12:34:56"}]})"));
    CHECK(
        refused(R"({"routers":[{"address":"fe80::1","mac":"52:54:00:12:34:56","message":"8"}]})"));
}

}  // namespace netmove_home_gateway_cases
