// `sidecar home-agent` and IPv4 (RFC 5555): a mobile node in an IPv4 network, with and without a
// NAT in front of it; IPv4 home addresses.
#include "tests/process/home_agent_lab.hpp"

namespace home_agent_ipv4_cases {

using namespace home_agent_lab;

namespace {

constexpr int accepted = 0;
constexpr int one_minute = 15;  // in units of 4 s

void carries_both_ways(HomeNetwork const& network, char const* counter) {
    auto const before = network.node(Json::object({{"do", "status"}}))[counter].integer_or(0);
    CHECK(network.pings(home_address, 3) == 3);
    auto const reverse = network.node(Json::object({{"do", "ping"}, {"to", "2001:db8:1::2"}}));
    CHECK(reverse["answered"].boolean_or(false));
    auto const after = network.node(Json::object({{"do", "status"}}))[counter].integer_or(0);
    CHECK(after >= before + 4);
}

}  // namespace

TEST_CASE("home-agent: a mobile node behind a NAT is reached in UDP", "[home-agent]") {
    HomeNetwork network(Visited::ipv4_behind_nat);
    network.start();
    auto const answer = network.update4(1, one_minute);
    CHECK(answer.status == accepted);
    CHECK(answer.json["nat"].boolean_or(false));
    network.is_bound_at("198.51.100.2");
    CHECK(network.binding()["udp_port"].integer_or(0) > 0);
    carries_both_ways(network, "in_udp");
    auto const told = network.on_correspondent(
        fmt::format("ping -c 1 -W 2 -M do -s 1452 {} || true", home_address));
    CHECK(contains(told, "mtu=1472"));

    network.end();
    network.start();
    network.is_bound_at("198.51.100.2");
    carries_both_ways(network, "in_udp");
    auto const refresh = network.update4(2, one_minute);
    CHECK(refresh.status == accepted);
    CHECK(network.update4(3, 0).status == accepted);
    network.is_bound_at("");
}

TEST_CASE("home-agent: a mobile node in an IPv4 network without a NAT is reached in IPv4",
          "[home-agent]") {
    HomeNetwork network(Visited::ipv4);
    network.start();
    auto const answer = network.update4(1, one_minute);
    CHECK(answer.status == accepted);
    CHECK_FALSE(answer.json["nat"].boolean_or(false));
    network.is_bound_at("10.0.0.10");
    CHECK(network.binding()["udp_port"].is_null());
    carries_both_ways(network, "in_ipv4");
    auto const told = network.on_correspondent(
        fmt::format("ping -c 1 -W 2 -M do -s 1452 {} || true", home_address));
    CHECK(contains(told, "mtu=1480"));
}

TEST_CASE("home-agent: an IPv4 home address", "[home-agent]") {
    HomeNetwork network;
    network.start();
    auto const answer = network.update(1, one_minute, Json::object({{"home4", ipv4_home}}));
    INFO(answer.json.dump());
    CHECK(answer.status == accepted);
    CHECK(answer.ipv4_status == 0);
    CHECK(answer.json["ipv4_home"].text_or("") == ipv4_home);
    CHECK(network.pings(ipv4_home, 3) == 3);
    CHECK(network.pings(home_address, 2) == 2);
    auto const told =
        network.on_correspondent(fmt::format("ping -c 1 -W 2 -M do -s 1472 {} || true", ipv4_home));
    CHECK(contains(told, "mtu = 1460"));
    CHECK(network.update(2, 0).status == accepted);
    CHECK(network.on_agent("ip -4 route show proto 152").empty());
}

TEST_CASE("home-agent: IPv4 packets that may be fragmented are carried in outer fragments",
          "[home-agent]") {
    HomeNetwork network;
    network.start();
    REQUIRE(network.update(1, one_minute, Json::object({{"home4", ipv4_home}})).status == accepted);
    (void)network.pings(ipv4_home, 1, "-M dont -s 1472");
    bool const in_fragments = soon([&] {
        auto const counts = network.node(Json::object({{"do", "status"}}));
        return counts["outer_fragments"].integer_or(0) >= 2;
    });
    CHECK(in_fragments);
    CHECK(network.dropped("too_big") == 0);
}

}  // namespace home_agent_ipv4_cases
