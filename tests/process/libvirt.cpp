// Guests of libvirt: the source's sidecar joins them beside libvirt, and they move to a host where
// QEMU runs under sidecar. Both hosts have a libvirt 9 of their own, which starts the
// distribution's QEMU: it cannot start QEMU 10.0.
#include "tests/support/libvirt.hpp"
#include "core/tls.hpp"
#include "tests/process/move_lab.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/qmp_probe.hpp"

namespace libvirt_cases {

using namespace move_lab;

namespace {

constexpr auto libvirts_qemu = "/usr/bin/qemu-system-x86_64";
constexpr auto domain_uuid = "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11";

/// A host, its libvirt, and the guest web1 in it.
struct LibvirtHost {
    explicit LibvirtHost(MoveHost& host_)
        : host(host_),
          libvirt(host.netns, host.directory + "/libvirt",
                  fmt::format("{}", fmt::join(hook(), " "))) {}
    [[nodiscard]] Argv hook() const { return host.command({"libvirt-hook"}); }
    [[nodiscard]] std::string image() const { return host.directory + "/vm/d0.qcow2"; }
    [[nodiscard]] Argv attach_command(Argv const& more) const {
        Argv words{"attach",      "web1",      "--libvirt", "--libvirt-uri",
                   libvirt.uri(), "--address", "10.1.0.10"};
        words.insert(words.end(), more.begin(), more.end());
        return host.command(words);
    }
    void attach(Argv const& more = {}, std::vector<std::string> const& environment = {}) {
        host.run.emplace("attach", attach_command(more), lab::Place{host.netns, environment},
                         host.directory);
        lab::wait_until("the sidecar to have the guest", 30s, [&] {
            if (!host.run->running()) throw lab::Failure("`attach` ended: " + host.run->err());
            return contains(host.sidecar({"status", "web1"}).out, "running");
        });
    }
    /// The command line of the guest's QEMU; empty: there is none.
    [[nodiscard]] std::string qemu_line() const {
        for (auto const& seen : lab::processes_in(host.netns)) {
            if (!seen.argv.empty() && contains(seen.argv[0], "qemu-system") &&
                contains(fmt::format("{}", fmt::join(seen.argv, " ")), "guest=web1")) {
                return fmt::format("{}", fmt::join(seen.argv, " "));
            }
        }
        return "";
    }

    MoveHost& host;
    lab::Libvirt libvirt;
};

void wait_for_shut_off(LibvirtHost const& host) {
    lab::wait_until("libvirt to see the end of QEMU", 10s,
                    [&] { return host.libvirt.state("web1") == "shut off"; });
}

/// `devices`: more of them. `outside`: elements beside them.
std::string domain_xml(LibvirtHost const& host, std::string const& devices = "",
                       std::string const& outside = "") {
    return fmt::format(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<name>web1</name><uuid>{}</uuid>"
        "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
        "<features><acpi/></features>"
        "<devices><emulator>{}</emulator>"
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        "<source file='{}'/><target dev='vda' bus='virtio'/></disk>"
        "<interface type='bridge'><mac address='{}'/><source bridge='br0'/>"
        "<model type='virtio'/><rom enabled='no'/></interface>"
        "{}</devices>{}</domain>",
        domain_uuid, libvirts_qemu, host.image(), guest_mac, devices, outside);
}

/// What many definitions have: things that libvirt gives to QEMU by descriptor.
std::string usual_devices(LibvirtHost const& host) {
    auto const log = host.host.directory + "/vm/";
    return fmt::format(
        "<serial type='pty'><log file='{0}serial0.log'/></serial>"
        "<serial type='file'><source path='{0}serial1.log'/><target port='1'/></serial>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
        "<video><model type='vga'/></video><memballoon model='virtio'/>",
        log);
}

struct LibvirtLab {
    LibvirtLab() {
        // QEMU reads the key of the migration as nobody, and in its mount namespace.
        auto const key = lab.directory.path("keys.psk");
        lab::write_file(key, "lab:" + core::random_hex(32) + "\n");
        (void)lab.a.in("chmod 0600 " + key);
        for (auto* const host : {&lab.a, &lab.b}) host->credentials = {"--key", key};
        // As on a real host: everything above the images and the keys is the system's.
        for (auto const* const host : {&lab.a, &lab.b}) {
            (void)host->in(fmt::format("chmod 0711 {0} {1}; mkdir -p {1}/vm; chmod 0711 {1}/vm",
                                       lab.directory.text(), host->directory));
        }
        lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", a.image(), "4M"});
        lab::must_run({"qemu-io", "-f", "qcow2", "-c", "write -q -P 7 64k 1M", a.image()});
        lab::must_run({"cp", a.image(), lab.directory.path("copy.qcow2")});
    }
    void start(std::string const& devices = "", std::string const& outside = "") const {
        a.libvirt.define(domain_xml(a, devices, outside));
        a.libvirt.must_virsh({"start", "web1"});
    }
    /// `qemu`: that of host b.
    void serve(std::string const& qemu = libvirts_qemu) {
        lab.start_serve(lab.a, {"--libvirt-uri", a.libvirt.uri(), "--qemu", libvirts_qemu});
        lab.start_serve(lab.b, {"--libvirt-uri", b.libvirt.uri(), "--qemu", qemu});
    }
    [[nodiscard]] lab::Output move(MoveHost const& from, MoveHost const& to, Argv more = {}) const {
        more.insert(more.end(), {"--network", "anchor"});
        return from.migrate(to, more);
    }

    void move_to_b() const {
        auto const moved = move(lab.a, lab.b);
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        wait_for_shut_off(a);
        CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "running"));
    }

    MoveLab lab{MoveLab::Empty{}};
    LibvirtHost a{lab.a};
    LibvirtHost b{lab.b};
};

/// A move to host b, at the source of which the sidecar has stopped itself before the action `at`.
struct StoppedMove {
    StoppedMove(LibvirtLab& test, std::string const& at)
        : migration(begin(test, at)), sidecar(test.lab.a.wait_stopped(migration)) {}
    std::optional<int> finish() { return MoveHost::finish(migration, sidecar); }

    lab::Daemon migration;
    core::Process sidecar;

private:
    static lab::Daemon begin(LibvirtLab& test, std::string const& at) {
        test.start();
        test.serve();
        test.a.attach({}, {"SIDECAR_TEST_STOP_AT=" + at});
        return test.lab.a.start_migration(test.lab.b, {"--network", "anchor"});
    }
};

bool can_run() {
    auto const why = lab::why_no_libvirt();
    if (!why.empty()) WARN("skipped: " + why);
    return why.empty();
}

}  // namespace

TEST_CASE("libvirt: a guest moves, is defined there, and moves back", "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    test.start(usual_devices(a));
    test.serve();
    a.attach();
    CHECK(a.libvirt.state("web1") == "running");
    auto const before = a.libvirt.must_virsh({"dumpxml", "web1", "--inactive"});

    auto const checked = test.move(lab.a, lab.b, {"--check"});
    INFO(checked.out << checked.err << a.qemu_line());
    REQUIRE(checked.exit_status == 0);
    auto const moved = test.move(lab.a, lab.b);
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(moved.err, "libvirt does not control it there"));
    CHECK(contains(moved.err, "libvirt's log of the character device charserial0"));
    CHECK(contains(moved.err, "the file of the character device charserial1"));
    wait_for_shut_off(a);
    CHECK(a.qemu_line().empty());

    // There it runs under sidecar, as the same user.
    auto const line = b.qemu_line();
    INFO(line);
    CHECK(contains(line, "-runas nobody"));
    CHECK(!contains(line, "masterKey0"));
    CHECK(!contains(line, "-no-shutdown"));
    CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "running"));
    CHECK(lab::accepts(lab.b.directory + "/run/web1/chardev-charchannel0.sock"));
    lab::wait_until("libvirt there to know the guest", 20s,
                    [&] { return contains(b.libvirt.must_virsh({"list", "--all"}), "web1"); });
    CHECK(b.libvirt.state("web1") == "shut off");
    auto const defined = b.libvirt.must_virsh({"dumpxml", "web1"});
    CHECK(contains(defined, domain_uuid));
    CHECK(contains(defined, "<source file='" + b.image() + "'/>"));

    // Neither libvirt starts it meanwhile.
    auto const stale = a.libvirt.virsh({"start", "web1"});
    CHECK(stale.exit_status != 0);
    CHECK(contains(stale.err, "web1 moved to " + lab.b.address));
    auto const second = b.libvirt.virsh({"start", "web1"});
    CHECK(second.exit_status != 0);
    CHECK(contains(second.err, "web1 runs under its sidecar on this host"));

    // A definition that is gone comes back with the guest.
    a.libvirt.must_virsh({"undefine", "web1"});
    auto const back = test.move(lab.b, lab.a);
    INFO(back.out << back.err);
    REQUIRE(back.exit_status == 0);
    CHECK(b.qemu_line().empty());
    CHECK(b.libvirt.state("web1") == "shut off");
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
    lab::wait_until("libvirt to know the guest again", 20s,
                    [&] { return contains(a.libvirt.must_virsh({"list", "--all"}), "web1"); });
    CHECK(a.libvirt.must_virsh({"dumpxml", "web1"}) == before);
    lab::compare_images(lab.directory.path("copy.qcow2"), "qcow2", a.image());

    // After its end libvirt has it again.
    lab.a.kill_qemu();
    lab::wait_until("the guest's sidecar to end", 20s,
                    [&] { return !contains(lab.a.sidecar({"status", "web1"}).out, "web1"); });
    a.libvirt.must_virsh({"start", "web1"});
    CHECK(a.libvirt.state("web1") == "running");
}

TEST_CASE("libvirt: a sidecar that dies while the guest is stopped leaves it running in libvirt",
          "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    StoppedMove move(test, "copy_final");
    CHECK(a.libvirt.state("web1") == "paused");
    // And the process through which the watchdog reaches QEMU.
    for (auto const& seen : lab::processes_in(lab.a.netns)) {
        bool const is_monitor = seen.argv.size() > 1 && seen.argv[1] == "libvirt-monitor";
        if (is_monitor) must(must(core::Process::open(seen.pid)).signal(SIGKILL));
    }
    must(move.sidecar.signal(SIGKILL));
    lab::wait_until("the watchdog to resume the guest", 40s,
                    [&] { return a.libvirt.state("web1") == "running"; });
    CHECK(move.migration.wait(20s) == 1);
    // Another sidecar undoes the rest, and the guest moves.
    a.attach();
    lab::wait_until("what was left to end", 60s,
                    [&] { return test.move(lab.a, lab.b, {"--check"}).exit_status == 0; });
    test.move_to_b();
}

TEST_CASE("libvirt: the sidecar reaches QEMU again after libvirtd has died", "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    test.start();
    a.attach();
    a.libvirt.restart();
    test.serve();
    lab::wait_until("the sidecar to notice", 30s,
                    [&] { return contains(lab.a.sidecar({"status", "web1"}).out, "unknown"); });
    test.move_to_b();
}

TEST_CASE("libvirt: libvirtd dies while a guest is moved", "[migrate][libvirt]") {
    if (!can_run()) return;
    struct Death {
        std::string at;
        int exit_status;
    };
    // A copy of disks continues. Whether QEMU was asked to send RAM is not known.
    for (auto const& death : {Death{"copy_disks", 0}, Death{"start_ram", 1}}) {
        INFO("before " << death.at);
        LibvirtLab test;
        auto& [lab, a, b] = test;
        StoppedMove move(test, death.at);
        a.libvirt.restart();
        CHECK(move.finish() == death.exit_status);
        if (death.exit_status == 1) {
            CHECK(contains(move.migration.err(), "QEMU's monitor was lost"));
            CHECK(a.libvirt.state("web1") == "running");
            CHECK(b.qemu_line().empty());
        } else {
            wait_for_shut_off(a);
            CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "running"));
        }
    }
}

TEST_CASE("libvirt: a guest that virsh suspends while its RAM is sent stays, and stays stopped",
          "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    StoppedMove move(test, "start_ram");
    a.libvirt.must_virsh({"suspend", "web1"});
    CHECK(move.finish() == 1);
    CHECK(contains(move.migration.err(), "the guest was stopped by someone else"));
    CHECK(a.libvirt.state("web1") == "paused");
    CHECK(b.qemu_line().empty());
    a.libvirt.must_virsh({"resume", "web1"});
    CHECK(a.libvirt.state("web1") == "running");
}

TEST_CASE("libvirt: a second monitor goes past libvirt", "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    auto const sockets = lab.a.directory + "/vm/sockets";
    for (auto const* const host : {&lab.a, &lab.b}) {
        (void)host->in(fmt::format("mkdir {0}; chown nobody {0}", host->directory + "/vm/sockets"));
    }
    test.start("", fmt::format("<qemu:commandline><qemu:arg value='-qmp'/>"
                               "<qemu:arg value='unix:{}/web1.qmp,server=on,wait=off'/>"
                               "</qemu:commandline>",
                               sockets));
    a.attach();
    for (auto const& seen : lab::processes_in(lab.a.netns))
        CHECK((seen.argv.size() < 2 || seen.argv[1] != "libvirt-monitor"));
    test.serve();
    test.move_to_b();
}

TEST_CASE("libvirt: a guest moves to a host with QEMU 10.0", "[migrate][libvirt]") {
    auto const qemus = storage_lab::qemus();
    if (!can_run() || !qemus.contains("10.0")) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    test.start(usual_devices(a));
    a.attach();
    test.serve(qemus.at("10.0"));
    test.move_to_b();
    CHECK(contains(b.qemu_line(), "-run-with user=nobody"));
}

TEST_CASE("libvirt: the hook lets others start", "[libvirt]") {
    storage_lab::Directory const directory;
    auto const hook = [&](Argv const& words) {
        Argv argv{lab::program("sidecar"), "--run-dir",   directory.path("run"), "--state-dir",
                  directory.path("state"), "libvirt-hook"};
        argv.insert(argv.end(), words.begin(), words.end());
        return lab::run(argv);
    };
    for (auto const& words :
         {Argv{"web1", "prepare", "begin", "-"}, Argv{"a b", "prepare", "begin", "-"},
          Argv{"../run", "prepare", "begin", "-"}, Argv{"run", "migrate", "begin", "-"},
          Argv{"web1", "started", "begin", "-"}, Argv{"web1"}, Argv{}}) {
        auto const done = hook(words);
        INFO(fmt::format("{}", fmt::join(words, " ")) << ": " << done.err);
        CHECK(done.exit_status == 0);
        CHECK(done.err.empty());
    }
    // A damaged journal does not say where the guest is.
    lab::fs::create_directories(directory.path("state") + "/web1");
    lab::write_file(directory.path("state") + "/web1/journal", std::string(8192, 'x'));
    CHECK(hook({"web1", "prepare", "begin", "-"}).exit_status == 1);
    CHECK(hook({"web1", "stopped", "end", "-"}).exit_status == 0);
}

TEST_CASE("libvirt: what cannot be is said before anything is touched", "[migrate][libvirt]") {
    if (!can_run()) return;
    LibvirtLab test;
    auto& [lab, a, b] = test;
    auto const joined = lab::run(a.attach_command({}), lab::Place{lab.a.netns, {}});
    CHECK(joined.exit_status == 3);
    CHECK(contains(joined.err, "has no domain `web1`"));
    test.start();
    // Another domain of that name at the destination stays as it is.
    constexpr auto other_uuid = "0b5c7d4e-7a5f-4bd3-9c5c-000000000000";
    b.libvirt.define(
        fmt::format("<domain type='qemu'><name>web1</name><uuid>{}</uuid>"
                    "<memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>",
                    other_uuid));
    test.serve();
    a.attach();
    auto const moved = test.move(lab.a, lab.b);
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 0);
    CHECK(contains(moved.err, "libvirt has another domain of the name web1"));
    CHECK(contains(b.libvirt.must_virsh({"domuuid", "web1"}), other_uuid));
}

}  // namespace libvirt_cases
