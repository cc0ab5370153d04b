// A guest that dirties its RAM faster than the link carries it. QEMU throttles its processors, or
// the migration ends with the arithmetic. In every case QEMU's settings are the user's own again. A
// guest that converges is never throttled.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;
using core::Json;

namespace {

/// The guest rewrites all of its 32 MiB each second, or in some seconds on a busy machine. RAM's
/// part of the bandwidth is 7 MB/s, so that one pass takes about five seconds.
GuestOptions fast_in_ram(std::string const& qemu) { return {.qemu = qemu, .ram_rate = 20'000}; }
Argv const narrow{"--bandwidth", "8M"};

Argv with(Argv more) {
    more.insert(more.begin(), narrow.begin(), narrow.end());
    return more;
}

/// The result of query-migrate on that host. The tests' QEMU monitor takes one connection at a
/// time, so each look opens its own.
Json ram_on(Scene& scene, Host const& host) {
    Qmp qemu(scene.guest().probe_socket(host));
    return qemu.execute("query-migrate");
}

/// All settings that our migration changes.
std::string settings_on(Scene& scene, Host const& host) {
    Qmp qemu(scene.guest().probe_socket(host));
    auto const parameters = qemu.execute("query-migrate-parameters");
    std::string text;
    for (auto const* name :
         {"max-bandwidth", "downtime-limit", "cpu-throttle-initial", "cpu-throttle-increment",
          "max-cpu-throttle", "throttle-trigger-threshold", "tls-creds", "tls-hostname"}) {
        text += fmt::format("{}={} ", name, parameters[name].dump());
    }
    for (auto const& one : qemu.execute("query-migrate-capabilities").elements()) {
        if (one["state"].boolean_or(false)) text += one["capability"].text_or("") + " ";
    }
    return text;
}

/// Settings as a user makes them.
void set_own_settings(Scene& scene) {
    Qmp qemu(scene.guest().probe_socket(scene.a()));
    qemu.execute("migrate-set-parameters", Json::object({{"max-bandwidth", 77'000'000},
                                                         {"downtime-limit", 123},
                                                         {"cpu-throttle-initial", 33},
                                                         {"cpu-throttle-increment", 7},
                                                         {"max-cpu-throttle", 77},
                                                         {"throttle-trigger-threshold", 44}}));
}

void wait_processors_slowed(Scene& scene, Daemon& migration) {
    wait_until("the guest's processors to be slowed down", Scene::migration_limit, [&] {
        if (auto const ended = migration.wait(0ms)) {
            throw Failure(fmt::format("migrate ended with {}: {}", *ended, migration.err()));
        }
        return ram_on(scene, scene.a())["cpu-throttle-percentage"].integer_or(0) >= 20;
    });
}

double converging_ms(Json const& report) {
    for (auto const& phase : report["phases"].elements()) {
        if (phase["name"].text_or("") == "converging") return phase["ms"].number_or(0);
    }
    return 0;
}

/// Exit 1, the arithmetic in the error and in the report, and the guest unchanged.
void must_be_refused(Scene& scene, Migration const& ended) {
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    auto const why = ended.report["error"].text_or("");
    for (auto const* part :
         {"RAM does not converge", "the guest dirties", "the link takes", "the pause would be",
          "--downtime-limit 1000", "--converge-limit", "on the source"}) {
        INFO(part);
        CHECK(why.find(part) != std::string::npos);
    }
    auto const ram = ended.report["convergence"]["ram"];
    INFO(ram.dump());
    CHECK_FALSE(ram["converging"].boolean_or(true));
    CHECK(ram["passes"].integer_or(0) >= 2);
    CHECK(ram["dirty_bytes"].integer_or(0) > 10'000'000);
    CHECK(ram["dirty_bytes_per_second"].integer_or(0) > 0);  // over one pass, which may be long
    CHECK(ram["transfer_bytes_per_second"].integer_or(0) > 1'000'000);
    CHECK(ram["transfer_bytes_per_second"].integer_or(0) < 10'000'000);
    CHECK(ram["predicted_downtime_ms"].integer_or(0) > ram["budget_ms"].integer_or(1 << 30));
    CHECK(ended.report["downtime_limit_ms"].integer_or(0) == 1000);
    CHECK_FALSE(ended.report.has("downtime_ms"));  // it never stopped
    expect::guest_whole(scene, scene.a());
}

}  // namespace

TEST_CASE("converge: RAM that is dirtied faster than the link is refused with the arithmetic",
          "[vm][converge]") {
    Scene scene({.guest = fast_in_ram(GENERATE(from_range(qemus("10.0"))))});
    auto const ended = scene.migrate(scene.a(), with({"--throttle", "never"}));
    must_be_refused(scene, ended);
    CHECK(ended.report["convergence"]["ram"]["cpu_throttle_percent"].integer_or(-1) == 0);
    CHECK(converging_ms(ended.report) < 120'000);  // by the arithmetic, long before the limit
    expect::nothing_left_after_failure(scene, scene.a());
}

TEST_CASE("converge: RAM that does not converge is ended by --converge-limit", "[vm][converge]") {
    Scene scene({.guest = fast_in_ram(GENERATE(from_range(qemus("10.0"))))});
    set_own_settings(scene);
    auto const before = settings_on(scene, scene.a());
    auto migration = scene.start_migration(scene.a(), with({"--converge-limit", "12s"}));
    wait_until("the arithmetic of RAM in `status`", Scene::migration_limit, [&] {
        return scene.migration_on(scene.a())["ram_predicted_downtime_ms"].integer_or(0) > 0 ||
               migration.wait(0ms);
    });
    auto const ended = Scene::finish(migration);
    must_be_refused(scene, ended);
    CHECK(converging_ms(ended.report) >= 11'000);
    // On a busy machine the first pass takes most of it; half of the limit remains after it.
    CHECK(converging_ms(ended.report) < 60'000);
    CHECK(settings_on(scene, scene.a()) == before);
}

TEST_CASE("converge: a guest whose RAM does not converge is slowed down by QEMU, and moves",
          "[vm][converge]") {
    Scene scene({.guest = fast_in_ram(GENERATE(from_range(qemus("10.0"))))});
    auto migration = scene.start_migration(scene.a(), narrow);
    wait_processors_slowed(scene, migration);
    wait_until("`status` to say so", 30s, [&] {
        return scene.migration_on(scene.a())["cpu_throttle_percent"].integer_or(0) >= 20;
    });
    CHECK(scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"}).exit_status == 0);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    expect::report_of_a_move(moved.report, scene.guest().options());
    CHECK(moved.report["convergence"]["ram"]["cpu_throttle_percent"].integer_or(0) >= 20);
    CHECK(moved.report["downtime_limit_ms"].integer_or(0) == 1000);
    CHECK(moved.report["downtime_ms"].number_or(1e9) <= 1000);
    // Not guest_whole(): TCG may lose a store in a guest this fast (docs/qemu-bugs.md).
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.b()));
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("converge: cancelled while its processors are slowed down, QEMU's settings are restored",
          "[vm][converge]") {
    Scene scene({.guest = fast_in_ram("10.0")});
    set_own_settings(scene);
    auto const before = settings_on(scene, scene.a());
    auto migration = scene.start_migration(scene.a(), narrow);
    wait_processors_slowed(scene, migration);
    CHECK(scene.sidecar(scene.a(), {"cancel", scene.guest().name()}).exit_status == 0);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 5);
    CHECK(settings_on(scene, scene.a()) == before);
    CHECK_FALSE(ram_on(scene, scene.a()).has("cpu-throttle-percentage"));
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("converge: a sidecar killed while RAM is sent leaves none of its settings in QEMU",
          "[vm][converge]") {
    bool const watchdog_too = GENERATE(false, true);
    Scene scene({.guest = fast_in_ram(watchdog_too ? "10.0" : "7.2")});
    set_own_settings(scene);
    auto const before = settings_on(scene, scene.a());
    auto migration = scene.start_migration(scene.a(), narrow);
    wait_processors_slowed(scene, migration);
    auto const sidecar = scene.guest_sidecar(scene.a());
    REQUIRE(sidecar);
    if (watchdog_too) expect::kill_watchdog(scene);
    kill_process(sidecar->pid);
    CHECK(Scene::finish(migration).exit_status != 0);
    if (watchdog_too) {
        CHECK(settings_on(scene, scene.a()) != before);  // only `attach` can still do it
    } else {
        wait_until("the watchdog to restore QEMU's settings", Scene::migration_limit,
                   [&] { return settings_on(scene, scene.a()) == before; });
    }
    scene.attach_guest(scene.a());
    wait_until("`attach` to have undone the migration", Scene::migration_limit,
               [&] { return scene.migration_on(scene.a()).is_null(); });
    CHECK(settings_on(scene, scene.a()) == before);
    CHECK(ram_on(scene, scene.a())["cpu-throttle-percentage"].integer_or(0) == 0);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("converge: a guest whose RAM converges is not slowed down", "[vm][converge]") {
    Scene scene({.guest = {.qemu = GENERATE(from_range(qemus("10.0"))), .ram_rate = 1000}});
    auto migration = scene.start_migration(scene.a());
    std::int64_t most = 0;
    unsigned looks = 0;
    try {
        Qmp qemu(scene.guest().probe_socket(scene.a()));
        while (!migration.wait(10ms)) {
            auto const ram = qemu.execute("query-migrate");
            if (ram["status"].text_or("") != "active") continue;
            ++looks;
            most = std::max(most, ram["cpu-throttle-percentage"].integer_or(0));
        }
    } catch (Failure const&) {
        // QEMU has ended: the guest has left.
    }
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(looks > 0);
    CHECK(most == 0);
    CHECK(moved.report["convergence"]["ram"]["cpu_throttle_percent"].integer_or(-1) == 0);
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}
