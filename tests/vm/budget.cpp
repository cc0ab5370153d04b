// --bandwidth limits disks and RAM together, and `sidecar set` changes it during the migration.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr double mb = 1e6;
/// The share of bytes above the rate: one burst of QEMU (100 ms), one of ours, and what RAM sends
/// after the limit is lifted at the end.
constexpr double burst_share = 0.25;

double phase_ms(core::Json const& report, std::string const& name) {
    double sum = 0;
    for (auto const& phase : report["phases"].elements()) {
        if (phase["name"].text_or("") == name) sum += phase["ms"].number_or(0);
    }
    return sum;
}

}  // namespace

TEST_CASE("bandwidth: the limit holds for the disks and for RAM", "[vm][bandwidth]") {
    Scene scene({.guest = {.qemu = GENERATE(from_range(qemus("7.2"))), .random_mib = 32}});
    constexpr double rate = 20 * mb;
    auto const moved = scene.migrate(scene.a(), {"--bandwidth", "20M"});
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    double disk_bytes = 0;
    for (auto const& disk : moved.report["disks"].elements()) {
        disk_bytes += static_cast<double>(disk["copied_bytes"].integer_or(0));
    }
    auto const ram_bytes =
        static_cast<double>(moved.report["ram"]["transferred_bytes"].integer_or(0));
    CHECK(disk_bytes >= 32 * mb);
    CHECK(disk_bytes <= rate * (1 + burst_share) * phase_ms(moved.report, "copying") / 1000);
    CHECK(ram_bytes <= rate * (1 + burst_share) * phase_ms(moved.report, "converging") / 1000);
    expect::guest_whole(scene, scene.b());
}

TEST_CASE("bandwidth: it can be changed while the migration runs", "[vm][bandwidth]") {
    Scene scene({.guest = {.random_mib = 64}});
    // At this rate 64 MiB take longer than a migration in a test may: only `set` ends it in time.
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", "100K"});
    wait_until("the copy to be under way", 60s,
               [&] { return scene.migration_on(scene.a())["phase"].text_or("") == "copying"; });
    auto const wrong = scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=fast"});
    CHECK(wrong.exit_status == 2);
    CHECK(wrong.err.find("error: ") == 0);
    auto const changed = scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"});
    INFO(changed.err);
    CHECK(changed.exit_status == 0);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    CHECK(moved.exit_status == 0);
    expect::guest_whole(scene, scene.b());
    auto const late = scene.sidecar(scene.b(), {"set", scene.guest().name(), "bandwidth=1M"});
    CHECK(late.exit_status == 3);
}
