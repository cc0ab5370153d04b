// A guest that writes faster than the link carries: it is slowed down until its disks converge, or
// the migration is refused. In every case the limits of its disks are the user's own again.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// The link carries 1.2 MB/s. The guest writes 4 MB/s, or half of that on a busy machine, in few
/// places, so that a round that does not shrink is short.
constexpr std::uint64_t link_mbit = 10;
GuestOptions fast_writer(std::string const& qemu) {
    return {.qemu = qemu, .random_mib = 4, .span_mib = 3, .rate = 1000, .read_rate = 10};
}
SceneOptions slow_link(std::string const& qemu) {
    return {.guest = fast_writer(qemu), .link_mbit = link_mbit};
}

// The tests' QEMU monitor takes one connection at a time, and expect:: uses it too, so each look
// opens its own.

/// The guest's first disk as QEMU on that host reports it.
core::Json disk_on(Scene& scene, Host const& host) {
    Qmp qemu(scene.guest().probe_socket(host));
    return qemu.execute("query-block").elements().at(0);
}

/// All limits of that disk.
std::string limits_on(Scene& scene, Host const& host) {
    auto const disk = disk_on(scene, host)["inserted"];
    std::string text;
    for (auto const* key : {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr", "iops_max"}) {
        text += fmt::format("{}={} ", key, disk[key].integer_or(0));
    }
    return text;
}

std::int64_t write_limit_on(Scene& scene, Host const& host) {
    return disk_on(scene, host)["inserted"]["bps_wr"].integer_or(0);
}

/// Limits as a user sets them, too wide to matter.
void set_own_limits(Scene& scene) {
    auto const id = disk_on(scene, scene.a())["qdev"];
    Qmp qemu(scene.guest().probe_socket(scene.a()));
    qemu.execute("block_set_io_throttle", core::Json::object({{"id", id},
                                                              {"bps", 0},
                                                              {"bps_rd", 0},
                                                              {"bps_wr", 0},
                                                              {"iops", 50'000},
                                                              {"iops_rd", 0},
                                                              {"iops_wr", 0},
                                                              {"iops_max", 60'000}}));
}

core::Json status(Scene& scene) {
    auto const said = scene.sidecar(scene.a(), {"status", scene.guest().name(), "--json"});
    auto const parsed = core::Json::parse(said.out);
    return parsed ? (*parsed)["migration"] : core::Json();
}

void wait_slowed(Scene& scene, Daemon& migration) {
    wait_until("the guest to be slowed down", Scene::migration_limit, [&] {
        if (auto const ended = migration.wait(0ms)) {
            throw Failure(fmt::format("migrate ended with {}: {}", *ended, migration.err()));
        }
        if (write_limit_on(scene, scene.a()) > 0) return true;
        if (status(scene)["phase"].text_or("") == "converging") {
            throw Failure("the guest did not write faster than the link: the machine is too busy");
        }
        return false;
    });
}

}  // namespace

TEST_CASE("converge: a guest that writes faster than the link is slowed down and moves",
          "[vm][converge]") {
    Scene scene(slow_link(GENERATE(from_range(qemus("7.2")))));
    auto migration = scene.start_migration(scene.a());
    wait_slowed(scene, migration);
    CHECK(status(scene)["convergence"]["throttle_bytes_per_second"].integer_or(0) > 0);
    // The disks converge without further throttling; only the RAM does not use the slow link.
    wait_until("the disks to be near", Scene::migration_limit, [&] {
        if (migration.wait(0ms)) return true;
        return status(scene)["phase"].text_or("") == "converging";
    });
    scene.net().shape(0);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    expect::report_of_a_move(moved.report, scene.guest().options());
    auto const plan = moved.report["convergence"];
    CHECK(plan["throttle_bytes_per_second"].integer_or(0) > 0);
    CHECK(plan["copy_bytes_per_second"].integer_or(0) > 0);
    CHECK(plan["became"]["downtime_ms"].number_or(0) > 0);
    REQUIRE(plan["steps"].size() >= 2);
    CHECK_FALSE(plan["steps"].elements().front()["converged"].boolean_or(true));
    // RAM began with that step; the values outside `steps` are those at STOP.
    auto const last = plan["steps"].elements().back();
    CHECK(last["converged"].boolean_or(false));
    CHECK(last["predicted_downtime_ms"].integer_or(1000) <= 300);
    CHECK(write_limit_on(scene, scene.b()) == 0);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("converge: if it may not be slowed down it is refused, with the reason",
          "[vm][converge]") {
    Scene scene(slow_link("10.0"));
    auto const before = limits_on(scene, scene.a());
    auto const refused = scene.migrate(scene.a(), {"--throttle", "never"});
    INFO(refused.text());
    CHECK(refused.exit_status == 1);
    auto const why = refused.report["error"].text_or("");
    CHECK(why.find("the guest writes") != std::string::npos);
    CHECK(why.find("--downtime-limit 1000") != std::string::npos);
    CHECK(refused.report["convergence"].has("throttle_bytes_per_second"));
    CHECK(refused.report["convergence"]["throttle_bytes_per_second"].is_null());
    CHECK(limits_on(scene, scene.a()) == before);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

TEST_CASE("converge: cancelled while it is slowed down, its own limits are restored",
          "[vm][converge]") {
    Scene scene(slow_link("7.2"));
    set_own_limits(scene);
    auto const before = limits_on(scene, scene.a());
    auto migration = scene.start_migration(scene.a());
    wait_slowed(scene, migration);
    CHECK(scene.sidecar(scene.a(), {"cancel", scene.guest().name()}).exit_status == 0);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 5);
    CHECK(limits_on(scene, scene.a()) == before);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("converge: a sidecar killed while it slows a guest down leaves no limit behind",
          "[vm][converge]") {
    bool const watchdog_too = GENERATE(false, true);
    Scene scene(slow_link(watchdog_too ? "10.0" : "7.2"));
    set_own_limits(scene);
    auto const before = limits_on(scene, scene.a());
    auto migration = scene.start_migration(scene.a());
    wait_slowed(scene, migration);
    auto const sidecar = scene.guest_sidecar(scene.a());
    REQUIRE(sidecar);
    if (watchdog_too) expect::kill_watchdog(scene);
    kill_process(sidecar->pid);
    CHECK(Scene::finish(migration).exit_status != 0);
    if (watchdog_too) {
        // With both gone only `attach` is left to restore the limits.
        CHECK(write_limit_on(scene, scene.a()) > 0);
    } else {
        wait_until("the guest's own limits", Scene::migration_limit,
                   [&] { return limits_on(scene, scene.a()) == before; });
    }
    // It continues the copy and may throttle the guest again, until it is cancelled.
    scene.attach_guest(scene.a());
    auto following = scene.follow_migration(scene.a());
    wait_until("the copy to go on", Scene::migration_limit,
               [&] { return status(scene)["phase"].text_or("") == "copying"; });
    CHECK(scene.sidecar(scene.a(), {"cancel", scene.guest().name()}).exit_status == 0);
    CHECK(Scene::finish(following).exit_status == 5);
    scene.net().shape(0);
    expect::guest_whole(scene, scene.a());
    CHECK(limits_on(scene, scene.a()) == before);
    expect::nothing_left_after_failure(scene, scene.a());
}
