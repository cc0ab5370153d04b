// --downtime-limit: no pause of a migration that does not commit is longer than the limit, and none
// is ended earlier.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;
using core::Json;

namespace {

using Clock = std::chrono::steady_clock;

/// A scene whose destination stops during the pause, before it closes its disks.
SceneOptions held_in_pause(std::string const& qemu) {
    return {.guest = {.qemu = qemu}, .serve_environment = {"SIDECAR_TEST_STOP_AT=seal"}};
}

/// The time that a busy test machine adds to the reaction to a limit.
constexpr double machine_allowance_ms = 700;

/// The guest runs on the source again, without help, and was paused as long as allowed.
void must_end(Scene& scene, Daemon& migration, pid_t destination, double limit_ms) {
    wait_until("the guest to run again", 30s, [&] { return scene.guest().runs_on(scene.a()); });
    signal_process(destination, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["error"].text_or("").find("--downtime-limit") != std::string::npos);
    CHECK(ended.report["downtime_limit_ms"].number_or(0) == limit_ms);
    CHECK(ended.report["downtime_ms"].number_or(0) >= limit_ms);
    CHECK(ended.report["downtime_ms"].number_or(1e9) <= limit_ms + machine_allowance_ms);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

}  // namespace

TEST_CASE("downtime: a pause that reaches --downtime-limit is ended", "[vm][downtime]") {
    Scene scene(held_in_pause(GENERATE(from_range(qemus("7.2")))));
    auto migration = scene.start_migration(scene.a(), {"--downtime-limit", "400"});
    auto const destination = scene.wait_stopped(scene.b());
    must_end(scene, migration, destination, 400);
}

TEST_CASE("downtime: a pause within a long --downtime-limit is not ended", "[vm][downtime]") {
    Scene scene(held_in_pause("10.0"));
    auto migration = scene.start_migration(scene.a(), {"--downtime-limit", "9000"});
    auto const destination = scene.wait_stopped(scene.b());
    auto const held_at = Clock::now();
    wait_until("a pause of three seconds", 10s, [&] { return Clock::now() - held_at > 3s; });
    signal_process(destination, SIGCONT);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["downtime_limit_ms"].integer_or(0) == 9000);
    CHECK(moved.report["downtime_ms"].number_or(0) >= 3000);
    CHECK(moved.report["downtime_ms"].number_or(1e9) <= 9000);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("downtime: `set downtime-limit` holds for a pause that is under way", "[vm][downtime]") {
    Scene scene(held_in_pause("7.2"));
    auto migration = scene.start_migration(scene.a(), {"--downtime-limit", "60000"});
    auto const destination = scene.wait_stopped(scene.b());
    auto const set = scene.sidecar(scene.a(), {"set", scene.guest().name(), "downtime-limit=100"});
    INFO(set.err);
    CHECK(set.exit_status == 0);
    wait_until("the guest to run again", 5s, [&] { return scene.guest().runs_on(scene.a()); });
    signal_process(destination, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["error"].text_or("").find("--downtime-limit") != std::string::npos);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("downtime: the watchdog waits as long as --downtime-limit says, and no longer",
          "[vm][downtime]") {
    Held held("copy_final", {"--downtime-limit", "4000"});
    auto const held_at = Clock::now();
    auto const there = [&] { return held.scene.guest_sidecar(held.scene.a()).has_value(); };
    wait_until("most of the pause", 10s, [&] { return Clock::now() - held_at > 3s || !there(); });
    CHECK(there());  // stopped, not killed
    wait_until("the watchdog to resume the guest", 10s,
               [&] { return held.scene.guest().runs_on(held.scene.a()); });
    CHECK_FALSE(there());
    CHECK(Scene::finish(held.migration).exit_status != 0);
    held.scene.attach_guest(held.scene.a());
    expect::guest_whole(held.scene, held.scene.a());
    expect::nothing_left_after_failure(held.scene, held.scene.a());
}
