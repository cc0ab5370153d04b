// The base of the registry tests: an etcd on the loopback of a network namespace of its own, with
// the test's thread in that namespace, and hosts that are state directories. Everything ends with
// the object that made it.
#pragma once

#include "core/sync.hpp"
#include "sidecar/host/host_identity.hpp"
#include "sidecar/registry/ownership.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/lab.hpp"

namespace registry_lab {

using namespace std::chrono_literals;
using core::Deadline;
using core::Result;
using core::Task;
using lab::Argv;
using netmove_lab::sh;
using sidecar::registry::Committed;
using sidecar::registry::Entry;
using sidecar::registry::Registry;
using sidecar::registry::State;
using storage_lab::Directory;
using storage_lab::Runner;

/// The longest that a step of these tests may take.
inline Deadline soon() { return Deadline::after(30s); }

/// A host: its directories, and how it names itself in the registry.
struct TestHost {
    TestHost(Directory const& directory, std::string const& name, std::string const& url)
        : paths{directory.path(name + "-run"), directory.path(name + "-state"), url},
          id(netmove_lab::must(sidecar::host_identity(paths)).id) {}
    [[nodiscard]] sidecar::registry::Host host() const { return {id, "test", ""}; }
    /// A command of the program on this host.
    [[nodiscard]] Argv line(Argv const& arguments) const {
        Argv argv{"env", "SIDECAR_RUN_DIR=" + paths.run_directory,
                  "SIDECAR_STATE_DIR=" + paths.state_directory,
                  "SIDECAR_REGISTRY=" + paths.registry, lab::program("sidecar")};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        return argv;
    }
    /// `sidecar locate web1 --json`; null: it failed.
    [[nodiscard]] core::Json locate() const {
        auto const done = lab::run(line({"locate", "web1", "--json"}));
        return done.exit_status == 0 ? lab::parse_json(done.out) : core::Json();
    }
    sidecar::Paths paths;
    std::string id;
};

/// An etcd that can be killed, cut off and started again.
struct EtcdLab {
    explicit EtcdLab(lab::EtcdOptions const& options = {})
        : etcd(directory.path("etcd"), {}, options) {}

    /// Packets to and from etcd are dropped from now on, those of open connections too.
    static void cut() {
        sh("nft 'add table inet cut; add chain inet cut out { type filter hook output priority 0; "
           "}; "
           "add rule inet cut out tcp dport 2379 drop; add rule inet cut out tcp sport 2379 drop'");
    }
    static void heal() { sh("nft 'delete table inet cut'"); }

    std::unique_ptr<Registry> open(std::string const& url) {
        return netmove_lab::must(sidecar::registry::open_registry(runner.loop(), url));
    }
    std::unique_ptr<Registry> open() { return open(etcd.url()); }

    netmove_lab::Home home;
    netmove_lab::Space space;
    Directory directory;
    Runner runner;
    lab::Etcd etcd;
};

inline Entry entry_of(sidecar::registry::Host host, std::uint64_t token) {
    return {.guest = "web1",
            .host = std::move(host),
            .token = token,
            .addresses = {"10.0.0.10", "2001:db8::10"},
            .changed_ms = 1'796'000'000'000};
}

/// Tasks beside the test, for as long as it lives.
class Beside {
public:
    explicit Beside(Runner& runner) : runner_(runner), tasks_(runner.loop()) {}
    ~Beside() {
        stop_.request_stop();
        runner_.loop().run(tasks_.join());
    }
    Beside(Beside const&) = delete;
    [[nodiscard]] std::stop_token token() const { return stop_.get_token(); }
    void spawn(Task<void> task) { tasks_.spawn(std::move(task)); }

private:
    Runner& runner_;
    std::stop_source stop_;
    core::TaskGroup tasks_;
};

/// Runs the loop until `holds`, or fails the test. `holds` may run the loop too.
inline void run_until(Runner& runner, char const* what, std::function<bool()> const& holds,
                      std::chrono::seconds limit = 40s) {
    INFO(what);
    auto const deadline = Deadline::after(limit);
    while (!holds()) {
        REQUIRE_FALSE(deadline.passed());
        (void)runner.loop().run(core::sleep_for(runner.loop(), 20ms));
    }
}

}  // namespace registry_lab
