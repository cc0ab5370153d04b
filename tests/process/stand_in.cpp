// Stand-ins as `sidecar serve` holds them: the guest is on host a, and its anchor begins on host r,
// which is in the same network by a cable between both bridges. The requests come from another
// host.
#include <tuple>

#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/host/host_identity.hpp"
#include "tests/process/anchor_lab.hpp"

namespace stand_in_cases {

using namespace anchor_lab;

namespace {

constexpr auto guest_ip = "10.0.0.10";

struct StandInLab : AnchorLab {
    StandInLab() {
        sh(fmt::format("ip -n {} link add home type veth peer name home netns {}", a.netns,
                       r.netns));
        for (auto const* host : {&a, &r}) {
            lab::Visit const visit(host->netns);
            if (host == &r) make_bridge("lan");
            sh(fmt::format("ip link set home addrgenmode none; ip link set home master {} up",
                           host == &r ? "lan" : "br0"));
        }
        sh(fmt::format("ip -n {} link add wire2 type veth peer name wire netns {}", b.netns,
                       r.netns));
        for (auto const& [netns, link, number] :
             {std::tuple(b.netns, "wire2", 2), std::tuple(r.netns, "wire", 3)}) {
            sh(
                fmt::format("ip -n {0} address add 198.51.100.{2}/24 dev {1};"
                            "ip -n {0} link set {1} up",
                            netns, link, number));
        }
        start_relay();
        source.emplace(*this, "198.51.100.3");
        announce_at_home();
        (void)received(*station);
    }
    ~StandInLab() { source.reset(); }
    StandInLab(StandInLab const&) = delete;

    void start_relay() { r.start_serve({"--map-bridge", "br0=lan"}); }
    /// After a restart: returns when it has its stand-in again.
    void restart_relay() {
        start_relay();
        REQUIRE(soon(
            [&] { return must(ask(r, protocol::AnchorList{})).json["anchors"].size() == 1; }, 20s));
    }
    static GuestInterface with_address() {
        auto made = interface();
        made.addresses = {{ip(guest_ip), 0}};
        return made;
    }
    [[nodiscard]] protocol::AnchorEnd stand_in(std::uint64_t id) const {
        auto made = end(id);
        made.stand_in = with_address();
        return made;
    }
    [[nodiscard]] protocol::AnchorEnd fresh() const {
        auto made = stand_in(0);
        made.key = key;
        return made;
    }
    /// Where host b has its far ends, as host r sees it.
    [[nodiscard]] static netmove::tunnel::Endpoint far_host() {
        return {ip("198.51.100.2"), netmove::tunnel::default_port};
    }
    /// The far end on host b, and the stand-in on host r; returns the bridge on b.
    std::string begin() {
        auto far = end(0);
        far.key = key;
        far.home_bridge = "br0";
        auto const received = must(ask(b, protocol::AnchorReceive{guest, "m1", serve_port, {far}}));
        must(source->ask(protocol::AnchorPrepare{guest, "m1", far_host(), {fresh()}}));
        return received.bridges.at(0);
    }
    auto point(std::uint64_t id) {
        return source->ask(protocol::AnchorPoint{guest, {stand_in(id)}});
    }
    auto end_stand_in(std::uint64_t id) {
        return source->ask(protocol::AnchorEndStandIn{guest, {end(id)}});
    }
    auto check(GuestInterface interface, std::string const& name = guest,
               std::string const& destination = "") {
        return source->ask(protocol::AnchorStandIn{
            name, {std::move(interface)}, destination, far_host(), Key::generate()});
    }
    /// As the guest's own mover does when it stays, or the destination's when it returns.
    void announce_at_home() {
        must(
            guest_tap->write_frame(gratuitous_arp(mac(guest_mac), ip(guest_ip), ArpForm::request)));
    }
    /// The name of the stand-in's tap.
    [[nodiscard]] std::string tap() const {
        return fmt::format("sas{:08x}", sidecar::anchor_name_hash(guest, mac(guest_mac)));
    }
    [[nodiscard]] sidecar::HomeRecord record() const {
        auto const all = must(sidecar::read_records(r.paths));
        REQUIRE(all.homes.size() == 1);
        return all.homes[0];
    }
    [[nodiscard]] bool nothing_on_relay() const {
        return soon([&] {
            return !r.has_link(tap()) && must(sidecar::read_records(r.paths)).homes.empty();
        });
    }
    void end_processes_of_relay() {
        r.serve->kill();
        for (auto const& seen : lab::processes_in(r.netns)) {
            auto const process = core::Process::open(seen.pid);
            if (process) (void)process->signal(SIGKILL);
        }
        REQUIRE(soon([&] { return lab::processes_in(r.netns).empty(); }));
    }
    /// Host r answers requests of the source again.
    void reach_relay() {
        source.reset();
        source.emplace(*this, "198.51.100.3");
    }

    AnchorHost r{"r", directory.text()};
    std::optional<RemoteSource> source;
};

/// Whether one of the frames is an ARP message of the guest.
bool announced(std::vector<Bytes> const& frames) {
    return std::ranges::any_of(frames, [](Bytes const& frame) {
        auto const parsed = parse_ethernet(frame);
        return parsed && parsed->source == mac(guest_mac) && parsed->ether_type == 0x0806;
    });
}

}  // namespace

TEST_CASE("stand-in: announces the guest at STOP, and the frames of its network take the tunnel",
          "[anchor][stand-in]") {
    StandInLab lab;
    auto const moved = lab.tap_at(lab.b, lab.begin());
    CHECK(lab.r.has_link(lab.tap()));
    CHECK(lab.record().is_stand_in());
    CHECK(lab.record().tap.bridge == "lan");
    CHECK(lab.record().current == 0);
    auto const far = must(sidecar::read_records(lab.b.paths));
    REQUIRE(far.fars.size() == 1);
    CHECK(far.fars[0].home_bridge == "br0");
    lab.send_to_guest(5);
    CHECK(lab.numbers(*lab.guest_tap, 5) == from_to(0, 5));
    CHECK_FALSE(announced(received(*lab.station)));

    must(lab.point(lab.key.id));
    CHECK(soon([&] { return announced(received(*lab.station)); }));
    lab.send_to_guest(20);
    CHECK(lab.numbers(moved, 20) == from_to(5, 25));
    must(moved.write_frame(
        udp_frame(mac(guest_mac), mac(station_mac), ip(guest_ip), ip("10.0.0.20"))));
    CHECK(soon([&] { return !received(*lab.station).empty(); }, 10s));
    must(lab.source->ask(protocol::AnchorKeep{guest, {lab.end(lab.key.id)}}));
    CHECK(announced(received(*lab.station)));  // again
    auto const listed = must(lab.ask(lab.r, protocol::AnchorList{})).json["anchors"].elements();
    REQUIRE(listed.size() == 1);
    CHECK(listed[0]["kind"].text_or("") == "stand_in");
    CHECK(listed[0]["state"].text_or("") == "away");

    // It returns to host a, in the same network.
    lab.announce_at_home();
    lab.send_to_guest(5);
    CHECK(lab.numbers(*lab.guest_tap, 5) == from_to(25, 30));
    CHECK(contains(sentence(lab.end_stand_in(0)), "another tunnel"));
    must(lab.end_stand_in(lab.key.id));
    CHECK(lab.nothing_on_relay());
    must(lab.end_stand_in(lab.key.id));  // again: nothing to do
}

TEST_CASE("stand-in: a rollback gives the guest's addresses back", "[anchor][stand-in]") {
    StandInLab lab;
    auto const moved = lab.tap_at(lab.b, lab.begin());
    must(lab.point(lab.key.id));
    lab.send_to_guest(5);
    CHECK(lab.numbers(moved, 5) == from_to(0, 5));
    must(lab.point(0));
    CHECK(lab.record().current == 0);
    // What the destination still says does not reach the network any more.
    (void)received(*lab.station);
    must(moved.write_frame(gratuitous_arp(mac(guest_mac), ip(guest_ip), ArpForm::request)));
    lab.announce_at_home();
    lab.send_to_guest(5);
    CHECK(lab.numbers(*lab.guest_tap, 5) == from_to(5, 10));
    must(lab.point(0));  // again: the same
    must(lab.end_stand_in(0));
    CHECK(lab.nothing_on_relay());
    lab.send_to_guest(5);
    CHECK(lab.numbers(*lab.guest_tap, 5) == from_to(10, 15));
}

TEST_CASE("stand-in: survives a restart of serve before and after STOP, and a boot",
          "[anchor][stand-in]") {
    StandInLab lab;
    auto const moved = lab.tap_at(lab.b, lab.begin());
    lab.r.serve->kill();
    lab.restart_relay();
    lab.reach_relay();
    CHECK(lab.record().current == 0);
    must(lab.point(lab.key.id));
    lab.send_to_guest(5);
    CHECK(lab.numbers(moved, 5) == from_to(0, 5));
    lab.r.serve->kill();
    lab.send_to_guest(50);
    lab.start_relay();
    CHECK(lab.numbers(moved, 50) == from_to(5, 55));

    lab.end_processes_of_relay();
    sh(fmt::format("ip -n {} link delete {}", lab.r.netns, lab.tap()));
    lab.start_relay();
    REQUIRE(soon([&] { return lab.r.has_link(lab.tap()); }, 20s));
    CHECK(contains(sh(fmt::format("ip -n {} -o link show {}", lab.r.netns, lab.tap())),
                   "master lan"));
    lab.send_to_guest(5);
    CHECK(lab.numbers(moved, 5) == from_to(55, 60));
    lab.reach_relay();
    must(lab.end_stand_in(lab.key.id));
    CHECK(lab.nothing_on_relay());
}

TEST_CASE("stand-in: one of a migration that did not come back makes way", "[anchor][stand-in]") {
    StandInLab lab;
    (void)lab.begin();
    lab.r.serve->kill();
    lab.restart_relay();
    lab.reach_relay();
    lab.key = Key::generate();
    auto far = lab.end(0);
    far.key = lab.key;
    must(lab.ask(lab.b, protocol::AnchorReceive{guest, "m2", serve_port, {far}}));
    must(lab.source->ask(protocol::AnchorPrepare{guest, "m2", lab.far_host(), {lab.fresh()}}));
    CHECK(lab.record().tunnels.size() == 1);
    CHECK(lab.record().tunnels[0].migration_id == "m2");
    // The operator ends it, too.
    must(lab.ask(lab.r, protocol::AnchorRelease{guest, false}));
    CHECK(lab.nothing_on_relay());
}

TEST_CASE("stand-in: what a host cannot stand in for is refused by name", "[anchor][stand-in]") {
    StandInLab lab;
    auto const interface = lab.with_address();
    auto const own = must(sidecar::host_identity(lab.r.paths));
    CHECK(contains(sentence(lab.check(interface, guest, own.id)), "it is the destination"));
    auto other = interface;
    other.bridge = "br9";
    CHECK(contains(sentence(lab.check(other)), "it has no bridge br9"));
    other = interface;
    other.mtu = 9000;
    CHECK(contains(sentence(lab.check(other)), "has an MTU of 1500"));
    other = interface;
    other.network = "ipv4";
    CHECK(contains(sentence(lab.check(other)), "for all protocols, and the guest's is for ipv4"));
    // The far end does not know the tunnel of this test.
    CHECK(contains(sentence(lab.check(interface)), "no tunnel to 198.51.100.2:4791"));
    {
        RemoteSource home(lab);
        auto const refused = home.ask(
            protocol::AnchorStandIn{guest, {interface}, "", lab.far_host(), Key::generate()});
        CHECK(contains(sentence(refused), "web1 runs on it"));
    }
    CHECK_FALSE(lab.r.has_link(lab.tap()));
    CHECK_FALSE(lab::fs::exists(lab.r.paths.anchors()));
    {
        lab::Visit const visit(lab.r.netns);
        auto netlink = must(Netlink::open());
        auto const twin = lab.port_of("lan", "twin", netlink);
        must(twin.write_frame(gratuitous_arp(mac(guest_mac), ip(guest_ip), ArpForm::request)));
        CHECK(contains(sentence(lab.check(interface)), "at the tap twin"));
    }
    lab.announce_at_home();

    (void)lab.begin();
    CHECK(contains(sentence(lab.check(interface, "web2")), "of the guest web1"));
    must(lab.point(lab.key.id));
    CHECK(contains(sentence(lab.check(interface)), "it is the anchor of web1 already"));
    // Not for another tunnel, and not without saying for what.
    auto plain = lab.end(0);
    plain.key = Key::generate();
    CHECK(contains(
        sentence(lab.source->ask(protocol::AnchorPrepare{guest, "m3", lab.far_host(), {plain}})),
        "another tunnel"));
    auto strange = lab.stand_in(0);
    strange.mac = mac(station_mac);
    CHECK(contains(sentence(lab.source->ask(protocol::AnchorPoint{guest, {strange}})),
                   "another interface"));
    // An anchor of the guest's own host is not ended from elsewhere.
    RemoteSource home(lab);
    lab.key = Key::generate();
    (void)lab.prepare();
    CHECK(contains(sentence(home.ask(protocol::AnchorEndStandIn{guest, {lab.end(0)}})),
                   "no stand-in"));
}

}  // namespace stand_in_cases
