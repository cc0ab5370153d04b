// The evpn mover on three VTEPs. With FRR on each, set up by the recipe of docs/: a station at the
// third and the guest exchange numbered datagrams at 1 kHz in each family and both ways, while the
// guest moves as a migration moves it. Without FRR: what the mover itself does, and refuses.
#include "core/loop.hpp"
#include "netmove/bridge_mover.hpp"
#include "tests/process/evpn_lab.hpp"

namespace netmove_evpn_cases {

namespace {

using namespace evpn_lab;
using Clock = std::chrono::steady_clock;
using Ms = std::chrono::duration<double, std::milli>;

core::Deadline within(core::Clock::duration limit) { return core::Deadline::after(limit); }

/// As long as a migration's pause: what FRR needs is well within it.
constexpr auto pause = 150ms;
constexpr auto fabric_limit = 20s;

std::set<std::string> const both_addresses{guest_ipv4, guest_ipv6};

/// One half of a move.
struct Half {
    EvpnHost* host = nullptr;
    MoverSet movers;
};

struct Site : Vteps {
    Site() {
        for (auto* vtep : std::initializer_list<Vtep*>{&a, &b, &c}) {
            vtep->space.enter();
            frr.push_back(std::make_unique<Frr>(static_cast<int>(frr.size()) + 1));
        }
        for (auto* vtep : std::initializer_list<Vtep*>{&a, &b, &c}) {
            vtep->space.enter();
            REQUIRE(soon([] { return flood_entries() == 2; }, 60s));
        }
        guest.enter();
        sh("ip -6 route add fd09::/64 dev eth0");  // the guest's relay gives it a host route only
        guest.runs_on(&a.tap);
        sh("ping -c 1 -W 5 10.9.0.100");
        REQUIRE(soon([&] { return all_send_to(a); }, fabric_limit));
    }
    static int flood_entries() {
        auto const table = sh("bridge fdb show dev vx0");
        int count = 0;
        for (auto at = table.find("00:00:00:00:00:00 dst"); at != std::string::npos;
             at = table.find("00:00:00:00:00:00 dst", at + 1)) {
            ++count;
        }
        return count;
    }
    /// Every VTEP sends the guest's frames to this one.
    bool all_send_to(EvpnHost& host) {
        for (auto* vtep : std::initializer_list<Vtep*>{&a, &b, &c}) {
            if (vtep->guest_place() != (vtep == &host ? "tap0" : host.local)) return false;
        }
        return true;
    }
    Half source(EvpnHost& from, EvpnHost& to) { return {&from, source_movers(*loop, from, to)}; }
    Half destination(EvpnHost& from, EvpnHost& to) {
        return {&to, destination_movers(*loop, from, to)};
    }
    void prepare(Half& half) {
        half.host->space.enter();
        must(loop->run(half.movers.prepare(within(10s))));
    }
    void settle(Half& half) {
        half.host->space.enter();
        must(loop->run(half.movers.settle(within(10s))));
    }

    RelayedGuest guest;
    std::vector<std::unique_ptr<Frr>> frr;
};

/// What waits in a ring goes into another: what a source's and a destination's sidecar do.
unsigned carry(EvpnHost& from, EvpnHost& to) {
    to.space.enter();
    auto const injector = must(Injector::open(to.netlink, "tap0"));
    unsigned carried = 0;
    for (auto const& frame : must(catch_frames(from.tap, caught_bytes_max)).frames) {
        if (Gate::is_own(frame)) continue;
        CHECK(must(injector.put(frame)));
        ++carried;
    }
    return carried;
}

struct Times {
    Ms source{};  ///< Its half fired.
    Ms destination{};
    Ms frr{};  ///< From then until the third VTEP sends there.
    Ms known{};  ///< ... and until the source's FRR knows it.
};

/// From STOP to the end, as SourceMigration and DestinationMigration do it.
Times move(Site& site, EvpnHost& from, EvpnHost& to) {
    auto source = site.source(from, to);
    auto destination = site.destination(from, to);
    site.prepare(destination);
    site.prepare(source);
    to.space.enter();
    auto gate = must(Gate::install(to.netlink, to.tap));
    site.guest.runs_on(nullptr);
    auto const stop = Clock::now();
    must(gate.close());
    Times times;
    auto const began = Clock::now();
    must(source.movers.fire());
    times.source = Clock::now() - began;
    must(destination.movers.fire());
    auto const fired = Clock::now();
    times.destination = fired - began - times.source;
    REQUIRE(soon([&] { return site.c.guest_place() == to.local; }, fabric_limit));
    times.frr = Clock::now() - fired;
    CHECK(soon([&] { return source.movers.may_release(); }, fabric_limit));
    times.known = Clock::now() - fired;
    (void)soon([&] { return Clock::now() - stop > pause; });
    must(source.movers.release());
    auto const caught = carry(from, to);
    must(gate.open());
    site.guest.runs_on(&to.tap);
    CHECK(soon([&] { return carry(from, to) == 0; }));
    site.settle(source);
    site.settle(destination);
    must(Gate::remove(from.netlink, "tap0"));
    UNSCOPED_INFO(caught << " frames were carried");
    return times;
}

void report(std::string const& what, Times const& times) {
    fmt::print(
        "evpn: {}: fired in {:.2f} ms (source) and {:.2f} ms (destination); FRR: the third VTEP "
        "sends there {:.1f} ms later, the source knows it {:.1f} ms later\n",
        what, times.source.count(), times.destination.count(), times.frr.count(),
        times.known.count());
}

void must_be_whole(std::string const& what, Stream& stream) {
    for (auto const& seen : stream.finish()) {
        fmt::print("evpn: {}: {}\n", what, seen.text());
        INFO(what << ": " << seen.text());
        CHECK(seen.sent > 0);
        CHECK(seen.lost == 0);
        CHECK(seen.duplicated == 0);
        CHECK(seen.reordered == 0);
    }
}

/// The third VTEP has the guest's addresses from the new host, so it answers ARP and ND for them.
void addresses_must_be_at(Site& site, EvpnHost& host) {
    CHECK(soon([&] { return site.c.guest_addresses(true) == both_addresses; }, fabric_limit));
    auto const table = site.frr[2]->ask("show evpn arp-cache vni 42");
    INFO(table);
    for (auto const& address : both_addresses) {
        auto const at = table.find(address + " ");
        REQUIRE(at != std::string::npos);
        auto const line = table.substr(at, table.find('\n', at) - at);
        CHECK(contains(line, host.local));
    }
    CHECK(host.guest_addresses(false) == both_addresses);
}

/// A host that the guest left has of it what FRR wrote, and nothing of ours.
void must_be_bare(EvpnHost& host) {
    CHECK(host.guest_addresses(false).empty());
    host.space.enter();
    CHECK_FALSE(contains(sh("nft list tables"), "sidecar"));
}

}  // namespace

TEST_CASE("evpn: there and back over FRR, nothing is lost, and the addresses move too",
          "[netmove][evpn]") {
    Site site;
    Stream to_guest(site.station.space, site.guest.space(), guest_ipv4, guest_ipv6);
    Stream to_station(site.guest.space(), site.station.space, station_ipv4, station_ipv6);
    CHECK(must(evpn_knows(site.a.netlink, "br0", guest_interface().mac)));
    CHECK(must(evpn_knows(site.b.netlink, "br0", guest_interface().mac)));
    report("there", move(site, site.a, site.b));
    CHECK(soon([&] { return site.all_send_to(site.b); }, fabric_limit));
    addresses_must_be_at(site, site.b);
    must_be_bare(site.a);
    report("back", move(site, site.b, site.a));
    CHECK(soon([&] { return site.all_send_to(site.a); }, fabric_limit));
    addresses_must_be_at(site, site.a);
    must_be_bare(site.b);
    must_be_whole("station to guest", to_guest);
    must_be_whole("guest to station", to_station);
    // Two moves: BGP's MAC mobility counts them.
    CHECK(contains(site.frr[2]->ask("show bgp l2vpn evpn route type macip"), "MM:2"));
}

TEST_CASE("evpn: a rollback asks no other host, and is as quick as firing", "[netmove][evpn]") {
    Site site;
    Stream to_guest(site.station.space, site.guest.space(), guest_ipv4, guest_ipv6);
    auto source = site.source(site.a, site.b);
    auto destination = site.destination(site.a, site.b);
    site.prepare(destination);
    site.prepare(source);
    site.b.space.enter();
    auto gate = must(Gate::install(site.b.netlink, site.b.tap));
    site.guest.runs_on(nullptr);
    must(gate.close());
    must(source.movers.fire());
    must(destination.movers.fire());
    REQUIRE(soon([&] { return site.all_send_to(site.b); }, fabric_limit));
    // The destination is not asked: it still announces the guest, and its number is lower.
    auto const began = Clock::now();
    must(source.movers.rollback());
    Ms const took = Clock::now() - began;
    CHECK(source.movers.is_back());
    REQUIRE(soon([&] { return site.c.guest_place() == site.a.local; }, fabric_limit));
    Ms const third = Clock::now() - began;
    fmt::print(
        "evpn: rolled back in {:.2f} ms, the third VTEP sends back {:.1f} ms after its begin\n",
        took.count(), third.count());
    REQUIRE(soon([&] { return site.all_send_to(site.a); }, fabric_limit));
    must(gate.open());
    (void)carry(site.b, site.a);
    must(destination.movers.rollback());
    (void)carry(site.b, site.a);
    must(source.movers.rollback());  // repeated: the same state
    site.guest.runs_on(&site.a.tap);
    CHECK(soon([&] { return site.all_send_to(site.a); }, fabric_limit));
    addresses_must_be_at(site, site.a);
    source.movers = MoverSet();
    destination.movers = MoverSet();
    must_be_bare(site.b);
    for (auto const& seen : to_guest.finish()) {
        INFO(seen.text());
        CHECK(seen.lost == 0);
        CHECK(seen.duplicated == 0);
    }
    Stream again(site.station.space, site.guest.space(), guest_ipv4, guest_ipv6);
    report("after a rollback", move(site, site.a, site.b));
    addresses_must_be_at(site, site.b);
    must_be_whole("after a rollback, station to guest", again);
}

TEST_CASE("evpn: a rollback before FRR has announced the move brings the guest back for good",
          "[netmove][evpn]") {
    Site site;
    auto source = site.source(site.a, site.b);
    auto destination = site.destination(site.a, site.b);
    site.prepare(destination);
    site.prepare(source);
    site.guest.runs_on(nullptr);  // nothing that the guest sends helps
    must(source.movers.fire());
    must(destination.movers.fire());
    must(source.movers.rollback());
    // FRR of the source has not heard of the move yet. It follows it, and is corrected.
    CHECK(soon([&] { return !source.movers.is_back(); }, fabric_limit));
    must(source.movers.rollback());
    CHECK(source.movers.is_back());
    CHECK(soon([&] { return site.all_send_to(site.a); }, fabric_limit));
    must(destination.movers.rollback());
    CHECK(soon([&] { return site.all_send_to(site.a); }, fabric_limit));
    CHECK(site.a.guest_addresses(false) == both_addresses);
}

TEST_CASE("evpn: frames of a VTEP that does not know yet reach the guest's old tap",
          "[netmove][evpn]") {
    Vteps net;
    auto const mac = guest_interface().mac;
    net.c.space.enter();
    sh(
        fmt::format("bridge fdb replace {} dev vx0 dst {} self static; "
                    "bridge fdb replace {} dev vx0 master static",
                    mac.text(), net.a.local, mac.text()));
    net.station.space.enter();
    sh(fmt::format("ip neigh replace {} lladdr {} dev eth0 nud permanent", guest_ipv4, mac.text()));
    auto const arrives = [&] {
        (void)received(net.a.tap);
        net.station.space.enter();
        send_datagram(ip(guest_ipv4));
        return soon(
            [&] {
                return std::ranges::any_of(received(net.a.tap), [&](Bytes const& frame) {
                    return parse_ethernet(frame)->destination == mac;
                });
            },
            500ms);
    };
    // As FRR of the source does when it has learned the new place.
    auto const frr_moves_it = [&] {
        net.a.space.enter();
        sh(fmt::format("bridge fdb replace {} dev vx0 dst {} self master dynamic extern_learn",
                       mac.text(), net.b.local));
    };
    auto source = source_movers(*net.loop, net.a, net.b);
    net.a.space.enter();
    must(net.loop->run(source.prepare(within(10s))));
    must(source.fire());
    CHECK_FALSE(source.may_release());
    CHECK(arrives());
    frr_moves_it();
    CHECK(net.a.guest_place() == net.b.local);
    CHECK(source.may_release());
    CHECK_FALSE(source.is_back());
    CHECK(arrives());
    must(source.release());
    CHECK(arrives());  // until settle(): the last ones are forwarded
    net.a.space.enter();
    CHECK(contains(sh("nft list tables"), "sidecar_evpn"));
    must(net.loop->run(source.settle(within(10s))));
    CHECK_FALSE(arrives());
    net.a.space.enter();
    CHECK_FALSE(contains(sh("nft list tables"), "sidecar_evpn"));
}

TEST_CASE("evpn: neighbour entries are written, and exactly these are removed", "[netmove][evpn]") {
    Vteps net;
    auto& b = net.b;
    auto const mac = guest_interface().mac.text();
    b.space.enter();
    // FRR's, of the guest at the source; and one that the host has itself.
    sh(
        fmt::format("bridge fdb replace {0} dev vx0 dst {1} self master dynamic extern_learn;"
                    "ip neigh replace {2} lladdr {0} dev br0 nud noarp extern_learn;"
                    "ip neigh replace 10.9.0.11 lladdr {0} dev br0 nud reachable;"
                    "ip neigh replace 10.9.0.12 lladdr 52:54:00:12:34:57 dev br0 nud reachable",
                    mac, net.a.local, guest_ipv4));
    CHECK(must(evpn_knows(b.netlink, "br0", guest_interface().mac)));
    auto destination = destination_movers(*net.loop, net.a, b);
    must(net.loop->run(destination.prepare(within(10s))));
    CHECK(b.guest_addresses(false) == std::set<std::string>{"10.9.0.11"});
    must(destination.fire());
    CHECK(b.guest_place() == "tap0");
    auto const entry = must(b.netlink.fdb_entry(b.index("br0"), guest_interface().mac));
    CHECK_FALSE(entry->external);  // the bridge's own again: it ages, and learning moves it
    CHECK(b.guest_addresses(true).empty());
    CHECK(b.guest_addresses(false) == std::set<std::string>{guest_ipv4, guest_ipv6, "10.9.0.11"});
    must(destination.fire());
    must(destination.rollback());
    CHECK(b.guest_addresses(false) == std::set<std::string>{"10.9.0.11"});
    CHECK(b.guest_place() != "tap0");
    CHECK(contains(sh("ip neigh show dev br0"), "10.9.0.12"));
    SECTION("an address of another station stays that station's") {
        sh(
            fmt::format("ip neigh replace {} lladdr 52:54:00:12:34:57 dev br0 nud noarp "
                        "extern_learn",
                        guest_ipv4));
        must(net.loop->run(destination.prepare(within(10s))));
        must(destination.fire());
        CHECK(b.guest_addresses(false) == std::set<std::string>{guest_ipv6, "10.9.0.11"});
        must(destination.rollback());
        CHECK(contains(sh("ip neigh show dev br0"), "10.9.0.10 lladdr 52:54:00:12:34:57"));
    }
    SECTION("what FRR has written meanwhile stays") {
        must(net.loop->run(destination.prepare(within(10s))));
        must(destination.fire());
        sh(fmt::format("ip neigh replace {1} lladdr {0} dev br0 nud noarp extern_learn", mac,
                       guest_ipv4));
        must(destination.rollback());
        CHECK(b.guest_addresses(true) == std::set<std::string>{guest_ipv4});
    }
    SECTION("a bridge without IPv6: the guest moves without these addresses") {
        sh("echo 1 >/proc/sys/net/ipv6/conf/br0/disable_ipv6");
        must(net.loop->run(destination.prepare(within(10s))));
        must(destination.fire());
        CHECK(b.guest_addresses(false) == std::set<std::string>{guest_ipv4, "10.9.0.11"});
    }
}

TEST_CASE("evpn: a VXLAN that EVPN cannot control is refused, with what to change",
          "[netmove][evpn]") {
    Vteps net;
    auto& a = net.a;
    a.space.enter();
    auto const mac = guest_interface().mac;
    REQUIRE(evpn_port(a.netlink, "br0"));
    CHECK_FALSE(must(evpn_knows(a.netlink, "br0", mac)));  // nobody has heard of the guest
    for (auto const& frame : announcements(mac, {}, false, ArpForm::request)) {
        must(a.tap.write_frame(frame));
    }
    CHECK(soon([&] { return must(evpn_knows(a.netlink, "br0", mac)); }));  // it is here
    sh(fmt::format("bridge fdb replace {} dev vx0 master static", mac.text()));
    CHECK_FALSE(must(evpn_knows(a.netlink, "br0", mac)));  // an operator's entry, not a daemon's
    std::string expected;
    SECTION("no device") {
        sh("ip link set vx0 nomaster");
        expected = "no VXLAN device of its own";
    }
    SECTION("a device that learns") {
        sh("ip link del vx0; ip link add vx0 type vxlan id 42 local 10.1.0.1 dstport 4789 learning;"
           "ip link set vx0 master br0 up");
        expected = "with `nolearning`";
    }
    SECTION("a port that learns") {
        sh("bridge link set dev vx0 learning on");
        expected = "bridge link set dev vx0 learning off";
    }
    SECTION("a bridge that filters VLANs") {
        if (std::system("ip link set br0 type bridge vlan_filtering 1 2>/dev/null") != 0) {
            WARN("this kernel has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)");
            return;
        }
        expected = "filters VLANs";
    }
    CHECK(contains(sentence(evpn_port(a.netlink, "br0")), expected));
    CHECK_FALSE(must(evpn_knows(a.netlink, "br0", mac)));
    auto movers = source_movers(*net.loop, a, net.b);
    if (expected.starts_with("no VXLAN")) return;
    CHECK(contains(sentence(net.loop->run(movers.prepare(within(1s)))), expected));
}

}  // namespace netmove_evpn_cases
