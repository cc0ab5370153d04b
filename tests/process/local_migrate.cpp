// `sidecar migrate --local-address`, from one real QEMU to another, without a guest but the BIOS:
// two hosts in two networks, as namespaces; the guest's network is a bridge of host a.
#include <signal.h>

#include "netmove/local_address.hpp"
#include "sidecar/host/paths.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace {

using namespace netmove_lab;
using lab::Argv;

constexpr std::size_t disk_bytes = 1 << 20;
constexpr auto local_ip = "192.0.2.50";

struct MoveHost {
    MoveHost(std::string const& letter, int number, std::string const& parent)
        : netns(fmt::format("local{}-{}{}", ::getpid(), lab::unique_suffix(), letter)),
          directory(parent + "/" + letter),
          address(fmt::format("192.0.2.{}", number)) {
        lab::fs::create_directories(directory);
        lab::must_run({"ip", "netns", "add", netns});
        sh(fmt::format("ip -n {} link set lo up", netns));
    }
    ~MoveHost() {
        for (auto const& seen : lab::processes_in(netns)) {
            auto const process = core::Process::open(seen.pid);
            if (process) (void)process->signal(SIGKILL);
        }
        lab::run({"ip", "netns", "del", netns});
    }
    MoveHost(MoveHost const&) = delete;

    [[nodiscard]] Argv command(Argv const& words) const {
        Argv argv{lab::program("sidecar"), "--run-dir", directory + "/run", "--state-dir",
                  directory + "/state"};
        argv.insert(argv.end(), words.begin(), words.end());
        return argv;
    }
    [[nodiscard]] lab::Output sidecar(Argv const& words) const {
        return lab::run(command(words), lab::Place{netns, {}}, 120s);
    }
    [[nodiscard]] std::string in(std::string const& shell) const {
        lab::Visit const visit(netns);
        return sh(shell);
    }
    [[nodiscard]] core::Json anchor() const {
        auto const listed = sidecar({"anchor", "list", "--json"});
        INFO(listed.err);
        REQUIRE(listed.exit_status == 0);
        auto const all = lab::parse_json(listed.out).elements();
        REQUIRE(all.size() == 1);
        return all[0];
    }
    /// Rules, links, tables and addresses of local addresses.
    [[nodiscard]] std::string traces() const {
        return in(
            "nft list ruleset; ip -o link | grep -oE '(sap|sal|sca|sat)[0-9a-f]{8}' || true;"
            "ip rule; ip -6 rule; ip -br address show dev wire");
    }

    std::string netns;
    std::string directory;
    std::string address;
    std::optional<lab::Daemon> serve;
    std::optional<lab::Daemon> run;
};

struct MoveLab {
    MoveLab() {
        sh(fmt::format("ip -n {} link add wire type veth peer name wire netns {}", a.netns,
                       b.netns));
        for (auto* const host : {&a, &b}) {
            lab::Visit const visit(host->netns);
            sh(
                fmt::format("ip address add {}/24 dev wire; ip link set wire up;"
                            "echo 1 >/proc/sys/net/ipv4/ip_forward",
                            host->address));
        }
        {
            lab::Visit const visit(a.netns);
            make_bridge("br0");
            sh("ip address add 10.1.0.1/24 dev br0");
        }
        lab::write_file(a.directory + "/d0", std::string(disk_bytes, 'd'));
        for (auto* const host : {&a, &b}) start_serve(*host);
        a.run.emplace("run",
                      a.command({"run",
                                 "web1",
                                 "--bridge",
                                 "br0",
                                 "--address",
                                 "10.1.0.10",
                                 "--",
                                 storage_lab::oldest_qemu(),
                                 "-M",
                                 "pc,accel=tcg",
                                 "-m",
                                 "64",
                                 "-nodefaults",
                                 "-display",
                                 "none",
                                 "-drive",
                                 "if=none,id=d0,format=raw,file=" + a.directory + "/d0",
                                 "-device",
                                 "virtio-blk-pci,drive=d0",
                                 "-netdev",
                                 "tap,id=n0,ifname=web1,script=no,downscript=no,vhost=off",
                                 "-device",
                                 "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:10:00:10"}),
                      lab::Place{a.netns, {}}, a.directory);
        lab::wait_until("the guest to run", 30s, [&] {
            if (!a.run->running()) throw lab::Failure("`run` ended: " + a.run->err());
            return contains(a.sidecar({"status", "web1"}).out, "running");
        });
    }
    void start_serve(MoveHost& host) const {
        Argv words{"serve",      "--plaintext",
                   "--map-path", a.directory + "=" + b.directory,
                   "--map-path", b.directory + "=" + a.directory};
        auto const allowed = lab::allow_guests();
        words.insert(words.end(), allowed.begin(), allowed.end());
        host.serve.emplace("serve", host.command(words), lab::Place{host.netns, {}},
                           host.directory);
        lab::wait_until("`sidecar serve` to answer", 20s, [&] {
            return lab::accepts(
                sidecar::Paths{host.directory + "/run", host.directory + "/state"}.serve_socket());
        });
    }
    [[nodiscard]] static lab::Output migrate(MoveHost const& from, MoveHost const& to,
                                             Argv const& more) {
        Argv words{"migrate",     "--with-storage",   "web1", to.address,
                   "--plaintext", "--downtime-limit", "20000"};
        words.insert(words.end(), more.begin(), more.end());
        return from.sidecar(words);
    }
    /// A refusal of `migrate --check`: its sentence.
    [[nodiscard]] std::string refused(Argv more) const {
        more.insert(more.end(), {"--network", "anchor", "--check"});
        auto const checked = migrate(a, b, more);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        return checked.err;
    }

    storage_lab::Directory directory;
    MoveHost a{"a", 1, directory.text()};
    MoveHost b{"b", 2, directory.text()};
};

}  // namespace

TEST_CASE("local address: a guest gets it with its move, and loses it when it returns",
          "[local][local-migrate]") {
    MoveLab lab;
    auto const before = lab.b.traces();
    CHECK(contains(lab.refused({"--local-address", lab.a.address}), "in use already"));
    CHECK(contains(lab.refused({"--local-address", lab.b.address}), "address of this host"));
    CHECK(contains(lab.refused({"--local-address", "203.0.113.7"}), "in the network of"));
    CHECK(contains(lab.refused({"--local-address", "10.1.0.77"}), "the guest's home network"));
    CHECK(contains(lab.refused({"--local-address", "2001:db8::7"}), "no IPv6 address"));
    auto const elsewhere =
        MoveLab::migrate(lab.a, lab.b, {"--network", "bridge", "--local-address", local_ip});
    CHECK(elsewhere.exit_status == 3);
    CHECK(contains(elsewhere.err, "moves by an anchor"));
    (void)lab.b.in("echo 0 >/proc/sys/net/ipv4/ip_forward");
    CHECK(contains(lab.refused({"--local-address", local_ip}), "net.ipv4.ip_forward=1"));
    (void)lab.b.in("echo 1 >/proc/sys/net/ipv4/ip_forward");
    CHECK(lab.b.traces() == before);

    Argv const options{"--network", "anchor", "--local-address", local_ip, "--new-sessions=local"};
    auto with_check = options;
    with_check.emplace_back("--check");
    auto const checked = MoveLab::migrate(lab.a, lab.b, with_check);
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "reached there as 192.0.2.50 too, which its new sessions use"));
    CHECK(lab.b.traces() == before);

    auto const moved = MoveLab::migrate(lab.a, lab.b, options);
    INFO(moved.out << moved.err << lab.b.serve->err());
    REQUIRE(moved.exit_status == 0);
    auto const local = lab.b.anchor()["local"];
    CHECK(local["in_use"].boolean_or(false));
    CHECK(local["new_sessions"].boolean_or(false));
    REQUIRE(local["home"].size() == 1);
    CHECK(local["home"].elements()[0].text_or("") == "10.1.0.0/24");
    // Whoever asks for the guest there comes to it. (It has no system that could answer.)
    (void)lab.a.in("bash -c 'echo x >/dev/udp/192.0.2.50/7'");
    CHECK(soon([&] { return lab.b.anchor()["local"]["direct_sessions"].integer_or(0) == 1; }));
    auto const status = lab.b.sidecar({"status", "web1"});
    CHECK(contains(status.out, "192.0.2.50, used by its new sessions"));
    CHECK(contains(status.out, "sessions 0 through its home, 1 direct"));
    CHECK(contains(lab.b.sidecar({"anchor", "show", "web1"}).out, "1 direct"));

    auto const wrong = MoveLab::migrate(lab.b, lab.a, {"--local-address", "192.0.2.77"});
    CHECK(wrong.exit_status == 3);
    CHECK(contains(wrong.err, "returns to the host of its anchor"));
    auto const back = MoveLab::migrate(lab.b, lab.a, {});
    INFO(back.out << back.err);
    REQUIRE(back.exit_status == 0);
    CHECK(lab.b.traces() == before);
}
