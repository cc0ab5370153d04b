// kill -9 of each process that takes part, while copying and while the guest is stopped: the
// outcome of the fault table of docs/architecture.md, nothing left over, and a second migration
// that succeeds.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// I3: a fault before COMMIT leaves the guest paused no longer than this; and what a busy test
/// machine adds.
constexpr Milliseconds pause_limit = 2s;
constexpr Milliseconds machine_allowance = 8s;

/// A scene whose source sidecar stands still just before `action`, and the migration it does.
struct Held {
    explicit Held(std::string const& action)
        : scene({.guest = {}, .run_environment = {"SIDECAR_TEST_STOP_AT=" + action}}),
          migration(scene.start_migration(scene.a())) {
        try {
            source = scene.wait_stopped(scene.a());
        } catch (Failure const& failure) {
            FAIL(failure.what() << "; " << migration.err() << migration.out());
        }
    }
    Scene scene;
    Daemon migration;
    pid_t source = -1;
};

void stays_and_moves_later(Held& held) {
    expect::guest_whole(held.scene, held.scene.a());
    expect::nothing_left_after_failure(held.scene, held.scene.a());
    expect::moves(held.scene, held.scene.a());
}

void destination_sidecar_killed(std::string const& action) {
    Held held(action);
    auto const destination = held.scene.guest_sidecar(held.scene.b());
    REQUIRE(destination);
    kill_process(destination->pid);
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    stays_and_moves_later(held);
}

void destination_qemu_killed(std::string const& action) {
    Held held(action);
    kill_process(held.scene.guest().qemu_pid(held.scene.b()));
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    stays_and_moves_later(held);
}

void source_sidecar_killed(std::string const& action) {
    Held held(action);
    kill_process(held.source);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status != 0);
    CHECK(ended.err.find("error: ") != std::string::npos);
    // Nobody but the watchdog is there to resume a stopped guest.
    wait_until("the guest to run without its sidecar", pause_limit + machine_allowance,
               [&] { return held.scene.guest().answers(); });
    held.scene.guest().must_be_whole();
    CHECK(held.scene.guest().runs_on(held.scene.a()));
    held.scene.attach_guest(held.scene.a());
    stays_and_moves_later(held);
}

void source_qemu_killed(std::string const& action) {
    Held held(action);
    kill_process(held.scene.guest().qemu_pid(held.scene.a()));
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    // The guest crashed where it was; its disks there are the valid ones.
    CHECK(held.scene.guest().qemu_pid(held.scene.b()) == -1);
    CHECK(held.scene.first_sidecar().wait(end_limit));
    held.scene.run_guest(held.scene.a());
    stays_and_moves_later(held);
}

}  // namespace

TEST_CASE("faults: the source's sidecar is killed while copying", "[vm][fault]") {
    source_sidecar_killed("copy_disks");
}
TEST_CASE("faults: the source's sidecar is killed while the guest is stopped", "[vm][fault]") {
    source_sidecar_killed("copy_final");
}
TEST_CASE("faults: the destination's sidecar is killed while copying", "[vm][fault]") {
    destination_sidecar_killed("copy_disks");
}
TEST_CASE("faults: the destination's sidecar is killed while the guest is stopped", "[vm][fault]") {
    destination_sidecar_killed("copy_final");
}
TEST_CASE("faults: the source's QEMU is killed while copying", "[vm][fault]") {
    source_qemu_killed("copy_disks");
}
TEST_CASE("faults: the source's QEMU is killed while the guest is stopped", "[vm][fault]") {
    source_qemu_killed("copy_final");
}
TEST_CASE("faults: the destination's QEMU is killed while copying", "[vm][fault]") {
    destination_qemu_killed("copy_disks");
}
TEST_CASE("faults: the destination's QEMU is killed while the guest is stopped", "[vm][fault]") {
    destination_qemu_killed("copy_final");
}
