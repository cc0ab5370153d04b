// Anchors as `sidecar serve` holds them: the guest's own tap at home, and the far end elsewhere.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "sidecar/anchor/record_files.hpp"
#include "tests/process/anchor_lab.hpp"

namespace anchor_cases {

using namespace anchor_lab;

TEST_CASE("anchor: records survive as they were written, and a damaged one hides no other",
          "[anchor][records]") {
    storage_lab::Directory const directory;
    Paths const paths{directory.text() + "/run", directory.text() + "/state"};
    must(sidecar::make_directory(paths.state_directory));
    Runner runner;
    sidecar::RecordFiles files(runner.loop(), paths);
    sidecar::HomeRecord home;
    home.guest = guest;
    home.mac = mac(guest_mac);
    home.tap = {"web1", 2, true, mac("fe:00:00:00:00:01"), 9000, 4000, "br0"};
    home.tunnels = {{Key::generate(), {ip("2001:db8::1"), 4791}, "m1"}};
    home.current = home.tunnels[0].key.id;
    home.since_ms = 17;
    home.holder = {42, 1, "boot"};
    runner.must(files.write(home));
    sidecar::FarRecord far;
    far.guest = "db.2";
    far.mac = mac(station_mac);
    far.migration_id = "m2";
    far.tap = {"sat00000001", 1, true, mac("fe:00:00:00:00:02"), 1500, 4000, "sca00000001"};
    far.key = Key::generate();
    far.anchor_port = 4790;
    far.home_bridge = "br0";
    runner.must(files.write(far));
    for (auto const& entry : lab::fs::directory_iterator(paths.anchors())) {
        struct stat file{};
        REQUIRE(::stat(entry.path().c_str(), &file) == 0);
        CHECK((file.st_mode & 0777) == 0600);
    }
    lab::write_file(paths.anchors() + "/other.home.json", "{\"guest\":\"../x\"}");
    auto const all = must(sidecar::read_records(paths));
    REQUIRE(all.homes.size() == 1);
    REQUIRE(all.fars.size() == 1);
    CHECK(all.unreadable.size() == 1);
    CHECK(all.homes[0].to_json().dump() == home.to_json().dump());
    CHECK_FALSE(all.homes[0].is_stand_in());
    CHECK(all.fars[0].to_json().dump() == far.to_json().dump());
    CHECK(must(sidecar::far_records(paths, "db.2")).size() == 1);
    CHECK(must(sidecar::far_records(paths, guest)).empty());
    runner.must(files.remove(home));
    runner.must(files.remove(home));  // again: nothing to do
    CHECK(must(sidecar::read_records(paths)).homes.empty());
    // What is asked for last stays, whichever is run first.
    auto removal = files.remove(far);
    auto early = files.write(home);
    home.since_ms = 18;
    auto late = files.write(home);
    auto again = files.write(far);
    for (auto* const task : {&late, &again, &early, &removal}) runner.must(std::move(*task));
    auto const last = must(sidecar::read_records(paths));
    REQUIRE(last.homes.size() == 1);
    CHECK(last.homes[0].since_ms == 18);
    CHECK(last.fars.size() == 1);
}

TEST_CASE("anchor: frames wait for the move, take the tunnel, and come home", "[anchor]") {
    AnchorLab lab;
    auto const bridge = lab.prepare();
    auto const moved = lab.tap_at(lab.b, bridge);
    lab.send_to_guest(20);
    must(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.send_to_guest(20);
    CHECK(lab.numbers(moved, 40) == from_to(0, 40));
    // The guest's frames leave through its tap at home.
    must(moved.write_frame(
        udp_frame(mac(guest_mac), mac(station_mac), ip("10.0.0.10"), ip("10.0.0.20"))));
    CHECK(soon([&] { return !received(*lab.station).empty(); }, 10s));
    must(lab.ask(lab.a, protocol::AnchorKeep{guest, {lab.end(lab.key.id)}}));

    // QEMU ends: the tap stays, and so do frames.
    lab.guest_tap.reset();
    CHECK(lab.a.has_link("guest"));
    lab.send_to_guest(5);
    CHECK(lab.numbers(moved, 5) == from_to(40, 45));
    auto const refused = lab.ask(lab.a, protocol::AnchorRelease{guest, false});
    CHECK(contains(sentence(refused), "--force"));
    must(lab.ask(lab.a, protocol::AnchorReturn{guest}));
    CHECK(soon([&] { return !lab.a.has_link("guest"); }));
    must(lab.ask(lab.b, protocol::AnchorLeave{guest, ""}));
    CHECK(soon([&] { return !lab.b.has_link(bridge); }));
    CHECK(lab::fs::is_empty(lab.a.paths.anchors()));
    CHECK(lab::fs::is_empty(lab.b.paths.anchors()));
}

TEST_CASE("anchor: a preparation that is dropped leaves the tap to QEMU", "[anchor]") {
    AnchorLab lab;
    auto const bridge = lab.prepare();
    lab.send_to_guest(3);
    must(lab.ask(lab.a, protocol::AnchorKeep{guest, {lab.end(0)}}));
    must(lab.ask(lab.b, protocol::AnchorLeave{guest, "another"}));
    CHECK(lab.b.has_link(bridge));
    must(lab.ask(lab.b, protocol::AnchorLeave{guest, "m1"}));
    CHECK_FALSE(lab.b.has_link(bridge));
    CHECK(lab.numbers(*lab.guest_tap, 3) == from_to(0, 3));
    CHECK(lab.a.has_link("guest"));
    lab.guest_tap.reset();
    CHECK(soon([&] { return !lab.a.has_link("guest"); }));
}

TEST_CASE("anchor: frames wait in the ring while serve is restarted", "[anchor]") {
    AnchorLab lab;
    auto const moved = lab.tap_at(lab.b, lab.prepare());
    must(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.guest_tap.reset();
    lab.send_to_guest(5);
    CHECK(lab.numbers(moved, 5) == from_to(0, 5));
    lab.a.serve->kill();
    lab.send_to_guest(100);
    lab.a.start_serve();
    CHECK(lab.numbers(moved, 100) == from_to(5, 105));
    REQUIRE(lab.b.serve->end() == 0);
    lab.b.start_serve();
    // Once both ends know each other again.
    CHECK(soon(
        [&] {
            lab.send_to_guest(1);
            return !lab.numbers(moved, 1).empty();
        },
        30s));
}

TEST_CASE("anchor: after a boot, taps and bridges are made again as they were", "[anchor]") {
    AnchorLab lab;
    auto const bridge = lab.prepare();
    must(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.guest_tap.reset();
    auto const before = sh(fmt::format("ip -n {} -br link show guest", lab.a.netns));
    // A boot leaves the state directory only.
    for (auto* const host : {&lab.a, &lab.b}) {
        host->serve->kill();
        for (auto const& seen : lab::processes_in(host->netns)) {
            auto const process = core::Process::open(seen.pid);
            if (process && seen.argv.size() > 1 && seen.argv[1] == "anchor-holder") {
                (void)process->signal(SIGKILL);
            }
        }
        CHECK(soon([&] { return lab::processes_in(host->netns).empty(); }));
    }
    sh(fmt::format("ip -n {} link delete guest", lab.a.netns));
    sh(fmt::format("ip -n {0} link delete {1}; ip -n {0} link delete sat{2}", lab.b.netns, bridge,
                   bridge.substr(3)));
    lab.a.start_serve();
    lab.b.start_serve();
    REQUIRE(soon([&] { return lab.a.has_link("guest") && lab.b.has_link(bridge); }, 20s));
    CHECK(sh(fmt::format("ip -n {} -br link show guest", lab.a.netns)) == before);
    auto const moved = lab.tap_at(lab.b, bridge);
    lab.send_to_guest(10);
    CHECK(lab.numbers(moved, 10) == from_to(0, 10));
}

TEST_CASE("anchor: what a peer may not ask changes nothing", "[anchor][hostile]") {
    AnchorLab lab;
    auto fresh = lab.end(0);
    fresh.key = lab.key;
    auto const peer = netmove::tunnel::Endpoint{ip("192.0.2.2"), 4791};
    auto const prepare = [&](std::string name, protocol::AnchorEnd one) {
        return protocol::AnchorPrepare{std::move(name), "m1", peer, {std::move(one)}};
    };
    CHECK(contains(sentence(lab.ask(lab.a, prepare("web2", fresh))), "no guest web2"));
    auto other = fresh;
    other.tap = "station";
    CHECK(contains(sentence(lab.ask(lab.a, prepare(guest, other))), "has no interface"));
    auto elsewhere = fresh;
    elsewhere.id = 77;
    CHECK(contains(sentence(lab.ask(lab.a, prepare(guest, elsewhere))), "no anchor"));
    CHECK(contains(sentence(lab.ask(lab.a, prepare("../web1", fresh))), "not a guest name"));
    CHECK(contains(sentence(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(5)}})),
                   "no anchor"));
    CHECK_FALSE(lab::fs::exists(lab.a.paths.anchors()));

    // From another host: no anchor begins, and none ends.
    (void)lab.prepare();
    RemoteSource source(lab);
    CHECK(contains(sentence(source.ask(protocol::AnchorKeep{guest, {lab.end(0)}})),
                   "only a process"));
    CHECK(contains(sentence(source.ask(protocol::AnchorRelease{guest, true})), "may not send"));
    CHECK(contains(sentence(source.ask(prepare("web2", fresh))), "no anchor"));
    auto wrong = fresh;
    wrong.id = 99;
    CHECK(contains(sentence(source.ask(prepare(guest, wrong))), "another tunnel"));
    CHECK(must(sidecar::read_records(lab.a.paths)).homes.size() == 1);
}

TEST_CASE("anchor: the guest moves on, and its frames take the other tunnel in one step",
          "[anchor]") {
    AnchorLab lab;
    AnchorHost c("c", lab.directory.text());
    sh(fmt::format("ip -n {} link add wire2 type veth peer name wire netns {}", lab.a.netns,
                   c.netns));
    sh(fmt::format("ip -n {0} address add 198.51.100.1/24 dev wire2; ip -n {0} link set wire2 up",
                   lab.a.netns));
    sh(fmt::format("ip -n {0} address add 198.51.100.2/24 dev wire; ip -n {0} link set wire up",
                   c.netns));
    c.start_serve();
    auto const at_b = lab.tap_at(lab.b, lab.prepare());
    must(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.guest_tap.reset();
    lab.send_to_guest(10);
    CHECK(lab.numbers(at_b, 10) == from_to(0, 10));

    auto next = lab.end(lab.key.id);
    next.key = Key::generate();
    auto const received =
        must(lab.ask(c, protocol::AnchorReceive{guest, "m2", serve_port, {next}}));
    auto const at_c = lab.tap_at(c, received.bridges[0]);
    auto const where = must(lab.ask(lab.b, protocol::AnchorWhere{guest}));
    REQUIRE(where.ends.size() == 1);
    CHECK(where.ends[0].home == "192.0.2.1:4790");
    RemoteSource source(lab);
    auto const peer = netmove::tunnel::Endpoint{ip("198.51.100.2"), 4791};
    must(source.ask(protocol::AnchorPrepare{guest, "m2", peer, {next}}));
    lab.send_to_guest(5);
    must(source.ask(protocol::AnchorPoint{guest, {lab.end(next.key->id)}}));
    lab.send_to_guest(5);
    CHECK(lab.numbers(at_b, 5) == from_to(10, 15));
    CHECK(lab.numbers(at_c, 5) == from_to(15, 20));
    // A rollback, and again.
    must(source.ask(protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.send_to_guest(5);
    CHECK(lab.numbers(at_b, 5) == from_to(20, 25));
    must(source.ask(protocol::AnchorKeep{guest, {lab.end(next.key->id)}}));
    lab.send_to_guest(5);
    CHECK(lab.numbers(at_c, 5) == from_to(25, 30));
    auto const records = must(sidecar::read_records(lab.a.paths));
    REQUIRE(records.homes.size() == 1);
    CHECK(records.homes[0].tunnels.size() == 1);
    CHECK(records.homes[0].current == next.key->id);
    CHECK(contains(sentence(source.ask(protocol::AnchorPoint{guest, {lab.end(lab.key.id)}})),
                   "no anchor"));
}

TEST_CASE("anchor: a path that no datagram passes is refused, and says what to open", "[anchor]") {
    AnchorLab lab;
    auto fresh = lab.end(0);
    fresh.key = lab.key;  // the far end does not know it
    auto const peer = netmove::tunnel::Endpoint{ip("192.0.2.2"), 4791};
    auto const refused =
        sentence(lab.ask(lab.a, protocol::AnchorPrepare{guest, "m1", peer, {fresh}}));
    INFO(refused);
    CHECK(contains(refused, "192.0.2.2:4791"));
    CHECK(contains(refused, "open the port"));
    must(lab.ask(lab.a, protocol::AnchorKeep{guest, {lab.end(0)}}));
    CHECK(lab::fs::is_empty(lab.a.paths.anchors()));
}

namespace {

/// The far end on host b gets a local address in the network of the wire.
protocol::AnchorEnd with_local(AnchorLab& lab, std::string const& address) {
    auto fresh = lab.end(0);
    fresh.key = lab.key;
    fresh.local = netmove::LocalChoice{{ip(address)}, false, {}};
    fresh.addresses = {ip("10.0.0.10")};
    return fresh;
}

/// The frame back to where this one came from. (Its ports are those of UDP, without a checksum.)
Bytes answer_to(Bytes frame) {
    auto const at = [&frame](std::ptrdiff_t byte) { return frame.begin() + byte; };
    std::swap_ranges(at(0), at(6), at(6));
    std::swap_ranges(at(26), at(30), at(30));
    std::swap_ranges(at(34), at(36), at(36));
    frame[40] = frame[41] = 0;
    return frame;
}

/// A datagram from host a to the local address reaches the guest, and its answer returns.
bool reached_directly(AnchorLab const& lab, Tap const& guest_tap) {
    lab::Visit const visit(lab.a.netns);
    core::Fd const client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(7);
    std::ranges::copy(ip("192.0.2.50").bytes(), reinterpret_cast<std::uint8_t*>(&to.sin_addr));
    REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
    return soon(
        [&] {
            char byte = 'x';
            (void)::send(client.get(), &byte, 1, 0);
            for (auto const& frame : received(guest_tap)) {
                auto const parsed = parse_ethernet(frame);
                bool const udp = parsed && parsed->destination == mac(guest_mac) &&
                                 parsed->ether_type == 0x0800 && parsed->payload[9] == 17;
                if (udp) must(guest_tap.write_frame(answer_to(frame)));
            }
            return ::recv(client.get(), &byte, 1, 0) == 1;
        },
        10s);
}

core::Json local_of(AnchorLab& lab) {
    auto const listed = must(lab.ask(lab.b, protocol::AnchorList{}));
    REQUIRE(listed.json["anchors"].size() == 1);
    return listed.json["anchors"].elements()[0]["local"];
}

}  // namespace

TEST_CASE("anchor: a local address lives with the far end, through restarts and a boot",
          "[anchor][local]") {
    AnchorLab lab;
    sh(fmt::format("ip netns exec {} sysctl -qw net.ipv4.ip_forward=1", lab.b.netns));
    auto const in_b = [&lab](std::string const& command) {
        lab::Visit const visit(lab.b.netns);
        return sh(command);
    };
    auto const before = in_b("ip rule; ip -br address show dev wire; nft list ruleset");
    auto const receive = [&](std::string const& address) {
        return lab.ask(
            lab.b, protocol::AnchorReceive{guest, "m1", serve_port, {with_local(lab, address)}});
    };
    CHECK(contains(
        sentence(lab.ask(lab.b, protocol::AnchorOffer{guest, {with_local(lab, "192.0.2.1")}})),
        "in use already"));
    CHECK(contains(sentence(receive("192.0.2.2")), "address of this host already"));
    CHECK_FALSE(lab::fs::exists(lab.b.paths.anchors()));
    must(lab.ask(lab.b, protocol::AnchorOffer{guest, {with_local(lab, "192.0.2.50")}}));
    auto const bridge = must(receive("192.0.2.50")).bridges.at(0);
    CHECK(must(receive("192.0.2.50")).bridges.at(0) == bridge);  // asked again
    auto fresh = lab.end(0);
    fresh.key = lab.key;
    must(lab.ask(lab.a,
                 protocol::AnchorPrepare{
                     guest, "m1", {ip("192.0.2.2"), netmove::tunnel::default_port}, {fresh}}));
    auto moved = std::optional(lab.tap_at(lab.b, bridge));
    must(lab.ask(lab.a, protocol::AnchorPoint{guest, {lab.end(lab.key.id)}}));
    lab.guest_tap.reset();
    // The guest's bridge learns where it is.
    must(moved->write_frame(gratuitous_arp(mac(guest_mac), ip("10.0.0.10"), ArpForm::request)));
    lab.send_to_guest(5);
    CHECK(lab.numbers(*moved, 5) == from_to(0, 5));
    CHECK(reached_directly(lab, *moved));
    CHECK(local_of(lab)["direct_sessions"].integer_or(0) == 1);
    CHECK(local_of(lab)["home_sessions"].integer_or(0) == 1);

    lab.b.serve->kill();
    lab.b.start_serve();
    REQUIRE(soon([&] { return local_of(lab)["in_use"].boolean_or(false); }, 20s));
    CHECK(local_of(lab)["direct_sessions"].integer_or(0) == 1);
    CHECK(reached_directly(lab, *moved));

    // A reload of nftables.service takes the rules away.
    (void)in_b("nft flush ruleset");
    CHECK(soon(
        [&] {
            auto const local = local_of(lab);
            return local["in_use"].boolean_or(false) &&
                   !in_b("nft list ruleset | grep sidecar- || true").empty();
        },
        20s));
    CHECK(reached_directly(lab, *moved));

    must(lab.ask(lab.b, protocol::AnchorLeave{guest, ""}));
    CHECK(in_b("ip rule; ip -br address show dev wire; nft list ruleset") == before);
    CHECK(in_b("ip -o link | grep -E 'sa[lp][0-9a-f]{8}' || true").empty());
}

}  // namespace anchor_cases
