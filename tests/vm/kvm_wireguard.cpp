// Under real KVM, whose kernel has WireGuard: docs/guide-wireguard.md, followed between two sites
// with a router between them. A guest moves to the other subnet and back, a client at home loses
// nothing, and the router sees WireGuard's packets only.
#include "tests/vm/kvm.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <iostream>

#include "tests/support/routed.hpp"
#include "tests/support/subnets.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// All links between the hosts, for WireGuard over IPv6 (the guide's arithmetic).
constexpr int underlay_mtu = 1630;
constexpr Milliseconds block_limit = 300s;

/// The guide's commands on the hosts of a lab: the same words with the lab's files and addresses.
class Guide {
public:
    explicit Guide(Scene& scene) : lab_(scene.net()), key_(scene.key_file()) {}

    /// Runs the blocks of one part of the guide. Returns what they printed.
    std::string run_part(std::string const& title) const {
        auto const all = read_file(docs() / "guide-wireguard.md");
        auto const begin = all.find("\n## " + title + "\n");
        REQUIRE(begin != std::string::npos);
        auto const part = all.substr(begin, all.find("\n## ", begin + 1) - begin);
        std::string said;
        static std::string const fence = "\n```sh\n# on ";
        for (auto at = part.find(fence); at != std::string::npos; at = part.find(fence, at + 1)) {
            auto const from = at + fence.size();
            auto const where = part.substr(from, part.find('\n', from) - from);
            auto const script =
                part.substr(from + where.size(), part.find("\n```", from) - from - where.size());
            if (where != "host b") said += run_on(lab_.a(), script);
            if (where != "host a") said += run_on(lab_.b(), script);
        }
        REQUIRE_FALSE(part.find(fence) == std::string::npos);
        return said;
    }
    /// What the guide has the reader copy.
    void exchange_keys() const {
        fs::copy_file(directory(lab_.a()) / "wg0.pub", directory(lab_.b()) / "host-a.pub");
        fs::copy_file(directory(lab_.b()) / "wg0.pub", directory(lab_.a()) / "host-b.pub");
    }
    /// A command on a host, in the guide's words.
    std::string run_on(Host const& host, std::string const& script) const {
        auto const done = try_on(host, script);
        INFO("host " << host.name << ": " << script << "\n" << done.out << done.err);
        REQUIRE(done.exit_status == 0);
        return done.out;
    }
    Output try_on(Host const& host, std::string script) const {
        for (auto const& [word, ours] : words(host)) {
            for (auto at = script.find(word); at != std::string::npos;
                 at = script.find(word, at + ours.size())) {
                script.replace(at, word.size(), ours);
            }
        }
        auto const path = fmt::format("PATH={}:{}", program("sidecar").parent_path().string(),
                                      std::getenv("PATH"));
        return run({"bash", "-e", "-c", script}, host.place({path}), block_limit);
    }

private:
    static fs::path directory(Host const& host) { return host.directory / "wireguard"; }
    [[nodiscard]] Changes words(Host const& host) const {
        // Two layers of encryption take most of this machine, which is emulated: pauses are long.
        return {{"sidecar migrate ", "sidecar migrate --downtime-limit 10000 "},
                {"/etc/wireguard", directory(host)},
                {"/etc/sidecar.psk", key_},
                {"192.0.2.1", lab_.a().ip4},
                {"198.51.100.2", lab_.b().ip4},
                {"2001:db8:1::1", lab_.a().ip6},
                {"2001:db8:2::2", lab_.b().ip6}};
    }

    Lab const& lab_;
    fs::path key_;
};

/// Counts what the router forwards.
class Router {
public:
    explicit Router(Lab const& lab) : netns_(router_netns(lab)) {
        must_run({"nft",
                  "table inet watch {\n"
                  "counter ipv4 {}\n"
                  "counter ipv6 {}\n"
                  "counter other {}\n"
                  "chain forward {\n"
                  "type filter hook forward priority 0\n"
                  "udp dport 51820 meta nfproto ipv4 counter name ipv4 accept\n"
                  "udp dport 51820 meta nfproto ipv6 counter name ipv6 accept\n"
                  "counter name other\n"
                  "}\n"
                  "}"},
                 {netns_, {}});
    }
    [[nodiscard]] std::int64_t bytes(std::string const& counter) const {
        auto const said = parse_json(
            must_run({"nft", "-j", "list", "counter", "inet", "watch", counter}, {netns_, {}}));
        return said["nftables"].elements().at(1)["counter"]["bytes"].integer_or(-1);
    }
    void set_mtu(std::string const& link, int mtu) const {
        ip(netns_, {"link", "set", link, "mtu", std::to_string(mtu)});
    }

private:
    std::string netns_;
};

constexpr char const* check_line =
    "sidecar migrate --with-storage web1 10.99.0.2 --key /etc/sidecar.psk --network=anchor "
    "--anchor-plane=vxlan --check";

/// The sentence of a tunnel whose MTU is that of WireGuard by default, and no traces.
void narrow_tunnel_is_refused(Scene& scene, Guide const& guide) {
    (void)guide.run_on(scene.a(), "ip link set wg0 mtu 1420");
    auto const refused = guide.try_on(scene.a(), check_line);
    INFO(refused.out << refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(refused.err.find("need an MTU of 1550 on the path") != std::string::npos);
    expect::no_anchor_left(scene, scene.a());
    (void)guide.run_on(scene.a(), "ip link set wg0 mtu 1550");
}

void must_pass(Output const& checked) {
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(checked.out.find("the kernel carries them (VXLAN, VNI 15") != std::string::npos);
    CHECK(checked.out.find("in clear") == std::string::npos);
}

/// A whole frame of the guest passes.
void must_pass_full_size(Lab const& lab) {
    must_run({"ping", "-c", "3", "-W", "10", "-M", "do", "-s", "1472", guest_ip4},
             {lab.client_netns(), {}});
}

/// The tunnel goes over IPv6 from now on. WireGuard answers to where the last packet came from: one
/// that was under way may turn it back once.
void use_ipv6(Scene const& scene, Guide const& guide) {
    wait_until("the tunnel to go over IPv6", 60s, [&] {
        (void)guide.run_on(scene.a(),
                           "wg set wg0 peer \"$(cat /etc/wireguard/host-b.pub)\" "
                           "endpoint [2001:db8:2::2]:51820");
        (void)guide.run_on(scene.b(),
                           "wg set wg0 peer \"$(cat /etc/wireguard/host-a.pub)\" "
                           "endpoint [2001:db8:1::1]:51820");
        (void)guide.run_on(scene.a(), "ping -c 3 -W 10 10.99.0.2");
        auto const is_ipv6 = [&](Host const& host) {
            return guide.run_on(host, "wg show wg0 endpoints").find("[fd77::") != std::string::npos;
        };
        return is_ipv6(scene.a()) && is_ipv6(scene.b());
    });
}

/// Both ends by wg-quick and docs/recipes/wireguard.conf instead.
void use_recipe(Lab const& lab, Guide const& guide) {
    for (auto const* host : {&lab.a(), &lab.b()}) {
        (void)guide.run_on(*host, "ip link delete wg0; nft delete table inet sidecar-plane");
    }
    auto const key_of = [](Host const& host, char const* name) {
        auto const text = read_file(host.directory / "wireguard" / name);
        return text.substr(0, text.find('\n'));
    };
    auto const configure = [&](Host const& host, Host const& other, Changes changes) {
        changes.insert(changes.end(), {{"PRIVATE_KEY_OF_HOST_A", key_of(host, "wg0.key")},
                                       {"PUBLIC_KEY_OF_HOST_B", key_of(other, "wg0.pub")},
                                       {"198.51.100.2", other.ip4}});
        write_file(host.directory / "wireguard" / "wg0.conf", recipe("wireguard.conf", changes));
        (void)guide.run_on(host, "wg-quick up /etc/wireguard/wg0.conf");
    };
    configure(lab.a(), lab.b(), {});
    configure(
        lab.b(), lab.a(),
        {{"10.99.0.2/32", "OTHER"}, {"10.99.0.1/24", "10.99.0.2/24"}, {"OTHER", "10.99.0.1/32"}});
}

}  // namespace

TEST_CASE(
    "kvm: a guest moves through WireGuard to another subnet and back, and nothing passes in "
    "clear",
    "[.][kvm]") {
    auto options = kvm::guest();
    options.rate = 20;  // WireGuard and TLS take what the processors have
    options.read_rate = 10;
    Scene scene({.guest = options, .furnish = [](Lab const& lab) {
                     separate(lab);
                     widen(lab, underlay_mtu);
                 }});
    Guide const guide(scene);
    (void)guide.run_part("Keys");
    guide.exchange_keys();
    (void)guide.run_part("The tunnel");
    Router const router(scene.net());
    narrow_tunnel_is_refused(scene, guide);
    must_pass(guide.try_on(scene.a(), check_line));
    std::cout << "the tunnel stands, and the guest may move" << std::endl;

    kvm::Probe probe(scene.net());
    auto const there = guide.run_part("Move the guest");
    INFO(there);
    CHECK(scene.guest().runs_on(scene.b()));
    auto const home = expect::anchors(scene, scene.a());
    REQUIRE(home.size() == 1);
    CHECK(home.elements()[0]["kind"].text_or("") == "vxlan");
    CHECK(home.elements()[0]["peer"].text_or("") == "10.99.0.2");
    must_pass_full_size(scene.net());
    std::cout << "moved there over IPv4" << std::endl;

    use_ipv6(scene, guide);
    must_pass_full_size(scene.net());
    (void)guide.run_part("Move it back");
    std::cout << "moved back over IPv6" << std::endl;
    expect::no_anchor_left(scene, scene.a());
    expect::no_anchor_left(scene, scene.b());
    expect::guest_whole(scene, scene.a());
    CHECK(probe.finish() == 0);
    // The disk, there and back.
    auto const disk_bytes = static_cast<std::int64_t>(options.random_mib << 20);
    CHECK(router.bytes("ipv4") > disk_bytes);
    CHECK(router.bytes("ipv6") > disk_bytes);
    CHECK(router.bytes("other") == 0);

    use_recipe(scene.net(), guide);
    must_pass(guide.try_on(scene.a(), check_line));
    // Links of 1500 bytes: WireGuard's packets are cut.
    router.set_mtu("host-b", 1500);
    ip(scene.b().netns, {"link", "set", "up0", "mtu", "1500"});
    must_pass(guide.try_on(scene.a(), check_line));
}
