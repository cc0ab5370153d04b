// Shared by the tests of `sidecar migrate` between hosts of their own, each a network namespace: a
// real QEMU without a guest but the BIOS. Invariant: a host and its processes are removed with it.
#pragma once

#include <signal.h>

#include <optional>

#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace move_lab {

using namespace netmove_lab;
using lab::Argv;

inline constexpr std::size_t disk_bytes = 1 << 20;
inline constexpr auto guest_mac = "52:54:00:10:00:10";

/// "192.0.2.NUMBER" is its address on the wire to the others, which its owner makes.
struct MoveHost {
    MoveHost(std::string const& letter, int number, std::string const& parent)
        : netns(fmt::format("move{}-{}{}", ::getpid(), lab::unique_suffix(), letter)),
          directory(parent + "/" + letter),
          address(fmt::format("192.0.2.{}", number)) {
        lab::fs::create_directories(directory);
        lab::must_run({"ip", "netns", "add", netns});
        sh(fmt::format("ip -n {} link set lo up", netns));
    }
    ~MoveHost() {
        kill_all();
        lab::run({"ip", "netns", "del", netns});
    }
    MoveHost(MoveHost const&) = delete;

    /// All its processes.
    void kill_all() const {
        for (auto const& seen : lab::processes_in(netns)) {
            auto const process = core::Process::open(seen.pid);
            if (process) (void)process->signal(SIGKILL);
        }
    }
    /// The guest's QEMU.
    void kill_qemu() const {
        for (auto const& seen : lab::processes_in(netns)) {
            if (seen.argv.empty() || !contains(seen.argv[0], "qemu-system")) continue;
            must(must(core::Process::open(seen.pid)).signal(SIGKILL));
        }
    }
    /// Waits until a process of this host has stopped at a hook of `migration`.
    [[nodiscard]] core::Process wait_stopped(lab::Daemon& migration) const {
        std::optional<core::Process> stopped;
        lab::wait_until("the source's sidecar to stop", 60s, [&] {
            if (!migration.running()) throw lab::Failure("`migrate` ended: " + migration.err());
            for (auto const& seen : lab::processes_in(netns)) {
                if (seen.state == 'T') stopped = must(core::Process::open(seen.pid));
            }
            return stopped.has_value();
        });
        return std::move(*stopped);
    }
    /// Waits until this destination has given up a migration. Otherwise COMMIT may overtake the
    /// end of its QEMU.
    void wait_given_up() const {
        lab::wait_until("the destination to give up", 30s,
                        [&] { return contains(serve->err(), "incoming phase=done"); });
    }
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
    [[nodiscard]] std::vector<core::Json> anchors() const {
        auto const listed = sidecar({"anchor", "list", "--json"});
        INFO(listed.err);
        REQUIRE(listed.exit_status == 0);
        return lab::parse_json(listed.out).elements();
    }
    [[nodiscard]] core::Json anchor() const {
        auto const all = anchors();
        REQUIRE(all.size() == 1);
        return all[0];
    }
    /// Rules, links, tables and addresses of anchors and local addresses.
    [[nodiscard]] std::string traces() const {
        return in(
            "nft list ruleset; ip -o link | grep -oE '(sap|sal|sca|sat|sas|sax)[0-9a-f]{8}' || "
            "true;"
            "ip rule; ip -6 rule; ip -br address show dev wire");
    }
    /// `more`: options. Returns when it answers.
    void start_serve(Argv const& more) {
        Argv words{"serve"};
        words.insert(words.end(), credentials.begin(), credentials.end());
        words.insert(words.end(), more.begin(), more.end());
        auto const allowed = lab::allow_guests(more);
        words.insert(words.end(), allowed.begin(), allowed.end());
        Argv argv = wrapper;
        for (auto const& word : command(words)) argv.push_back(word);
        serve.emplace("serve", std::move(argv), lab::Place{netns, serve_environment}, directory);
        // A killed serve's listener accepts for some milliseconds more, and answers nothing.
        lab::wait_until("`sidecar serve` to answer", 20s,
                        [&] { return sidecar({"anchor", "list"}).exit_status == 0; });
    }
    /// The guest web1, in br0, with the address 10.1.0.10. `more`: options of its QEMU;
    /// `environment`: of its sidecar; `state`: QEMU's run state that is waited for.
    void start_guest(Argv const& more = {}, std::vector<std::string> const& environment = {},
                     std::string const& state = "running") {
        lab::write_file(disk, std::string(disk_bytes, 'd'));
        Argv words{"run",
                   "web1",
                   "--bridge",
                   "br0",
                   "--address",
                   "10.1.0.10",
                   "--",
                   qemu,
                   "-M",
                   "pc,accel=tcg",
                   "-m",
                   "64",
                   "-nodefaults",
                   "-display",
                   "none",
                   "-drive",
                   "if=none,id=d0,format=raw,file=" + disk,
                   "-device",
                   "virtio-blk-pci,drive=d0",
                   "-netdev",
                   "tap,id=n0,ifname=web1,script=no,downscript=no,vhost=off",
                   "-device",
                   fmt::format("virtio-net-pci,netdev=n0,romfile=,mac={}", guest_mac)};
        words.insert(words.end(), more.begin(), more.end());
        run.emplace("run", command(words), lab::Place{netns, environment}, directory);
        lab::wait_until("the guest to run", 30s, [&] {
            if (!run->running()) throw lab::Failure("`run` ended: " + run->err());
            return contains(sidecar({"status", "web1"}).out, state);
        });
    }
    /// `sidecar migrate` of web1.
    [[nodiscard]] lab::Output migrate(MoveHost const& to, Argv const& more) const {
        return sidecar(migration(to, more));
    }
    /// The same in the background.
    [[nodiscard]] lab::Daemon start_migration(MoveHost const& to, Argv const& more) const {
        return lab::Daemon("migrate", command(migration(to, more)), lab::Place{netns, {}},
                           directory);
    }
    /// Lets a migration go on that has stopped at a hook. Its exit status; none: it did not end.
    [[nodiscard]] static std::optional<int> finish(lab::Daemon& migration,
                                                   core::Process const& stopped) {
        must(stopped.signal(SIGCONT));
        auto const status = migration.wait(60s);
        UNSCOPED_INFO(migration.err());
        return status;
    }
    [[nodiscard]] Argv migration(MoveHost const& to, Argv const& more) const {
        Argv words{"migrate", "--with-storage", "web1", to.address, "--downtime-limit", "20000"};
        words.insert(words.end(), credentials.begin(), credentials.end());
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }

    std::string netns;
    std::string directory;
    std::string address;
    std::string disk = directory + "/d0";  ///< Of the guest that starts here.
    Argv credentials{"--plaintext"};  ///< Of `serve` and `migrate`.
    Argv wrapper = {};  ///< Words before `serve`.
    std::string qemu = storage_lab::oldest_qemu();  ///< Of the guest that starts here.
    std::vector<std::string> serve_environment;
    std::optional<lab::Daemon> serve;
    std::optional<lab::Daemon> run;
};

/// Hosts a and b with a `serve` each, in one network; the guest's network is a bridge of host a.
struct MoveLab {
    /// `more`: options of the guest's QEMU; `allowed`: of each `serve`.
    explicit MoveLab(Argv const& more = {}, Argv const& allowed = {}) {
        make_network();
        for (auto* const host : {&a, &b}) start_serve(*host, allowed);
        a.start_guest(more);
    }
    /// The hosts and their networks; nothing runs there yet.
    struct Empty {};
    explicit MoveLab(Empty) { make_network(); }

    void make_network() const {
        sh(fmt::format("ip -n {} link add wire type veth peer name wire netns {}", a.netns,
                       b.netns));
        for (auto const* const host : {&a, &b}) {
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
    }
    /// `more`: options besides the directories of the other host.
    void start_serve(MoveHost& host, Argv const& more = {}) const {
        Argv words{"--map-path", a.directory + "=" + b.directory, "--map-path",
                   b.directory + "=" + a.directory};
        words.insert(words.end(), more.begin(), more.end());
        host.start_serve(words);
    }
    /// A refusal of `migrate --check`: its sentence.
    [[nodiscard]] std::string refused(Argv more) const {
        more.insert(more.end(), {"--network", "anchor", "--check"});
        auto const checked = a.migrate(b, more);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        return checked.err;
    }

    storage_lab::Directory directory;
    MoveHost a{"a", 1, directory.text()};
    MoveHost b{"b", 2, directory.text()};
};

}  // namespace move_lab
