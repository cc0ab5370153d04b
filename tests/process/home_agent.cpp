// `sidecar home-agent` with a mobile node that is not ours: registration and its refusals, packets
// in both directions, addresses on the home link, packets that do not fit, restarts.
#include "tests/process/home_agent_lab.hpp"

namespace home_agent_cases {

using namespace home_agent_lab;

namespace {

constexpr int accepted = 0;
constexpr int administratively_prohibited = 129;
constexpr int not_home_agent = 133;
constexpr int duplicate = 134;
constexpr int out_of_window = 135;
constexpr int one_minute = 15;  // in units of 4 s

/// A home agent with the mobile node at its first care-of address.
struct BoundNode : HomeNetwork {
    BoundNode() {
        start();
        auto const answer = update(1, one_minute);
        INFO(answer.json.dump());
        REQUIRE(answer.status == accepted);
    }
};

Json with(std::initializer_list<Json::Member> members) { return Json::object(members); }

}  // namespace

TEST_CASE("home-agent: a registration is answered, and packets take the tunnel both ways",
          "[home-agent]") {
    HomeNetwork network;
    network.start();
    CHECK(network.binding().is_null());
    auto const first = network.update(7, one_minute);
    INFO(first.json.dump());
    CHECK(first.status == accepted);
    CHECK(first.sequence == 7);
    CHECK(first.lifetime == one_minute);
    CHECK(first.routing_home == home_address);
    CHECK(first.json["routing_type"].integer_or(0) == 2);
    CHECK(first.json["segments_left"].integer_or(0) == 1);
    // RFC 4862: one question, and 1 s for its answer.
    CHECK(first.after_ms >= 1'000);
    network.is_bound_at(care_of);

    CHECK(network.pings(home_address, 3) == 3);
    auto const counts = network.node(with({{"do", "status"}}));
    CHECK(counts["tunnelled"].integer_or(0) >= 3);
    auto const reverse =
        network.node(with({{"do", "ping"}, {"care_of", care_of}, {"to", "2001:db8:1::2"}}));
    CHECK(reverse["answered"].boolean_or(false));

    SECTION("at another care-of address: at once") {
        auto const moved = network.update(8, one_minute, with({{"care_of", other_care_of}}));
        CHECK(moved.status == accepted);
        CHECK(moved.after_ms < 1'000);
        network.is_bound_at(other_care_of);
        CHECK(network.pings(home_address, 3) == 3);
        // What still comes from the old one is not its any more.
        network.node(
            with({{"do", "ping"}, {"care_of", care_of}, {"to", "2001:db8:1::2"}, {"wait_s", 1}}));
        CHECK(network.dropped("wrong_care_of") == 1);
    }
    SECTION("deregistered") {
        CHECK(network.update(8, 0).status == accepted);
        network.is_bound_at("");
        CHECK(network.on_agent("ip -6 route show proto 152").empty());
        CHECK(network.pings(home_address, 1) == 0);
    }
    network.end();
    CHECK(network.on_agent("nft list ruleset").empty());
    CHECK_FALSE(contains(network.on_agent("ip -o link"), "ha-"));
}

TEST_CASE("home-agent: what is refused, and what is ignored", "[home-agent]") {
    BoundNode network;
    auto const old = network.update(1, 30, with({{"care_of", other_care_of}}));
    CHECK(old.status == out_of_window);
    CHECK(old.sequence == 1);
    network.is_bound_at(care_of);
    auto const strange = network.update(1, one_minute, with({{"home", "2001:db8:1::200"}}));
    CHECK((strange.status == administratively_prohibited || strange.status == not_home_agent));
    auto const not_of_this_link =
        network.update(1, one_minute, with({{"home", "2001:db8:7::100"}}));
    CHECK(not_of_this_link.status >= 128);
    auto const elsewhere = network.update(2, one_minute, with({{"alternate", "2001:db8:9::1"}}));
    CHECK(elsewhere.status >= 128);
    auto const damaged = network.update(3, one_minute, with({{"damage", true}, {"wait_s", 1}}));
    CHECK(damaged.status == -1);
    network.is_bound_at(care_of);
    auto const updates = network.status()["updates"];
    INFO(updates.dump());
    CHECK(updates["bad_checksum"].integer_or(0) == 1);
    CHECK(updates["refused"].integer_or(0) == 4);
    CHECK(network.pings(home_address, 2) == 2);
}

TEST_CASE("home-agent: a forged inner source is dropped and counted", "[home-agent]") {
    BoundNode network;
    auto const forged = [&](char const* source) {
        network.node(with({{"do", "ping"},
                           {"care_of", care_of},
                           {"to", "2001:db8:1::2"},
                           {"source", source},
                           {"wait_s", 1}}));
    };
    auto const heard = [&] {
        return network.on_correspondent(
            "cat /proc/net/snmp6 | grep Icmp6InEchos | tr -s ' \\t' ' '");
    };
    auto const before = heard();
    forged("2001:db8:1::2");
    forged("2001:db8:1::200");
    CHECK(network.dropped("no_binding") == 2);
    forged("fe80::1");
    CHECK(network.dropped("not_unicast") == 1);
    // From where no binding is: the other address of the same host.
    network.node(
        with({{"do", "ping"}, {"care_of", other_care_of}, {"to", "2001:db8:1::2"}, {"wait_s", 1}}));
    CHECK(network.dropped("wrong_care_of") == 1);
    CHECK(heard() == before);
}

TEST_CASE("home-agent: addresses on the home link", "[home-agent]") {
    HomeNetwork network;
    network.start();
    SECTION("one that a station has is not bound") {
        network.on_correspondent(fmt::format("ip addr add {}/64 dev eth0 nodad", home_address));
        auto const answer = network.update(1, one_minute);
        CHECK(answer.status == duplicate);
        network.is_bound_at("");
        network.on_correspondent(fmt::format("ip addr del {}/64 dev eth0", home_address));
        CHECK(network.update(2, one_minute).status == accepted);
    }
    SECTION("an IPv4 one that a station has is not bound") {
        network.on_correspondent(fmt::format("ip addr add {}/24 dev eth0", ipv4_home));
        CHECK(network.update(1, one_minute, with({{"home4", ipv4_home}})).status == duplicate);
    }
    SECTION("a bound one is defended") {
        REQUIRE(network.update(1, one_minute).status == accepted);
        network.on_correspondent(fmt::format("ip addr add {}/64 dev eth0", home_address));
        bool const failed = soon([&] {
            return contains(network.on_correspondent("ip -6 addr show dev eth0"), "dadfailed");
        });
        CHECK(failed);
        CHECK(network.status()["home_link"]["defended"].integer_or(0) >= 1);
    }
    SECTION("neighbours learn it at once") {
        // The station has a neighbour entry from when the node was at home.
        network.on_correspondent(fmt::format(
            "ip neigh replace {} lladdr 02:00:00:00:00:77 dev eth0 nud reachable", home_address));
        REQUIRE(network.update(1, one_minute).status == accepted);
        auto const mac = must(must(Netlink::open()).link("home0")).mac.text();
        CHECK(contains(network.on_correspondent("ip neigh show dev eth0"),
                       fmt::format("{} lladdr {}", home_address, mac)));
        CHECK(network.pings(home_address, 2) == 2);
    }
}

TEST_CASE("home-agent: a lifetime ends", "[home-agent]") {
    HomeNetwork network;
    network.start();
    REQUIRE(network.update(1, 1).status == accepted);  // 4 s
    network.is_bound_at(care_of);
    bool const ended = soon([&] { return network.binding()["care_of"].is_null(); }, 10s);
    CHECK(ended);
    CHECK(network.pings(home_address, 1) == 0);
    CHECK(network.update(2, one_minute).status == accepted);
}

TEST_CASE("home-agent: a restart keeps the bindings", "[home-agent]") {
    BoundNode network;
    REQUIRE(network.update(2, one_minute, with({{"care_of", other_care_of}})).status == accepted);
    if (GENERATE(true, false)) {
        network.kill();
    } else {
        network.end();
    }
    // The kernel removes the device of a killed process a moment later.
    CHECK(soon([&] { return network.on_agent("ip -6 route show proto 152").empty(); }));
    network.start();
    network.is_bound_at(other_care_of);
    CHECK(network.pings(home_address, 3) == 3);
    CHECK(network.binding()["remaining_s"].integer_or(0) <= 60);
    // The last sequence number is known, and the next update needs no detection.
    CHECK(network.update(1, one_minute).status == out_of_window);
    auto const next = network.update(3, one_minute);
    CHECK(next.status == accepted);
    CHECK(next.after_ms < 1'000);
    network.end();
    CHECK(network.on_agent("nft list ruleset").empty());
}

TEST_CASE("home-agent: packets that do not fit", "[home-agent]") {
    BoundNode network;
    SECTION("to the mobile node: the sender gets Packet Too Big, and goes on") {
        auto const told = network.on_correspondent(
            fmt::format("ping -c 1 -W 2 -M do -s 1452 {} || true", home_address));
        CHECK(contains(told, "mtu=1460"));
        CHECK(network.pings(home_address, 3, "-s 1452") == 3);
        CHECK(network.dropped("too_big") >= 1);
        CHECK(network.node(with({{"do", "status"}}))["largest_inner"].integer_or(0) <= 1460);
    }
    SECTION("behind a router that is narrower") {
        network.on_middle("ip link set visited0 mtu 1400");
        network.on_node("ip link set up0 mtu 1400");
        // The first one is lost: it is the one by which the router says what passes.
        (void)network.pings(home_address, 1, "-s 1400");
        bool const learned =
            soon([&] { return network.binding()["path_mtu"].integer_or(0) == 1400; });
        CHECK(learned);
        auto const told = network.on_correspondent(
            fmt::format("ping -c 1 -W 2 -M do -s 1400 {} || true", home_address));
        CHECK(contains(told, "mtu=1360"));
    }
    SECTION("the smallest packets of a path that carries no more: outer fragments") {
        network.on_middle("ip link set visited0 mtu 1280");
        network.on_node("ip link set up0 mtu 1280");
        (void)network.pings(home_address, 1, "-s 1220");
        REQUIRE(soon([&] { return network.binding()["path_mtu"].integer_or(0) == 1280; }));
        (void)network.pings(home_address, 2, "-s 1220");  // 1,268 bytes
        bool const in_fragments = soon([&] {
            return network.node(with({{"do", "status"}}))["outer_fragments"].integer_or(0) >= 4;
        });
        CHECK(in_fragments);
        CHECK(network.status()["fragmented"].integer_or(0) >= 2);
    }
    SECTION("from the mobile node: Packet Too Big comes through the tunnel") {
        network.on_agent("ip link set home0 mtu 1400");
        network.node(with({{"do", "ping"},
                           {"care_of", care_of},
                           {"to", "2001:db8:1::2"},
                           {"size", 1380},
                           {"wait_s", 1}}));
        auto const told = network.node(with({{"do", "told_mtu"}, {"wait_s", 5}}));
        CHECK(told["mtu"].integer_or(0) == 1400);
    }
}

}  // namespace home_agent_cases
