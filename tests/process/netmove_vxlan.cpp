// The vxlan mover on three VTEPs: namespaces with a bridge and a VXLAN device each, on an underlay
// of their own. The guest is a tap on two of them; a client is on the third. The checks ask the
// kernels: the tables of bridges and VXLAN devices, and the tap at which a datagram arrives.
#include <linux/neighbour.h>

#include <set>

#include "netmove/bridge_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_vxlan_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const other = mac("52:54:00:12:34:57");

core::Deadline within(core::Clock::duration limit) { return core::Deadline::after(limit); }

struct Form {
    bool ipv6 = false;  ///< The underlay's family.
    bool learning = false;
    [[nodiscard]] std::string vtep(int number) const {
        return fmt::format("{}{}", ipv6 ? "fd09::" : "10.9.0.", number);
    }
};

struct Underlay {
    Underlay() { make_bridge("sw0"); }
    Space space;
};

/// VTEP `number` of three. Nothing answers for the guest; the only way in is the VXLAN device.
struct Vtep {
    Vtep(Underlay const& underlay, Form const& form, int number) : local(form.vtep(number)) {
        sh(
            fmt::format("ip link add eth0 mtu 1600 type veth peer name p{0} mtu 1600 netns {1}; "
                        "ip link set eth0 up; ip addr add 10.9.0.{0}/24 dev eth0; "
                        "ip addr add fd09::{0}/64 dev eth0 nodad",
                        number, underlay.space.path()));
        underlay.space.enter();
        sh(fmt::format("ip link set p{0} master sw0; ip link set p{0} up", number));
        space.enter();
        make_bridge("br0");
        add_device("vx0", 42, form.learning);
        sh("ip link set vx0 master br0");
        if (!form.learning) sh("bridge link set dev vx0 learning off");
        for (int peer = 1; peer <= 3; ++peer) {
            if (peer == number) continue;
            sh(fmt::format("bridge fdb append 00:00:00:00:00:00 dev vx0 dst {}", form.vtep(peer)));
        }
    }
    void add_device(std::string const& name, int vni, bool learning) {
        sh(
            fmt::format("ip link add {0} mtu 1500 type vxlan id {1} local {2} dstport 4789 {3}; "
                        "ip link set {0} addrgenmode none; ip link set {0} up",
                        name, vni, local, learning ? "learning" : "nolearning"));
    }
    [[nodiscard]] int index(std::string const& name) { return must(netlink.link(name)).index; }
    /// The VTEP to which the VXLAN device sends the guest's frames; "" when it floods them.
    std::string remote(std::string const& device = "vx0", MacAddress const& station = guest) {
        auto const entry = must(netlink.vxlan_entry(index(device), station));
        return entry ? entry->remote.text() : "";
    }
    /// The port to which the bridge sends them; "" when it floods them.
    std::string port() {
        for (auto const& entry : must(netlink.fdb(index("br0")))) {
            if (entry.mac == guest) return must(netlink.link(entry.port)).name;
        }
        return "";
    }
    /// Records where the guest is, as the operator of this network would.
    void know(std::string const& vtep) {
        space.enter();
        sh(
            fmt::format("bridge fdb replace {0} dev vx0 dst {1} self static; "
                        "bridge fdb replace {0} dev vx0 master static",
                        guest.text(), vtep));
    }

    Space space;
    std::string local;
    Netlink netlink = must(Netlink::open());
};

struct GuestHost : Vtep {
    using Vtep::Vtep;
    Tap tap = must(Tap::open(netlink, "tap0", {}));
};

/// A station on a VTEP's bridge that knows the guest's MAC.
struct Client {
    Client(Vtep& vtep, int number) {
        plug_station(vtep.space, number);
        space.enter();
        for (auto const* address : {"192.0.2.10", "2001:db8::10"}) {
            sh(fmt::format("ip neigh replace {} lladdr {} dev eth0 nud permanent", address,
                           guest.text()));
        }
        vtep.space.enter();
        REQUIRE(soon([&] { return must(vtep.netlink.link("client0")).port->forwarding(); }));
    }
    void send_to(std::string const& address) {
        space.enter();
        send_datagram(ip(address));
    }
    Space space;
};

struct ThreeVteps {
    explicit ThreeVteps(Form const& wanted = {}) : form(wanted) {
        a.space.enter();
        must(place_tap(a.netlink, "tap0", {"br0", 0, 0}));
        REQUIRE(soon([&] { return must(a.netlink.link("tap0")).port->forwarding(); }));
        if (!form.learning) {
            b.know(a.local);
            c.know(a.local);
        }
        make_movers();
    }
    /// The interface as both sides know it after `check`.
    GuestInterface interface() {
        GuestInterface out;
        out.netdev = "net0";
        out.tap = "tap0";
        out.bridge = "br0";
        out.mac = guest;
        out.addresses = {{ip("192.0.2.10"), 0}, {ip("2001:db8::10"), 0}};
        out.vxlan_source = must(vxlan_end(a.netlink, "br0"));
        out.vxlan_destination = must(vxlan_end(b.netlink, "br0"));
        return out;
    }
    /// New movers, as after a restart.
    void make_movers() {
        auto const moved = interface();
        at_a = MoverSet();
        at_a.add(vxlan_mover_source(a.netlink, moved));
        at_a.add(bridge_mover_source(*loop, a.netlink, a.tap, moved));
        at_b = MoverSet();
        at_b.add(bridge_mover_destination(*loop, b.netlink, b.tap, moved));
        at_b.add(vxlan_mover_destination(b.netlink, moved));
        at_c = std::make_unique<VxlanVtep>(c.netlink, move());
    }
    [[nodiscard]] VxlanMove move() const { return {guest, 42, ip(a.local), ip(b.local), 1500}; }
    void guest_speaks(Tap const& tap) {
        for (auto const& frame :
             announcements(guest, interface().addresses, false, ArpForm::request)) {
            must(tap.write_frame(frame));
        }
    }
    void prepare() {
        a.space.enter();
        must(loop->run(at_a.prepare(within(10s))));
        b.space.enter();
        must(loop->run(at_b.prepare(within(10s))));
        c.space.enter();
        must(loop->run(at_c->prepare(within(10s))));
        (void)received(a.tap);
    }
    void fire() {
        must(at_a.fire());
        must(at_b.fire());
        must(at_c->fire());
        must(at_a.release());
    }
    void rollback() {
        must(at_b.rollback());
        must(at_a.rollback());
        must(at_c->rollback());
    }
    /// Where a client's datagram arrives: "source", "destination", both, or "".
    std::string arrives(Client& client, std::string const& address = "192.0.2.10") {
        (void)received(a.tap);
        (void)received(b.tap);
        client.send_to(address);
        std::string where;
        auto const look = [&where](Tap const& tap, char const* name) {
            for (auto const& frame : received(tap)) {
                auto const parsed = parse_ethernet(frame);
                if (parsed->destination == guest && parsed->ether_type != 0x0806) where += name;
            }
        };
        (void)soon([&] {
            look(a.tap, "source");
            look(b.tap, "destination");
            return !where.empty();
        });
        return where;
    }

    Home home;
    Form form;
    std::unique_ptr<core::Loop> loop = must(core::Loop::create());
    Underlay underlay;
    GuestHost a{underlay, form, 1};
    GuestHost b{underlay, form, 2};
    Vtep c{underlay, form, 3};
    MoverSet at_a;
    MoverSet at_b;
    std::unique_ptr<VxlanVtep> at_c;
};

void check_guest_at_source(ThreeVteps& net) {
    CHECK(net.a.port() == "tap0");
    CHECK(net.a.remote().empty());
    CHECK(net.b.port() == "vx0");
    CHECK(net.b.remote() == net.a.local);
    CHECK(net.c.port() == "vx0");
    CHECK(net.c.remote() == net.a.local);
}

void check_guest_at_destination(ThreeVteps& net) {
    CHECK(net.a.port() == "vx0");
    CHECK(net.a.remote() == net.b.local);
    CHECK(net.b.port() == "tap0");
    CHECK(net.b.remote().empty());
    CHECK(net.c.port() == "vx0");
    CHECK(net.c.remote() == net.b.local);
}

std::string refusal(ThreeVteps& net) {
    net.make_movers();
    return sentence(net.loop->run(net.at_a.prepare(within(1s))));
}

}  // namespace

TEST_CASE("the vxlan mover moves the guest at three VTEPs, and back on rollback", "[netmove]") {
    ThreeVteps net({.ipv6 = GENERATE(false, true)});
    Client near(net.a, 1);
    Client far(net.c, 3);
    net.guest_speaks(net.a.tap);
    CHECK(soon([&] { return net.a.port() == "tap0"; }));
    check_guest_at_source(net);
    net.prepare();
    check_guest_at_source(net);
    CHECK(net.at_c->device() == "vx0");
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "source");

    must(net.at_a.fire());
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "source");
    must(net.at_b.fire());
    // The entries have not changed yet: the source's ring receives the datagram.
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "source");
    must(net.at_c->fire());
    CHECK(net.arrives(far) == "destination");
    CHECK(net.arrives(far, "2001:db8::10") == "destination");
    CHECK(net.arrives(near) == "source");
    must(net.at_a.release());
    CHECK(net.arrives(near) == "destination");
    CHECK(net.arrives(near, "2001:db8::10") == "destination");
    check_guest_at_destination(net);
    CHECK(net.at_c->changed());
    net.fire();  // repeated: the first answer may have been lost
    check_guest_at_destination(net);

    auto const restarted = GENERATE(false, true);
    if (restarted) net.make_movers();
    net.rollback();
    check_guest_at_source(net);
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "source");
    net.rollback();
    check_guest_at_source(net);
}

TEST_CASE("the vxlan mover: a guest that was moved is moved again, back to where it was",
          "[netmove]") {
    ThreeVteps net;
    Client far(net.c, 3);
    net.guest_speaks(net.a.tap);
    net.prepare();
    net.fire();
    must(net.loop->run(net.at_a.settle(within(1s))));
    check_guest_at_destination(net);
    // The way back, with the movers of another migration.
    auto moved = net.interface();
    std::swap(moved.vxlan_source, moved.vxlan_destination);
    MoverSet from;
    from.add(vxlan_mover_source(net.b.netlink, moved));
    from.add(bridge_mover_source(*net.loop, net.b.netlink, net.b.tap, moved));
    MoverSet to;
    to.add(bridge_mover_destination(*net.loop, net.a.netlink, net.a.tap, moved));
    to.add(vxlan_mover_destination(net.a.netlink, moved));
    auto back = net.move();
    std::swap(back.from, back.to);
    VxlanVtep vtep(net.c.netlink, back);
    must(net.loop->run(from.prepare(within(10s))));
    must(net.loop->run(to.prepare(within(10s))));
    must(net.loop->run(vtep.prepare(within(10s))));
    must(from.fire());
    must(to.fire());
    must(vtep.fire());
    must(from.release());
    check_guest_at_source(net);
    CHECK(net.arrives(far) == "source");
}

TEST_CASE("the vxlan mover: a late rollback does not touch what was prepared and never fired",
          "[netmove]") {
    ThreeVteps net;
    net.prepare();
    // Meanwhile another migration has moved the guest to the third VTEP.
    net.b.know(net.c.local);
    net.rollback();
    CHECK(net.b.remote() == net.c.local);
    CHECK(net.c.remote() == net.a.local);
}

TEST_CASE("the vxlan mover: devices that learn are moved by the announcement", "[netmove]") {
    ThreeVteps net({.learning = true});
    Client near(net.a, 1);
    Client far(net.c, 3);
    net.guest_speaks(net.a.tap);
    CHECK(soon([&] { return net.c.remote() == net.a.local; }));
    net.prepare();
    must(net.at_a.fire());
    CHECK(net.a.remote().empty());  // no fixed entry for what it will learn
    must(net.at_b.fire());
    CHECK(soon([&] { return net.c.remote() == net.b.local; }));
    must(net.at_a.release());
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "destination");
    net.rollback();
    CHECK(soon([&] { return net.c.remote() == net.a.local; }));
    for (auto* client : {&near, &far}) CHECK(net.arrives(*client) == "source");
    SECTION("but for what is static") {
        net.c.know(net.a.local);
        net.make_movers();
        net.prepare();
        must(net.at_a.fire());
        must(net.at_b.fire());
        CHECK(net.c.remote() == net.a.local);  // a device drops frames that contradict its entry
        must(net.at_c->fire());
        CHECK(net.c.remote() == net.b.local);
    }
}

TEST_CASE("a VTEP changes the guest's entry of that VXLAN, and nothing else", "[netmove]") {
    ThreeVteps net;
    auto& c = net.c;
    c.space.enter();
    c.add_device("vx9", 9, false);
    sh(
        fmt::format("bridge fdb add {1} dev vx0 dst {2} self; "
                    "bridge fdb add {0} dev vx9 dst {2} self static; "
                    "ip neigh replace 192.0.2.10 lladdr {0} dev vx0 nud stale; "
                    "ip neigh replace 2001:db8::10 lladdr {0} dev vx0 nud stale; "
                    "ip neigh replace 192.0.2.11 lladdr {1} dev vx0 nud stale",
                    guest.text(), other.text(), net.a.local));
    auto const reachable = [&c] {
        std::set<std::string> out;
        for (auto const& entry : must(c.netlink.neighbours(c.index("vx0")))) {
            if (entry.state == NUD_REACHABLE) out.insert(entry.address.text());
        }
        return out;
    };
    SECTION("as it is") {
        net.prepare();
        must(net.at_c->fire());
        CHECK(c.remote() == net.b.local);
        CHECK(reachable() == std::set<std::string>{"192.0.2.10", "2001:db8::10"});
        must(net.at_c->rollback());
        CHECK(c.remote() == net.a.local);
    }
    SECTION("of a routing daemon, with a port of its own: it stays so") {
        sh(
            fmt::format("bridge fdb del {0} dev vx0 self; "
                        "bridge fdb add {0} dev vx0 dst {1} port 4790 self static extern_learn",
                        guest.text(), net.a.local));
        net.prepare();
        must(net.at_c->fire());
        auto const entry = must(c.netlink.vxlan_entry(c.index("vx0"), guest));
        REQUIRE(entry);
        CHECK(entry->remote.text() == net.b.local);
        CHECK(entry->port == 4790);
        CHECK((entry->flags & NTF_EXT_LEARNED) != 0);
        CHECK((entry->state & NUD_NOARP) != 0);
    }
    SECTION("that says something else: neither there nor back") {
        for (auto const& vtep : {std::string("10.9.0.77"), net.b.local}) {
            c.know(vtep);
            net.make_movers();
            net.prepare();
            must(net.at_c->fire());
            CHECK_FALSE(net.at_c->changed());
            CHECK(c.remote() == vtep);
            must(net.at_c->rollback());
            CHECK(c.remote() == vtep);
        }
    }
    SECTION("that is not there: none is made") {
        c.space.enter();
        sh(fmt::format("bridge fdb del {} dev vx0 self", guest.text()));
        net.prepare();
        must(net.at_c->fire());
        CHECK(c.remote().empty());
    }
    CHECK(c.remote("vx0", other) == net.a.local);
    CHECK(c.remote("vx9") == net.a.local);
}

TEST_CASE("one of the two hosts, asked as a VTEP, has nothing to do", "[netmove]") {
    ThreeVteps net;
    VxlanVtep vtep(net.b.netlink, net.move());
    must(net.loop->run(vtep.prepare(within(1s))));
    CHECK(vtep.device().empty());
    must(vtep.fire());
    CHECK(net.b.remote() == net.a.local);
}

TEST_CASE("the vxlan mover refuses what would lose packets, with a reason", "[netmove]") {
    Form const form{.ipv6 = GENERATE(false, true)};
    ThreeVteps net(form);
    SECTION("another VXLAN") {
        net.b.space.enter();
        sh("ip link del vx0");
        net.b.add_device("vx0", 43, false);
        sh("ip link set vx0 master br0");
        CHECK(contains(refusal(net), "VXLAN 42 on the source and in VXLAN 43 on the destination"));
    }
    SECTION("none on the other host") {
        net.b.space.enter();
        sh("ip link del vx0");
        CHECK(contains(refusal(net), "in VXLAN 42 on the source, whose device does not learn"));
    }
    SECTION("a device without an address") {
        net.b.space.enter();
        sh("ip link del vx0; ip link add vx0 type vxlan id 42 dstport 4789 nolearning; "
           "ip link set vx0 master br0");
        CHECK(contains(refusal(net), "on the destination does not say which address it uses"));
    }
    SECTION("a small device") {
        net.a.space.enter();
        sh("ip link set vx0 mtu 1450");
        CHECK(contains(refusal(net), "the VXLAN device vx0 has an MTU of 1450"));
    }
    SECTION("a small underlay") {
        int const needed = 1500 + (form.ipv6 ? vxlan_overhead_ipv6 : vxlan_overhead_ipv4);
        net.c.space.enter();
        sh(fmt::format("ip link set eth0 mtu {}", needed));
        must(net.loop->run(net.at_c->prepare(within(1s))));
        sh(fmt::format("ip link set eth0 mtu {}", needed - 1));
        VxlanVtep vtep(net.c.netlink, net.move());
        auto const refused = sentence(net.loop->run(vtep.prepare(within(1s))));
        CHECK(contains(refused, fmt::format("an MTU of {} (on eth0)", needed - 1)));
        CHECK(contains(refused, fmt::format("1500 bytes are {}", needed)));
        net.a.space.enter();
        sh(fmt::format("ip link set eth0 mtu {}", needed - 1));
        CHECK(contains(refusal(net), "the way to the VTEP " + net.b.local));
    }
    SECTION("a VTEP that is in no such VXLAN") {
        auto move = net.move();
        move.vni = 77;
        VxlanVtep vtep(net.c.netlink, move);
        CHECK(contains(sentence(net.loop->run(vtep.prepare(within(1s)))),
                       "there is no device of VXLAN 77"));
    }
}

}  // namespace netmove_vxlan_cases
