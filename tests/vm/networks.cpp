// Parallel networks during a migration: guests with one protocol or both, in networks that `sidecar
// network` created on both hosts, move with all of their interfaces or with none. The frames on a
// network's wire are always of that network's protocol.
#include <signal.h>

#include <catch2/catch.hpp>

#include <map>
#include <set>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// One network as an administrator configures it, and the frames allowed on its wire.
struct Network {
    char const* name;
    char const* protocol;
    char const* role;
    bool shared = false;
    [[nodiscard]] std::string wire() const { return shared ? "wire" : std::string("wire-") + name; }
};

constexpr Network ipv4_native{"v4", "--ipv4", "--native"};
constexpr Network ipv4_parallel{"v4", "--ipv4", "--parallel"};
constexpr Network ipv6_native{"v6", "--ipv6", "--native"};
constexpr Network ipv6_parallel{"v6", "--ipv6", "--parallel"};

Argv line(Argv words) {
    words.insert(words.begin(), {program("sidecar"), "network"});
    return words;
}

void make(Lab const& lab, std::vector<Network> const& networks) {
    for (Host const* host : {&lab.a(), &lab.b()}) {
        std::set<std::string> wires;
        for (auto const& network : networks) {
            if (wires.insert(network.wire()).second) lab.add_wire(*host, network.wire());
            must_run(line({"create", network.name, network.protocol, network.role,
                           network.shared ? "--shared-uplink" : "--uplink", network.wire()}),
                     host->place());
        }
    }
}

SceneOptions with(std::vector<Network> networks, GuestOptions guest) {
    guest.networks = true;
    return {.guest = guest,
            .furnish = [networks = std::move(networks)](Lab const& lab) { make(lab, networks); }};
}

/// Captures every frame of another kind that arrives at the switch from a host's wire.
class Capture {
public:
    Capture(Lab const& lab, Host const& host, std::string const& wire, std::string const& kinds)
        : daemon_("tcpdump-" + wire + "-" + host.name,
                  {"tcpdump", "-l", "-n", "-e", "-p", "-Q", "in", "-i", wire + "-" + host.name,
                   // In this order: after `vlan` the offsets are those behind the tag.
                   fmt::format("not ({} or ether proto 0x8035) or vlan", kinds)},
                  {lab.switch_netns(), {}}, lab.directory()) {
        wait_until("tcpdump to listen", 20s,
                   [&] { return daemon_.err().find("listening on") != std::string::npos; });
    }
    void must_be_empty() {
        CHECK(daemon_.end() == 0);
        auto const seen = daemon_.out();
        INFO(seen);
        CHECK(seen.find_first_not_of('\n') == std::string::npos);
        CHECK(daemon_.err().find("\n0 packets captured") != std::string::npos);
    }

private:
    Daemon daemon_;
};

std::vector<std::unique_ptr<Capture>> captures(Lab const& lab,
                                               std::vector<Network> const& networks) {
    std::map<std::string, std::string> kinds;  // per wire
    for (auto const& network : networks) {
        auto& of_wire = kinds[network.wire()];
        of_wire += of_wire.empty() ? "" : " or ";
        of_wire += std::string(network.protocol) == "--ipv4" ? "ip or arp" : "ip6";
    }
    std::vector<std::unique_ptr<Capture>> out;
    for (Host const* host : {&lab.a(), &lab.b()}) {
        for (auto const& [wire, wanted] : kinds) {
            out.push_back(std::make_unique<Capture>(lab, *host, wire, wanted));
        }
    }
    return out;
}

void there_and_back(std::vector<Network> const& networks, GuestOptions const& guest) {
    Scene scene(with(networks, guest));
    auto const running = captures(scene.net(), networks);
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    {
        INFO("there");
        expect::moves(scene, scene.a());
    }
    {
        INFO("back");
        expect::moves(scene, scene.b());
    }
    must_have_kept_sessions(watch.finish(), guest);
    for (auto const& capture : running) capture->must_be_empty();
    for (Host const* host : {&scene.a(), &scene.b()}) {
        CHECK(run(line({"check"}), host->place()).exit_status == 0);
    }
}

/// The guest is on its old host, in both networks, and nothing is left on the other host.
void stayed(Scene& scene, Migration const& ended, int status, std::string const& why) {
    INFO(ended.text());
    CHECK(ended.exit_status == status);
    CHECK(ended.text().find(why) != std::string::npos);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

}  // namespace

TEST_CASE("networks: IPv4 native, IPv6 in guests, a guest in both", "[vm][network]") {
    there_and_back({ipv4_native, ipv6_parallel}, {});
}

TEST_CASE("networks: IPv6 native, legacy IPv4 in guests, on one wire", "[vm][network]") {
    auto ipv6 = ipv6_native;
    auto ipv4 = ipv4_parallel;
    ipv6.shared = ipv4.shared = true;
    there_and_back({ipv6, ipv4}, {.qemu = "10.0"});
}

TEST_CASE("networks: a guest of IPv4 only", "[vm][network]") {
    there_and_back({ipv4_native, ipv6_parallel}, {.ipv6 = false});
}

TEST_CASE("networks: a guest of IPv6 only", "[vm][network]") {
    there_and_back({ipv6_native, ipv4_parallel}, {.ipv4 = false});
}

TEST_CASE("networks: if one of the two is missing or different, the guest stays with both",
          "[vm][network]") {
    Scene scene(with({ipv4_native, ipv6_parallel}, {}));
    auto const at_b = [&](Argv const& words) { must_run(line(words), scene.b().place()); };
    at_b({"delete", "v6"});
    stayed(scene, scene.migrate(scene.a()), 3, "there is no bridge v6 on the destination");
    at_b({"create", "v6", "--ipv4", "--parallel"});
    stayed(scene, scene.migrate(scene.a()), 3, "is in an IPv6 network at the source");
    at_b({"delete", "v6"});
    must_run({"ip", "-n", scene.b().netns, "link", "add", "v6", "type", "bridge"});
    stayed(scene, scene.migrate(scene.a()), 3, "v6 on the destination is any bridge");
    must_run({"ip", "-n", scene.b().netns, "link", "del", "v6"});
    at_b({"create", "v6", "--ipv6", "--parallel", "--uplink", "wire-v6"});
    expect::moves(scene, scene.a());
}

TEST_CASE("networks: one interface cannot be moved at STOP, and so none is", "[vm][network]") {
    auto options = with({ipv4_native, ipv6_parallel}, {});
    options.run_environment = {"SIDECAR_TEST_STOP_AT=fire_network"};
    Scene scene(options);
    auto const second = GENERATE(true, false);
    INFO((second ? "the IPv6 interface" : "the IPv4 interface"));
    auto migration = scene.start_migration(scene.a());
    auto const source = scene.wait_stopped(scene.a());
    auto const tap = second ? scene.guest().tap_ipv6() : scene.guest().tap();
    must_run({"ip", "-n", scene.b().netns, "link", "set", tap, "nomaster"});
    signal_process(source, SIGCONT);
    stayed(scene, Scene::finish(migration), 1, "no longer in a bridge");
    expect::moves(scene, scene.a());
}

TEST_CASE("networks: attach admits interfaces that were added without a sidecar", "[vm][network]") {
    auto options = with({ipv4_native, ipv6_parallel}, {});
    options.start_guest = false;
    Scene scene(options);
    auto const& guest = scene.guest();
    auto const& netns = scene.a().netns;
    for (auto const& [tap, network] : {std::pair(guest.tap(), "v4"), {guest.tap_ipv6(), "v6"}}) {
        must_run({"ip", "-n", netns, "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"});
        must_run({"ip", "-n", netns, "link", "set", tap, "addrgenmode", "none", "master", network,
                  "up"});
    }
    auto const socket = scene.a().directory / "admin.sock";
    Daemon qemu =
        guest.start_plainly(scene.a(), {"-qmp", "unix:" + socket.string() + ",server=on,wait=off"});
    wait_until("the guest to run", Guest::boot_limit, [&] {
        return read_file(guest.serial(scene.a())).find("alive") != std::string::npos;
    });
    CHECK_FALSE(guest.answers());
    scene.attach_guest(scene.a(), {"--qmp", socket});
    guest.learn();
    auto const ended = scene.migrate(scene.a());
    INFO(ended.text());
    CHECK(ended.exit_status == 0);
    expect::guest_whole(scene, scene.b());
}
