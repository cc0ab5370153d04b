// The bridge mover between two hosts. Each host is a namespace with a bridge, a client on it, and a
// tap of the guest; a cable joins them. The checks ask the kernels: the clients' ARP and neighbour
// caches, the bridges' tables, and the tap at which a datagram arrives.
#include <linux/neighbour.h>

#include <cstdlib>

#include "netmove/bridge_mover.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_bridge_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");
constexpr auto wrong_mac = "02:00:00:00:00:99";
char const* const guest_addresses[] = {"192.0.2.10", "2001:db8::10", "fe80::10"};

core::Deadline within(core::Clock::duration limit) { return core::Deadline::after(limit); }

/// A host with a bridge, and a tap of the guest that is not in a bridge yet.
struct Side {
    explicit Side(std::string const& bridge_options = "mcast_snooping 0") {
        make_bridge("br0", bridge_options);
    }
    [[nodiscard]] Link link(std::string const& name) { return must(netlink.link(name)); }
    /// The kernel reports the carrier of a new cable up to one second late.
    void wait_for_ports() {
        REQUIRE(soon([&] {
            return std::ranges::all_of(must(netlink.links()), [](Link const& entry) {
                return !entry.port || entry.port->forwarding();
            });
        }));
    }
    /// The port to which the bridge sends the guest's frames; "" when it floods them.
    std::string port_of_guest() {
        for (auto const& entry : must(netlink.fdb(link("br0").index))) {
            if (entry.mac == guest) return must(netlink.link(entry.port)).name;
        }
        return "";
    }

    Space space;
    Netlink netlink = must(Netlink::open());
    Tap tap = must(Tap::open(netlink, "tap0", {}));
};

/// A station on a host's bridge, with an address of each family.
struct Client {
    Client(Side& side, int number) {
        plug_station(side.space, number);
        side.wait_for_ports();
        space.enter();
        for (auto const* address : {"192.0.2.10", "2001:db8::10"}) {
            sh(fmt::format("ip neigh replace {} lladdr {} dev eth0 nud stale", address, wrong_mac));
        }
    }
    /// The MAC in the client's cache for an address of the guest.
    std::string cached(std::string const& address) {
        for (auto const& entry : must(netlink.neighbours())) {
            if (entry.address == ip(address) && entry.mac) return entry.mac->text();
        }
        return "";
    }
    void send_to(std::string const& address) {
        space.enter();
        send_datagram(ip(address));
    }

    Space space;
    Netlink netlink = must(Netlink::open());
};

GuestInterface interface_of_guest() {
    GuestInterface out;
    out.netdev = "net0";
    out.tap = "tap0";
    out.bridge = "br0";
    out.mac = guest;
    for (auto const* address : guest_addresses) out.addresses.push_back({ip(address), 0});
    return out;
}

struct TwoHosts {
    explicit TwoHosts(std::string const& bridge_options = "mcast_snooping 0")
        : source(bridge_options), destination(bridge_options) {
        // The thread is in the destination's namespace.
        sh(fmt::format("ip link add cable0 type veth peer name cable0 netns {}",
                       source.space.path()));
        for (auto* side : {&source, &destination}) {
            side->space.enter();
            sh("ip link set cable0 addrgenmode none; ip link set cable0 master br0 up");
        }
        source.space.enter();
        must(place_tap(source.netlink, "tap0", {"br0", 0, 0}));
        source.wait_for_ports();
        destination.wait_for_ports();
        mover_a = bridge_mover_source(*loop, source.netlink, source.tap, guest_interface);
        mover_b =
            bridge_mover_destination(*loop, destination.netlink, destination.tap, guest_interface);
    }
    /// The guest sends frames on the source, as before a migration.
    void guest_speaks() {
        for (auto const& frame :
             announcements(guest, guest_interface.addresses, false, ArpForm::request)) {
            must(source.tap.write_frame(frame));
        }
    }
    void prepare() {
        source.space.enter();
        must(loop->run(mover_a->prepare(within(10s))));
        destination.space.enter();
        must(loop->run(mover_b->prepare(within(10s))));
        (void)received(source.tap);
    }
    void fire() {
        must(mover_a->fire());
        must(mover_b->fire());
        must(mover_a->release());
    }
    void rollback() {
        must(mover_b->rollback());
        must(mover_a->rollback());
    }
    /// Where a client's datagram to the guest arrives: "source", "destination", both, or "".
    std::string arrives(Client& client, std::string const& address) {
        (void)received(source.tap);
        (void)received(destination.tap);
        client.send_to(address);
        std::string where;
        auto const look = [&](Side& side, char const* name) {
            for (auto const& frame : received(side.tap)) {
                auto const parsed = parse_ethernet(frame);
                if (parsed->destination == guest && parsed->ether_type != 0x0806) where += name;
            }
        };
        (void)soon([&] {
            look(source, "source");
            look(destination, "destination");
            return !where.empty();
        });
        return where;
    }

    Home home;
    std::unique_ptr<core::Loop> loop = must(core::Loop::create());
    GuestInterface guest_interface = interface_of_guest();
    Side source;
    Side destination;
    std::unique_ptr<Mover> mover_a;
    std::unique_ptr<Mover> mover_b;
};

/// Checks that the clients and the bridges locate the guest at that host.
void check_guest_at(TwoHosts& hosts, std::vector<Client*> const& clients,
                    std::string const& where) {
    INFO("the guest is to be at the " << where);
    bool const at_source = where == "source";
    CHECK(soon([&] { return hosts.source.port_of_guest() == (at_source ? "tap0" : "cable0"); }));
    CHECK(
        soon([&] { return hosts.destination.port_of_guest() == (at_source ? "cable0" : "tap0"); }));
    for (auto* client : clients) {
        for (auto const* address : {"192.0.2.10", "2001:db8::10"}) {
            CHECK(soon([&] { return client->cached(address) == guest.text(); }));
            CHECK(hosts.arrives(*client, address) == where);
        }
    }
}

}  // namespace

TEST_CASE("the bridge mover moves both families there, and back on rollback", "[netmove]") {
    TwoHosts hosts;
    Client near(hosts.source, 1);
    Client far(hosts.destination, 2);
    hosts.guest_speaks();
    check_guest_at(hosts, {&near, &far}, "source");
    hosts.prepare();
    check_guest_at(hosts, {&near, &far}, "source");

    for (auto* client : {&near, &far}) {  // stale entries that fire() must correct
        client->space.enter();
        sh(
            fmt::format("ip neigh replace 192.0.2.10 lladdr {0} dev eth0 nud stale; "
                        "ip neigh replace 2001:db8::10 lladdr {0} dev eth0 nud stale",
                        wrong_mac));
    }
    hosts.fire();
    check_guest_at(hosts, {&near, &far}, "destination");
    hosts.fire();  // the answer to the first may have been lost
    check_guest_at(hosts, {&near, &far}, "destination");
    hosts.rollback();
    check_guest_at(hosts, {&near, &far}, "source");
    hosts.rollback();
    check_guest_at(hosts, {&near, &far}, "source");

    hosts.prepare();
    hosts.fire();
    hosts.destination.space.enter();
    must(hosts.loop->run(hosts.mover_b->settle(within(10s))));
    must(hosts.loop->run(hosts.mover_a->settle(within(10s))));
    check_guest_at(hosts, {&near, &far}, "destination");
    CHECK(hosts.mover_b->moves() ==
          std::vector<std::string>{guest.text(), "192.0.2.10", "2001:db8::10", "fe80::10"});
}

TEST_CASE("between STOP and the announcement each frame goes to one place", "[netmove]") {
    TwoHosts hosts;
    Client near(hosts.source, 1);
    hosts.guest_speaks();
    hosts.prepare();
    must(hosts.mover_a->fire());
    // The source's ring keeps what arrives until the announcement is sent at the destination.
    CHECK(hosts.arrives(near, "192.0.2.10") == "source");
    CHECK(hosts.arrives(near, "2001:db8::10") == "source");
    must(hosts.mover_b->fire());
    CHECK(hosts.arrives(near, "192.0.2.10") == "destination");
}

TEST_CASE("the destination's tap receives nothing before fire, and everything after it",
          "[netmove]") {
    TwoHosts hosts;
    Client far(hosts.destination, 2);
    hosts.guest_speaks();
    hosts.prepare();
    CHECK(hosts.destination.link("tap0").queue_length == migration_queue_length);
    auto const speak = [&far] {
        far.space.enter();
        // ARP without an owner is a broadcast, ND without an owner a multicast, an unknown station
        // a unicast.
        sh("ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
        for (auto const* address : {"192.0.2.99", "2001:db8::99", "192.0.2.77"}) {
            far.send_to(address);
        }
    };
    auto const kinds = [](Tap const& tap) {
        int bits = 0;
        for (auto const& frame : received(tap)) {
            if (frame[0] == 0xff) bits |= 1;
            if (frame[0] == 0x33) bits |= 2;
            if (frame[0] == 0x02) bits |= 4;
        }
        return bits;
    };
    speak();
    int heard = 0;
    CHECK(soon([&] { return (heard |= kinds(hosts.source.tap)) == 7; }));  // the other frames do
    CHECK(kinds(hosts.destination.tap) == 0);
    hosts.fire();
    (void)received(hosts.destination.tap);
    sh("ip neigh flush dev eth0");
    speak();
    heard = 0;
    CHECK(soon([&] { return (heard |= kinds(hosts.destination.tap)) == 7; }));
}

TEST_CASE("rollback leaves the destination as prepare found it", "[netmove]") {
    TwoHosts hosts;
    hosts.guest_speaks();
    auto const persistent = GENERATE(false, true);
    hosts.destination.space.enter();
    if (persistent) {
        must(place_tap(hosts.destination.netlink, "tap0", {"br0", 0, 0}));
        sh("bridge link set dev tap0 mcast_flood off");
    }
    auto const before = hosts.destination.link("tap0");
    hosts.prepare();
    hosts.fire();
    CHECK(hosts.destination.port_of_guest() == "tap0");
    hosts.rollback();
    auto const after = hosts.destination.link("tap0");
    CHECK(after.master == before.master);
    CHECK(after.queue_length == before.queue_length);
    CHECK(hosts.destination.port_of_guest() == "cable0");
    REQUIRE(after.port.has_value() == persistent);
    if (persistent) {
        CHECK(after.port->unicast_flood);
        CHECK_FALSE(after.port->multicast_flood);
        CHECK(after.port->broadcast_flood);
    }
}

TEST_CASE("settle repeats the announcements, and the ring keeps its length", "[netmove]") {
    TwoHosts hosts;
    hosts.source.space.enter();
    auto const listener = must(Tap::open(hosts.source.netlink, "listener0", {}));
    must(place_tap(hosts.source.netlink, "listener0", {"br0", 0, 0}));
    hosts.prepare();
    hosts.fire();
    (void)received(listener);
    auto const rounds = [&listener] {
        std::string forms;
        for (auto const& frame : received(listener)) {
            if (frame[12] == 0x08 && frame[13] == 0x06) forms += frame[21] == 1 ? 'q' : 'r';
        }
        return forms;
    };
    SECTION("to the end") {
        must(hosts.loop->run(hosts.mover_b->settle(within(10s))));
        CHECK(rounds() == "rqr");
        CHECK(hosts.destination.link("tap0").queue_length == migration_queue_length);
    }
    SECTION("stopped: the guest moves on") {
        std::stop_source stop;
        stop.request_stop();
        must(hosts.loop->run(hosts.mover_b->settle(core::Deadline::after(10s, stop.get_token()))));
        CHECK(rounds().empty());
        CHECK(hosts.destination.link("tap0").queue_length == migration_queue_length);
    }
    must(hosts.loop->run(hosts.mover_a->settle(within(10s))));
    CHECK(hosts.source.link("tap0").queue_length == 1000);
}

TEST_CASE("addresses learnt since prepare are announced", "[netmove]") {
    TwoHosts hosts;
    Client near(hosts.source, 1);
    auto later = hosts.guest_interface;
    hosts.guest_interface.addresses.clear();
    hosts.mover_b = bridge_mover_destination(*hosts.loop, hosts.destination.netlink,
                                             hosts.destination.tap, hosts.guest_interface);
    hosts.prepare();
    CHECK(hosts.mover_b->moves().size() == 1);
    hosts.mover_b->update(later);
    CHECK(hosts.mover_b->moves().size() == 4);
    must(hosts.mover_b->fire());
    CHECK(soon([&] { return near.cached("2001:db8::10") == guest.text(); }));
    CHECK(soon([&] { return near.cached("192.0.2.10") == guest.text(); }));
}

TEST_CASE("static entries are moved too, and return on rollback", "[netmove]") {
    TwoHosts hosts;
    Client near(hosts.source, 1);
    hosts.source.space.enter();
    sh(fmt::format("bridge fdb replace {} dev tap0 master static", guest.text()));
    hosts.destination.space.enter();
    sh(fmt::format("bridge fdb replace {} dev cable0 master static", guest.text()));
    near.space.enter();
    sh(fmt::format("ip neigh replace 192.0.2.10 lladdr {} dev eth0 nud permanent", guest.text()));
    hosts.prepare();
    hosts.fire();
    CHECK(hosts.arrives(near, "192.0.2.10") == "destination");
    hosts.rollback();
    CHECK(hosts.arrives(near, "192.0.2.10") == "source");
    for (auto* side : {&hosts.source, &hosts.destination}) {
        side->space.enter();
        CHECK(contains(sh("bridge fdb show br br0"),
                       fmt::format("{} dev {} master br0 static", guest.text(),
                                   side == &hosts.source ? "tap0" : "cable0")));
    }
}

TEST_CASE("a port that does not learn gets an entry that stays", "[netmove]") {
    TwoHosts hosts;
    hosts.destination.space.enter();
    must(place_tap(hosts.destination.netlink, "tap0", {"br0", 0, 0}));
    sh("bridge link set dev tap0 learning off");
    hosts.prepare();
    hosts.fire();
    CHECK(contains(sh("bridge fdb show br br0"),
                   fmt::format("{} dev tap0 master br0 static", guest.text())));
}

TEST_CASE("the hosts' own neighbour entries follow, but not static ones", "[netmove]") {
    TwoHosts hosts;
    hosts.destination.space.enter();
    sh(fmt::format(
        "ip link set br0 address 02:00:00:00:0b:00; "  // else it follows its ports, and forgets
        "ip addr add 192.0.2.254/24 dev br0; ip addr add 2001:db8::fe/64 dev br0 nodad; "
        "ip neigh replace 192.0.2.10 dev br0 nud failed; "
        "ip neigh replace 2001:db8::10 lladdr {} dev br0 nud permanent",
        wrong_mac));
    hosts.prepare();
    hosts.fire();
    std::string text = sh("ip neigh show dev br0");
    INFO(text);
    CHECK(contains(text, fmt::format("192.0.2.10 lladdr {} REACHABLE", guest.text())));
    CHECK(contains(text, fmt::format("2001:db8::10 lladdr {} PERMANENT", wrong_mac)));
    CHECK_FALSE(contains(text, "fe80::10"));  // not in the cache before, and not added
}

TEST_CASE("a snooping bridge sends the guest's solicitations to its new port", "[netmove]") {
    TwoHosts hosts("mcast_snooping 1");
    hosts.guest_speaks();
    hosts.destination.space.enter();
    if (!contains(sh("bridge mdb show dev br0"), "ff02::1:ff00:10")) {
        WARN("this kernel's bridges do not snoop: not shown");
        return;
    }
    hosts.prepare();
    CHECK_FALSE(contains(sh("bridge mdb show dev br0"), "port tap0 grp ff02::1:ff00:10"));
    hosts.fire();
    CHECK(contains(sh("bridge mdb show dev br0"), "port tap0 grp ff02::1:ff00:10"));
}

TEST_CASE("on a bridge with VLANs the guest moves in each VLAN", "[netmove]") {
    {
        OneHost probe;
        if (std::system("ip link add br0 type bridge vlan_filtering 1 2>/dev/null") != 0) {
            WARN("this kernel's bridges know no VLANs: not shown");
            return;
        }
    }
    TwoHosts hosts("mcast_snooping 0 vlan_filtering 1");
    Client near(hosts.source, 1);
    hosts.guest_speaks();
    hosts.prepare();
    hosts.fire();
    check_guest_at(hosts, {&near}, "destination");
    hosts.rollback();
    check_guest_at(hosts, {&near}, "source");
}

TEST_CASE("a destination that cannot take the guest is refused, and left as it was", "[netmove]") {
    TwoHosts hosts;
    hosts.destination.space.enter();
    auto const refusal = [&](core::Clock::duration limit = 10s) {
        auto const mover = bridge_mover_destination(*hosts.loop, hosts.destination.netlink,
                                                    hosts.destination.tap, hosts.guest_interface);
        auto const text = sentence(hosts.loop->run(mover->prepare(within(limit))));
        auto const tap = hosts.destination.link("tap0");
        CHECK(tap.master == 0);
        CHECK(tap.queue_length == 1000);
        return text;
    };
    SECTION("its MTU is too small") {
        sh("ip link set br0 mtu 1400");
        auto const text = refusal();
        CHECK(contains(text,
                       "the bridge br0 has an MTU of 1400, but the guest's interface net0 "
                       "uses 1500"));
        CHECK(hosts.destination.link("br0").mtu == 1400);
    }
    SECTION("the bridge is missing, is none, or was not named") {
        hosts.guest_interface.bridge = "br9";
        CHECK(contains(refusal(), "br9 is not a network interface on this host"));
        hosts.guest_interface.bridge = "cable0";
        CHECK(contains(refusal(), "cable0 is not a Linux bridge on this host"));
        hosts.guest_interface.bridge = "";
        CHECK(contains(refusal(), "the tap tap0 is in no bridge"));
    }
    SECTION("the bridge does not let it through in time") {
        sh("ip link set br0 type bridge stp_state 1 forward_delay 400");
        CHECK(contains(refusal(300ms), "the spanning tree protocol still blocks it"));
    }
}

TEST_CASE("larger frames need a bridge that takes them", "[netmove]") {
    TwoHosts hosts;
    hosts.destination.space.enter();
    sh("ip link set cable0 mtu 9000");
    REQUIRE(hosts.destination.link("br0").mtu == 9000);
    hosts.guest_interface.mtu = 9000;
    hosts.mover_b = bridge_mover_destination(*hosts.loop, hosts.destination.netlink,
                                             hosts.destination.tap, hosts.guest_interface);
    must(hosts.loop->run(hosts.mover_b->prepare(within(10s))));
    CHECK(hosts.destination.link("tap0").mtu == 9000);
    CHECK(hosts.destination.link("br0").mtu == 9000);
}

TEST_CASE("a bridge with STP is waited for", "[netmove]") {
    TwoHosts hosts;
    hosts.destination.space.enter();
    sh("ip link set br0 type bridge stp_state 1 forward_delay 200");
    must(hosts.loop->run(hosts.mover_b->prepare(within(30s))));
    CHECK(hosts.destination.link("tap0").port->forwarding());
}

TEST_CASE("a mover made after a restart fires and rolls back", "[netmove]") {
    TwoHosts hosts;
    Client near(hosts.source, 1);
    hosts.guest_speaks();
    hosts.destination.space.enter();
    must(place_tap(hosts.destination.netlink, "tap0", {"br0", 0, 0}));
    hosts.prepare();
    auto const again_a = bridge_mover_source(*hosts.loop, hosts.source.netlink, hosts.source.tap,
                                             hosts.guest_interface);
    auto const again_b = bridge_mover_destination(*hosts.loop, hosts.destination.netlink,
                                                  hosts.destination.tap, hosts.guest_interface);
    SECTION("fire") {
        must(again_b->fire());
        CHECK(hosts.destination.link("tap0").port->broadcast_flood);
        CHECK(hosts.destination.link("tap0").port->unicast_flood);
        check_guest_at(hosts, {&near}, "destination");
    }
    SECTION("prepare, then fire: the closed port is known for ours") {
        must(hosts.loop->run(again_b->prepare(within(10s))));
        must(again_b->fire());
        CHECK(hosts.destination.link("tap0").port->broadcast_flood);
    }
    SECTION("rollback") {
        hosts.fire();
        must(again_b->rollback());
        must(again_a->rollback());
        check_guest_at(hosts, {&near}, "source");
    }
}

TEST_CASE("movers whose tap is down fire nothing, and say so", "[netmove]") {
    TwoHosts hosts;
    hosts.guest_speaks();
    hosts.prepare();
    must(hosts.destination.netlink.set_down("tap0"));
    MoverSet plan;
    plan.add(std::move(hosts.mover_b));
    auto const fired = plan.fire();
    CHECK(contains(sentence(fired), "the tap tap0, which is down"));
    CHECK_FALSE(plan.fired_at());
    CHECK(hosts.source.port_of_guest() == "tap0");
    CHECK(hosts.destination.port_of_guest() == "cable0");
}

}  // namespace netmove_bridge_cases
