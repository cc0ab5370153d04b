// A guest that is off is copied to the other host by one round of a mirror. After the handover it
// starts there without an operator's confirmation, and cannot be started here under its name. If
// any step fails, no host starts the guest that should not.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr Milliseconds state_limit = 60s;

Argv run_line(Scene& scene, Host const& host, bool stopped) {
    Argv argv{program("sidecar"), "run", "web1", "--bridge", bridge, "--"};
    auto const qemu = scene.guest().command_line(host);
    argv.insert(argv.end(), qemu.begin(), qemu.end());
    if (stopped) argv.emplace_back("-S");
    return argv;
}

Argv once_line(Scene& scene, Argv const& more = {}) {
    Argv argv{"replicate", "web1",  scene.b().address(),
              "--once",    "--key", scene.key_file().string()};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
}

std::string state_on(Scene& scene, Host const& host) {
    auto const said = scene.sidecar(host, {"status", "web1", "--json"});
    auto const parsed = core::Json::parse(said.out);
    return parsed ? (*parsed)["status"].text_or("") : "";
}

bool says(std::string const& text, char const* words) {
    return text.find(words) != std::string::npos;
}

/// A guest whose QEMU waits with -S on host a.
class Cold {
public:
    explicit Cold(GuestOptions const& guest, std::vector<std::string> const& environment = {})
        : scene({.guest = guest, .start_guest = false}),
          beside("run", run_line(scene, scene.a(), true), scene.a().place(environment),
                 scene.a().logs) {
        wait_until("QEMU to wait", state_limit, [&] {
            if (!beside.running()) throw Failure("`run` ended: " + beside.err());
            return state_on(scene, scene.a()) == "prelaunch";
        });
    }
    Daemon begin_hand_over() {
        auto argv = once_line(scene, {"--hand-over"});
        argv.insert(argv.begin(), program("sidecar"));
        return Daemon("hand-over", argv, scene.a().place(), scene.a().logs);
    }
    void images_are_equal() {
        for (int disk = 0; disk < scene.guest().options().disks; ++disk) {
            compare_images(scene.guest().image(scene.a(), disk), scene.guest().options().format,
                           scene.guest().image(scene.b(), disk));
        }
    }
    [[nodiscard]] bool set_aside() const {
        for (int disk = 0; disk < scene.guest().options().disks; ++disk) {
            if (fs::exists(scene.guest().image(scene.a(), disk))) return false;
        }
        return true;
    }
    /// Runs `failover` on host b until the guest answers from there.
    void fail_over(Argv const& more) {
        Argv argv{program("sidecar"), "failover", "web1"};
        argv.insert(argv.end(), more.begin(), more.end());
        failover.emplace("failover", argv, scene.b().place(), scene.b().logs);
        wait_until("the guest's first answer on the other host", Guest::boot_limit, [&] {
            if (!failover->running()) throw Failure("`failover` ended: " + failover->err());
            return scene.guest().answers();
        });
        CHECK(scene.guest().runs_on(scene.b()));
        CHECK_FALSE(scene.guest().runs_on(scene.a()));
        scene.guest().must_be_alive();
        scene.guest().must_be_whole();
    }
    Scene scene;
    Daemon beside;
    std::optional<Daemon> failover;
};

void brought_and_handed_over(GuestOptions const& guest) {
    Cold cold(guest);
    auto& scene = cold.scene;
    auto const brought = scene.sidecar(scene.a(), once_line(scene));
    INFO(brought.out << brought.err);
    REQUIRE(brought.exit_status == 0);
    CHECK(says(brought.out, "of a guest that was off"));
    CHECK(state_on(scene, scene.a()) == "prelaunch");
    CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
    // An operator's confirmation is still required: host a could start the guest.
    CHECK(scene.sidecar(scene.b(), {"failover", "web1"}).exit_status == 2);

    auto handing = cold.begin_hand_over();
    auto const ended = handing.wait(Scene::migration_limit);
    INFO(handing.out() << handing.err());
    REQUIRE(ended == 0);
    CHECK(cold.beside.wait(end_limit) == 0);
    CHECK(scene.guest().qemu_pid(scene.a()) == -1);
    CHECK(cold.set_aside());
    auto const again = run(run_line(scene, scene.a(), false), scene.a().place());
    CHECK(again.exit_status == 3);
    CHECK(says(again.err, "moved to"));
    cold.fail_over({});
}

/// A round whose command is interrupted is given up, and leaves nothing.
void interrupted(Scene& scene) {
    auto argv = once_line(scene, {"--bandwidth", "1M"});
    argv.insert(argv.begin(), program("sidecar"));
    Daemon command("once", argv, scene.a().place(), scene.a().logs);
    wait_until("the middle of the round", state_limit, [&] {
        auto const said = scene.sidecar(scene.a(), {"status", "web1", "--json"});
        auto const status = core::Json::parse(said.out);
        return status && (*status)["replicate"]["copied_bytes"].integer_or(0) > 1 << 20;
    });
    command.signal(SIGINT);
    CHECK(command.wait(end_limit) == 5);
    CHECK(says(command.err(), "cancelled"));
    CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
    CHECK(state_on(scene, scene.a()) == "running");
}

}  // namespace

TEST_CASE("cold: a guest that is off is copied and handed over: QEMU 7.2, raw", "[vm][cold]") {
    brought_and_handed_over({.qemu = "7.2", .format = "raw", .disks = 2});
}
TEST_CASE("cold: a guest that is off is copied and handed over: QEMU 10.0, qcow2", "[vm][cold]") {
    brought_and_handed_over({.qemu = "10.0", .format = "qcow2", .iothread = true});
}

TEST_CASE("cold: a guest that runs is copied once, and not handed over", "[vm][cold]") {
    Scene scene({});
    auto const refused = scene.sidecar(scene.a(), once_line(scene, {"--hand-over"}));
    INFO(refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(says(refused.err, "is not off"));
    CHECK(fs::is_empty(scene.b().images));
    auto const copied = scene.sidecar(scene.a(), once_line(scene));
    INFO(copied.out << copied.err);
    CHECK(copied.exit_status == 0);
    CHECK(says(copied.out, "crash-consistent, because its QEMU has no guest agent channel"));
    interrupted(scene);
    Qmp(scene.guest().probe_socket(scene.a())).execute("stop");
    auto const paused = scene.sidecar(scene.a(), once_line(scene));
    INFO(paused.err);
    CHECK(says(paused.out, "crash-consistent, because the guest is paused"));
    CHECK(scene.sidecar(scene.a(), once_line(scene, {"--hand-over"})).exit_status == 3);
    Qmp(scene.guest().probe_socket(scene.a())).execute("cont");
    scene.guest().must_be_alive();
    scene.guest().must_be_whole();
    CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
}

TEST_CASE("cold: a guest that is started in the last moment is not handed over", "[vm][cold]") {
    Cold cold({}, {"SIDECAR_TEST_STOP_AT=hand_over"});
    auto& scene = cold.scene;
    auto handing = cold.begin_hand_over();
    auto const stopped = scene.wait_stopped(scene.a());
    Qmp(scene.guest().probe_socket(scene.a())).execute("cont");
    signal_process(stopped, SIGCONT);
    CHECK(handing.wait(Scene::migration_limit) == 3);
    CHECK(says(handing.err(), "not handed over"));
    CHECK_FALSE(cold.set_aside());
    scene.guest().wait_alive();
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.a()));
    CHECK(scene.sidecar(scene.b(), {"failover", "web1"}).exit_status == 2);
}

TEST_CASE("cold: a destination that is unreachable at the end needs the operator's decision",
          "[vm][cold]") {
    Cold cold({}, {"SIDECAR_TEST_STOP_AT=tell_handed_over"});
    auto& scene = cold.scene;
    auto handing = cold.begin_hand_over();
    auto const stopped = scene.wait_stopped(scene.a());
    CHECK(cold.set_aside());
    scene.kill_serve(scene.b());
    signal_process(stopped, SIGCONT);
    CHECK(handing.wait(Scene::migration_limit) == 1);
    CHECK(says(handing.err(), "--i-have-fenced"));
    CHECK(scene.sidecar(scene.b(), {"failover", "web1"}).exit_status == 2);
    cold.fail_over({"--i-have-fenced"});
}
