// kill -9 of each process of a migration, during the copy and while the guest is stopped. The
// outcome is that of the fault table of docs/architecture.md, nothing is left over, and a second
// migration succeeds.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;

namespace {

/// I3: a fault before COMMIT leaves the guest paused no longer than this; and the extra time of a
/// busy test machine.
constexpr Milliseconds pause_limit = 2s;
constexpr Milliseconds machine_allowance = 8s;

void stays_and_moves_later(Held& held) {
    expect::guest_whole(held.scene, held.scene.a());
    expect::nothing_left_after_failure(held.scene, held.scene.a());
    expect::moves(held.scene, held.scene.a());
}

/// Then continues the source, which was stopped at a hook.
void kill_destination_sidecar(Held& held) {
    auto const destination = held.scene.guest_sidecar(held.scene.b());
    REQUIRE(destination);
    kill_process(destination->pid);
    signal_process(held.source, SIGCONT);
}

void destination_sidecar_killed(std::string const& action) {
    Held held(action);
    kill_destination_sidecar(held);
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
    // Only the watchdog can resume the stopped guest.
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
    // The guest crashed on the source; its disks there are valid.
    CHECK(held.scene.guest().qemu_pid(held.scene.b()) == -1);
    CHECK(held.scene.first_sidecar().wait(end_limit));
    held.scene.run_guest(held.scene.a());
    stays_and_moves_later(held);
}

}  // namespace

TEST_CASE("faults: the source's sidecar is killed before it copies", "[vm][fault]") {
    source_sidecar_killed("prepare_storage");
}
TEST_CASE("faults: the source's sidecar is killed before RAM travels", "[vm][fault]") {
    source_sidecar_killed("start_ram");
}
TEST_CASE("faults: the source's sidecar is killed while the guest is stopped", "[vm][fault]") {
    source_sidecar_killed("copy_final");
}
TEST_CASE("faults: the source's sidecar is killed while QEMU switches over", "[vm][fault]") {
    source_sidecar_killed("seal_destination");
}
TEST_CASE("faults: the destination's sidecar is killed while copying", "[vm][fault]") {
    Held held("copy_disks");
    kill_destination_sidecar(held);
    // `serve` starts another, which exports the disks again; the copy continues.
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::guest_whole(held.scene, held.scene.b());
    expect::nothing_left_after_move(held.scene, held.scene.a(), held.scene.b());
    expect::moves(held.scene, held.scene.b());
}
TEST_CASE("faults: the destination's sidecar is killed while the guest is stopped", "[vm][fault]") {
    destination_sidecar_killed("copy_final");
}
TEST_CASE("faults: the destination's sidecar is killed while QEMU switches over", "[vm][fault]") {
    destination_sidecar_killed("seal_destination");
}
TEST_CASE("faults: the source's QEMU is killed while copying", "[vm][fault]") {
    source_qemu_killed("copy_disks");
}
TEST_CASE("faults: the source's QEMU is killed while the guest is stopped", "[vm][fault]") {
    source_qemu_killed("copy_final");
}
TEST_CASE("faults: the source's QEMU is killed while it switches over", "[vm][fault]") {
    source_qemu_killed("seal_destination");
}
TEST_CASE("faults: the destination's QEMU is killed while the guest is stopped", "[vm][fault]") {
    destination_qemu_killed("copy_final");
}
TEST_CASE("faults: the destination's QEMU is killed after it has loaded RAM", "[vm][fault]") {
    destination_qemu_killed("seal_destination");
}

TEST_CASE("faults: the source's QEMU is killed while the destination closes its disks",
          "[vm][fault]") {
    Scene scene({.serve_environment = {"SIDECAR_TEST_STOP_AT=seal"}});
    auto migration = scene.start_migration(scene.a());
    auto const destination = scene.wait_stopped(scene.b());
    kill_process(scene.guest().qemu_pid(scene.a()));
    // The abort is in the connection, after the `seal` that it supersedes.
    wait_until("the source to ask for the end", end_limit, [&] {
        auto const status = scene.sidecar(scene.a(), {"status", "web1", "--json"});
        return status.out.find("abort_destination") != std::string::npos;
    });
    signal_process(destination, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(scene.first_sidecar().wait(end_limit));
    scene.run_guest(scene.a());
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    expect::moves(scene, scene.a());
}

TEST_CASE("faults: a guest that has arrived is never treated as a leftover of a killed sidecar",
          "[vm][fault]") {
    Scene scene({.serve_environment = {"SIDECAR_TEST_STOP_AT=finish"}});
    auto const& guest = scene.guest();
    auto migration = scene.start_migration(scene.a());
    auto const destination = scene.wait_stopped(scene.b());
    CHECK(Scene::finish(migration).exit_status == 0);
    kill_process(destination);
    // By mistake the stale image is started again on a and sent to b, where only the guest's disks
    // and QEMU are known. (Off the network there, because the two share their addresses.)
    auto const tap = [&](char const* state) {
        must_run({"ip", "-n", scene.b().netns, "link", "set", guest.tap(), state});
    };
    tap("down");
    for (auto const& entry : fs::directory_iterator(scene.a().images)) {
        fs::rename(entry.path(), guest.image(scene.a(), 0));
    }
    scene.run_guest(scene.a(), {}, {"--new-guest"});
    auto const ended = scene.migrate(scene.a());
    INFO(ended.text());
    CHECK(ended.exit_status == 3);
    CHECK(ended.text().find("sidecar attach web1") != std::string::npos);
    scene.guest().must_be_whole();

    kill_process(guest.qemu_pid(scene.a()));
    CHECK(guest.runs_on(scene.b()));
    CHECK(fs::exists(guest.image(scene.b(), 0)));
    tap("up");
    // The new sidecar completes the killed one's work, and announces the guest.
    scene.attach_guest(scene.b());
    expect::guest_whole(scene, scene.b());
    CHECK(left_in_qemu(guest, scene.b()) == "");
}
