// Whether two bridges are in one L2 network, tested with real bridges of two namespaces: joined by
// a cable, not joined, and joined where the test cannot tell.
#include "netmove/adjacency.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_adjacency_cases {

namespace {

using namespace netmove_lab;

constexpr std::uint64_t number = 0x0102'0304'0506;

struct BridgedSpace {
    BridgedSpace() { make_bridge("br0"); }
    Link bridge() { return must(netlink.link("br0")); }
    Space space;
    Netlink netlink = must(Netlink::open());
};

/// Both have a bridge; join() lays a cable between them.
struct TwoBridges {
    void join() {
        a.space.enter();
        sh(
            fmt::format("ip link add up0 type veth peer name up0 netns {}; ip link set up0 up "
                        "master br0",
                        b.space.path()));
        b.space.enter();
        sh("ip link set up0 up master br0");
        for (auto* side : {&a, &b}) {
            REQUIRE(soon([side] {
                auto const port = must(side->netlink.link("up0")).port;
                return port && port->forwarding();
            }));
        }
    }
    AdjacencyListener listen() {
        b.space.enter();
        return must(AdjacencyListener::open(b.bridge()));
    }
    void send(std::uint64_t sent) {
        a.space.enter();
        must(send_adjacency_frame(a.bridge(), sent));
    }

    Home home;
    BridgedSpace a;
    BridgedSpace b;
};

}  // namespace

TEST_CASE("adjacency: a frame from a bridge arrives at the other one, and changes nothing there",
          "[netmove][adjacency]") {
    TwoBridges sides;
    sides.join();
    sides.b.space.enter();
    sh("ip link set br0 addrgenmode none; ip addr add 192.0.0.8/24 dev br0");  // the asked address
    auto listener = sides.listen();
    CHECK_FALSE(listener.heard(number));
    sides.send(number + 1);
    sides.send(number);
    CHECK(soon([&] { return listener.heard(number); }));
    CHECK_FALSE(listener.heard(number));  // it came once
    for (auto const& entry : must(sides.b.netlink.neighbours())) {
        CHECK(entry.address != ip("192.0.0.8"));
        CHECK_FALSE(entry.mac == sides.a.bridge().mac);
    }
}

TEST_CASE("adjacency: nothing arrives where no cable is, and from another test",
          "[netmove][adjacency]") {
    TwoBridges sides;
    auto listener = sides.listen();
    sides.send(number);
    sides.join();
    sides.send(number + 1);  // has arrived: then the first one never will
    CHECK(soon([&] { return listener.heard(number + 1); }));
    CHECK_FALSE(listener.heard(number));
}

TEST_CASE("adjacency: a bridge that is down or filters VLANs cannot tell", "[netmove][adjacency]") {
    Home const home;
    BridgedSpace side;
    CHECK(can_test_adjacency(side.bridge()));
    auto filtering = side.bridge();
    filtering.vlan_filtering = true;  // not every kernel can make one
    CHECK_FALSE(can_test_adjacency(filtering));
    sh("ip link set br0 down");
    CHECK_FALSE(can_test_adjacency(side.bridge()));
    CHECK_FALSE(can_test_adjacency(must(side.netlink.link("lo"))));
}

}  // namespace netmove_adjacency_cases
