// `sidecar migrate` with a name in the DNS, from one real QEMU to another, without a guest but the
// BIOS: both hosts are one network namespace, beside its name server.
#include <signal.h>

#include "tests/process/dns_lab.hpp"

namespace dns_migrate_cases {

namespace {

using namespace dns_lab;
using lab::Argv;

constexpr std::size_t disk_bytes = 1 << 20;

class Hosts {
public:
    /// `stop_at`: the action of the source's sidecar at which it stops itself.
    explicit Hosts(std::string const& stop_at = "") {
        for (auto const* name : {"from", "to"}) lab::fs::create_directory(server.path(name));
        lab::write_file(server.path("from/d0"), std::string(disk_bytes, 'd'));
        serve_.emplace("serve", command(serve_words(), "there"), lab::Place(), server.path("."));
        std::vector<std::string> environment;
        if (!stop_at.empty()) environment = {"SIDECAR_TEST_STOP_AT=" + stop_at};
        run_.emplace("run",
                     command({"run", "web1", "--", storage_lab::oldest_qemu(), "-M", "pc,accel=tcg",
                              "-m", "64", "-nodefaults", "-display", "none", "-drive",
                              "if=none,id=d0,format=raw,file=" + server.path("from/d0"), "-device",
                              "virtio-blk-pci,drive=d0"},
                             "here"),
                     lab::Place{"", environment}, server.path("."));
        lab::wait_until("the guest to run", 30s, [&] {
            if (!run_->running()) throw lab::Failure("`run` ended: " + run_->err());
            auto const status = lab::run(command({"status", "web1"}, "here"));
            return contains(status.out, "running") && lab::accepts("", "127.0.0.1", 4790);
        });
    }
    ~Hosts() {
        // Wherever it runs now. Its sidecar, which `serve` has started, ends with it.
        for (auto const* host : {"here", "there"}) {
            auto const manifest =
                core::Json::parse(lab::read_file(state(host) + "/web1/guest.json"));
            if (!manifest) continue;
            auto const pid = static_cast<pid_t>((*manifest)["pid"].integer_or(0));
            auto const qemu = core::Process::open(pid);
            if (pid > 0 && qemu) (void)qemu->signal(SIGKILL);
        }
    }
    Argv migrate(std::string const& key_file, Argv const& more = {}) {
        Argv words{"migrate",      "--with-storage", "web1",          "127.0.0.1",
                   "--plaintext",  "--dns-name",     guest_name,      "--dns-server",
                   "127.0.0.1",    "--dns-key",      key_file,        "--dns-address",
                   "198.51.100.7", "--dns-address",  "2001:db8:7::7", "--downtime-limit",
                   "20000"};
        words.insert(words.end(), more.begin(), more.end());
        return command(words, "here");
    }
    void wait_stopped() {
        lab::wait_until("the source's sidecar to stop", 60s, [&] {
            auto const stat = lab::read_file(fmt::format("/proc/{}/stat", run_->pid()));
            return contains(stat, ") T ");
        });
    }
    lab::Daemon& source() { return *run_; }
    [[nodiscard]] bool runs_there() const {
        return contains(lab::run(command({"status", "web1"}, "there")).out, "running");
    }

    NameServer server;

private:
    [[nodiscard]] std::string state(std::string const& host) const {
        return server.path(host + "-state");
    }
    [[nodiscard]] Argv serve_words() const {
        Argv words{"serve",     "--plaintext", "--listen",
                   "127.0.0.1", "--map-path",  server.path("from") + "=" + server.path("to")};
        auto const allowed = lab::allow_guests();
        words.insert(words.end(), allowed.begin(), allowed.end());
        return words;
    }
    [[nodiscard]] Argv command(Argv words, std::string const& host) const {
        Argv argv{lab::program("sidecar"), "--run-dir", server.path(host + "-run"), "--state-dir",
                  state(host)};
        argv.insert(argv.end(), words.begin(), words.end());
        return argv;
    }

    std::optional<lab::Daemon> serve_;
    std::optional<lab::Daemon> run_;
};

}  // namespace

TEST_CASE("dns: a migration changes the guest's name after it has moved", "[dns]") {
    Hosts hosts;
    auto const wrong =
        lab::run(hosts.migrate(hosts.server.key_file("mover", 'x'), {"--check"}), {}, 60s);
    INFO(wrong.out << wrong.err);
    CHECK(wrong.exit_status == 3);
    CHECK(contains(wrong.err, "another secret for the TSIG key mover (BADSIG)"));
    auto const key = hosts.server.key_file("mover");
    auto const checked = lab::run(hosts.migrate(key, {"--check"}), {}, 60s);
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(contains(checked.out, "from 192.0.2.1, 2001:db8::1 to 198.51.100.7, 2001:db8:7::7"));
    CHECK(contains(checked.out, "keep the old addresses for its TTL: 77 s"));
    CHECK(hosts.server.serial() == first_serial);

    auto const moved = lab::run(hosts.migrate(key, {"--dns-ttl", "30"}), {}, 120s);
    INFO(moved.out << moved.err << hosts.source().err());
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(moved.out,
                   "web1.example.org has 198.51.100.7, 2001:db8:7::7 in the DNS, "
                   "instead of 192.0.2.1, 2001:db8::1"));
    CHECK(hosts.runs_there());
    CHECK(hosts.server.records(guest_name, "A") == "30 198.51.100.7\n");
    CHECK(hosts.server.records(guest_name, "AAAA") == "30 2001:db8:7::7\n");
    CHECK(hosts.server.serial() == first_serial + 1);
}

TEST_CASE("dns: a name that others changed during the migration is a warning", "[dns]") {
    Hosts hosts("settle_network");
    lab::Daemon migrate("migrate", hosts.migrate(hosts.server.key_file("mover"), {"--json"}),
                        lab::Place(), hosts.server.path("."));
    hosts.wait_stopped();
    CHECK(hosts.server.serial() == first_serial);  // the guest has moved, its name has not
    hosts.server.change("update add web1.example.org 77 A 192.0.2.99");
    hosts.source().signal(SIGCONT);
    auto const ended = migrate.wait(60s);
    INFO(migrate.out() << migrate.err());
    REQUIRE(ended == 0);
    auto const report = lab::parse_json(migrate.out());
    CHECK(report["dns"]["outcome"].text_or("") == "changed_by_others");
    CHECK(report["dns"]["found"]["addresses"].size() == 3);
    auto const warning = report["warning"].text_or("");
    CHECK(contains(warning, "it had 192.0.2.1, 2001:db8::1 before the move"));
    CHECK(contains(warning, "nsupdate -k"));
    CHECK(hosts.server.records(guest_name, "A") == "77 192.0.2.1\n77 192.0.2.99\n");
    CHECK(hosts.runs_there());
}

TEST_CASE("dns: a server that is lost during the migration is a warning", "[dns]") {
    Hosts hosts("settle_network");
    lab::Daemon migrate("migrate", hosts.migrate(hosts.server.key_file("mover")), lab::Place(),
                        hosts.server.path("."));
    hosts.wait_stopped();
    hosts.server.daemon().kill();
    hosts.source().signal(SIGCONT);
    auto const ended = migrate.wait(60s);
    INFO(migrate.out() << migrate.err());
    CHECK(ended == 0);
    CHECK(
        contains(migrate.err(), "warning: the addresses of web1.example.org in the DNS could not"));
    CHECK(contains(migrate.err(), "prereq yxrrset web1.example.org. A 192.0.2.1\\n"));
    CHECK(contains(migrate.err(), "update add web1.example.org. 77 A 198.51.100.7\\n"));
    CHECK(hosts.runs_there());
}

}  // namespace dns_migrate_cases
