// Local addresses as values: what a source may say of them, and the rules as text.
#include <catch2/catch.hpp>

#include "netmove/local_rules.hpp"
#include "netmove/mover.hpp"

namespace netmove_local_cases {

using namespace netmove;

namespace {

Address ip(char const* text) { return Address::parse(text).value(); }
HostAddress subnet(char const* text) { return HostAddress::parse(text).value(); }

LocalAddress example() {
    LocalAddress local;
    local.bridge = "sca1";
    local.tunnel_tap = "sat1";
    local.port = "sap1";
    local.end = "sal1";
    local.guest_addresses = {ip("10.1.0.10"), ip("fd01::10"), ip("10.1.0.11")};
    local.number = local_number_first;
    local.choice = {{ip("192.0.2.50")}, true, {subnet("10.1.0.0/24")}};
    return local;
}

}  // namespace

TEST_CASE("local address: a subnet covers its addresses", "[netmove][local]") {
    CHECK(covers(subnet("10.1.0.1/24"), ip("10.1.0.255")));
    CHECK_FALSE(covers(subnet("10.1.0.1/24"), ip("10.1.1.0")));
    CHECK(covers(subnet("10.1.0.0/23"), ip("10.1.1.0")));
    CHECK(covers(subnet("10.1.0.7/32"), ip("10.1.0.7")));
    CHECK_FALSE(covers(subnet("10.1.0.7/32"), ip("10.1.0.6")));
    CHECK(covers(subnet("fd01::/65"), ip("fd01::7fff:0:0:1")));
    CHECK_FALSE(covers(subnet("fd01::/65"), ip("fd01::8000:0:0:1")));
    CHECK_FALSE(covers(subnet("10.1.0.1/8"), ip("fd01::1")));
}

TEST_CASE("local address: a choice travels as it was made, and an impossible one is refused",
          "[netmove][local]") {
    AnchorMove move{1, 2,
                    LocalChoice{{ip("192.0.2.50"), ip("2001:db8::50")},
                                true,
                                {subnet("10.1.0.0/24"), subnet("fd01::/64")}}};
    CHECK(AnchorMove::from_json(move.to_json()).value() == move);
    move.local->release_when_idle = true;
    move.local->home_bridge = "br0";
    move.vxlan = AnchorVxlan{anchor_vni(7), 4790, ip("198.51.100.1")};
    CHECK(AnchorMove::from_json(move.to_json()).value() == move);
    CHECK_FALSE(move.leaves_its_tap());
    move.vxlan.reset();
    move.local.reset();
    CHECK(AnchorMove::from_json(move.to_json()).value() == move);
    auto const refused = [](char const* text) {
        auto const json = core::Json::parse(text);
        REQUIRE(json);
        return !LocalChoice::from_json(*json);
    };
    CHECK_FALSE(refused(R"({"addresses":["192.0.2.1"],"new_sessions":false,"home":[]})"));
    CHECK(refused(R"({"addresses":[],"new_sessions":false,"home":[]})"));
    CHECK(refused(
        R"({"addresses":["192.0.2.1"],"new_sessions":false,"home":[],"release_when_idle":true})"));
    CHECK(refused(R"({"addresses":["192.0.2.1"],"home":[]})"));
    CHECK(refused(R"({"addresses":["192.0.2.1","192.0.2.2"],"new_sessions":false,"home":[]})"));
    CHECK(refused(R"({"addresses":["224.0.0.1"],"new_sessions":false,"home":[]})"));
    CHECK(refused(R"({"addresses":["fe80::1"],"new_sessions":false,"home":[]})"));
    CHECK(refused(R"({"addresses":["1.2.3.4; flush"],"new_sessions":false,"home":[]})"));
    CHECK(refused(R"({"addresses":["192.0.2.1"],"new_sessions":true,"home":["192.0.2.0/24"]})"));
    CHECK(refused(R"({"addresses":["192.0.2.1"],"new_sessions":true,"home":["10.1.0.0"]})"));
    std::string many;
    for (std::size_t number = 0; number <= home_subnets_max; ++number) {
        many += fmt::format("{}\"10.{}.0.0/16\"", number == 0 ? "" : ",", number);
    }
    CHECK(refused(
        fmt::format(R"({{"addresses":["192.0.2.1"],"new_sessions":true,"home":[{}]}})", many)
            .c_str()));
}

TEST_CASE("local address: the rules are of the families that it has", "[netmove][local]") {
    auto local = example();
    auto const rules = local_rules(local);
    auto const has = [&rules](char const* text) { return rules.find(text) != std::string::npos; };
    CHECK(has("dnat ip to 10.1.0.10\n"));
    CHECK(has("{ 10.1.0.10, 10.1.0.11 } snat ip to 192.0.2.50"));
    CHECK(has("255.255.255.255, 10.1.0.0/24 }"));
    CHECK_FALSE(has("ip6"));
    CHECK(has("== syn add @direct4"));
    local.choice.new_sessions = false;
    CHECK(local_rules(local).find("add @direct4") == std::string::npos);

    CHECK(local_rules_complete(local, "\"sat1\" \"sat1\" \"sal1\" \"sap1\"", "iif \"sal1\""));
    CHECK_FALSE(local_rules_complete(local, "\"sat1\" \"sal1\" \"sap1\"", "iif \"sal1\""));
    CHECK_FALSE(local_rules_complete(local, "\"sat1\" \"sat1\" \"sal1\" \"sap1\"", "iif 17"));
}

TEST_CASE("local address: only plain addresses of the guest are translated", "[netmove][local]") {
    auto const some = translatable({{ip("10.1.0.10"), 0},
                                    {ip("10.1.0.11"), 7},
                                    {ip("fe80::1"), 0},
                                    {ip("169.254.3.4"), 0},
                                    {ip("fd01::10"), 0}});
    CHECK(some == std::vector{ip("10.1.0.10"), ip("fd01::10")});
}

TEST_CASE("anchor in the kernel: a VXLAN that is not one of anchors is refused",
          "[netmove][local]") {
    auto const refused = [](char const* text) {
        return !AnchorVxlan::from_json(core::Json::parse(text).value());
    };
    CHECK_FALSE(refused(R"({"vni":15000000,"port":4789,"home":"192.0.2.1"})"));
    CHECK(refused(R"({"vni":14999999,"port":4789,"home":"192.0.2.1"})"));
    CHECK(refused(R"({"vni":16000000,"port":4789,"home":"192.0.2.1"})"));
    CHECK(refused(R"({"vni":-1,"port":4789,"home":"192.0.2.1"})"));
    CHECK(refused(R"({"vni":15000000,"port":0,"home":"192.0.2.1"})"));
    CHECK(refused(R"({"vni":15000000,"port":4789,"home":"224.0.0.1"})"));
    CHECK(anchor_vxlan_name(0x1234567890abcdef).size() <= 15);
}

TEST_CASE("local address: only a guest whose anchor is to be released has its gateways noted",
          "[netmove][local][release]") {
    auto local = example();
    CHECK(local_rules(local).find("gateways") == std::string::npos);
    local.choice.release_when_idle = true;
    auto const rules = local_rules(local);
    CHECK(rules.find("add @gateways { ether daddr timeout 600s }") != std::string::npos);
    // Not those that it reaches its home network through.
    CHECK(rules.find("10.1.0.0/24 } ether daddr != @gateways") != std::string::npos);
}

}  // namespace netmove_local_cases
