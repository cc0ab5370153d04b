// The copy of the disks is interrupted: the link between the hosts is cut (every TCP connection of
// the sidecars and of NBD breaks at once), a sidecar is killed, or the destination's QEMU is. The
// migration continues where it was, copies nothing twice, and every byte arrives.
#include <catch2/catch.hpp>

#include <random>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

enum class Cut { link, source_sidecar, destination_sidecar, destination_qemu };
char const* name(Cut cut) {
    return cut == Cut::link               ? "link"
           : cut == Cut::source_sidecar   ? "source's sidecar"
           : cut == Cut::destination_qemu ? "destination's QEMU"
                                          : "destination's sidecar";
}

/// Data on the disk: all of it is written, except for a hole at the end.
constexpr std::int64_t random_bytes = std::int64_t{60} << 20;
constexpr std::int64_t disk_mib = 64;
constexpr std::int64_t bandwidth = 6'000'000;

void cut_link(Scene const& scene) {
    // -K destroys sockets: both ends get a reset or an abort, as after a router's restart.
    auto const cut = run({"ss", "-t", "-K", "state", "established"}, scene.a().place());
    INFO(cut.err);
    REQUIRE(cut.out.find(':') != std::string::npos);
}

void kill_sidecar(Scene const& scene, Host const& host) {
    auto const sidecar = scene.guest_sidecar(host);
    REQUIRE(sidecar);
    kill_process(sidecar->pid);
}

/// The error says what to do; the test does it, and a new sidecar continues the migration.
Daemon another_sidecar(Scene& scene, Daemon& migration) {
    auto const ended = Scene::finish(migration);
    CHECK(ended.exit_status == 1);
    CHECK(ended.err.find("sidecar attach") != std::string::npos);
    scene.attach_guest(scene.a());
    return scene.follow_migration(scene.a());
}

void outlives(Cut cut, double share, std::string const& qemu, std::string const& format) {
    INFO("the " << name(cut) << " at " << share << ", QEMU " << qemu << ", " << format);
    Scene scene({.guest = {.qemu = qemu,
                           .format = format,
                           .disk_mib = disk_mib,
                           .random_mib = random_bytes >> 20,
                           .rate = 20},
                 .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", std::to_string(bandwidth)});
    scene.wait_copied(scene.a(), share);
    if (cut == Cut::link) cut_link(scene);
    if (cut == Cut::destination_sidecar) kill_sidecar(scene, scene.b());
    if (cut == Cut::destination_qemu) kill_process(scene.guest().qemu_pid(scene.b()));
    if (cut == Cut::source_sidecar) {
        kill_sidecar(scene, scene.a());
        migration = another_sidecar(scene, migration);
    }
    CHECK(scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"}).exit_status == 0);
    auto const held = scene.wait_stopped(scene.b());
    // Neither disk changes now.
    compare_images(image_left(scene.guest().image(scene.a(), 0)), format,
                   scene.guest().image(scene.b(), 0));
    signal_process(held, SIGCONT);

    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    auto const disk = moved.report["disks"].elements().at(0);
    if (cut == Cut::source_sidecar) {
        CHECK(moved.report["recovered"].boolean_or(false));
        // Progress is noted five times a second, and little has been copied by then.
        constexpr double noted_surely = 0.1;
        if (share > noted_surely) CHECK(disk["resumed_at_bytes"].integer_or(0) > 0);
    } else {
        CHECK(moved.report["link_cuts"].integer_or(0) >= 1);
    }
    // At most the bytes in flight are copied twice. For a qcow2 image and a killed QEMU, the
    // unflushed data too: the writes of the 5 s before the last flush and those since.
    auto const copied = disk["rounds"].elements().at(0)["copied_bytes"].integer_or(0);
    std::int64_t twice = 10 << 20;
    if (cut == Cut::destination_qemu && format == "qcow2") twice += 10 * bandwidth;
    CHECK(copied > 0);
    CHECK(copied <= random_bytes + twice);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

/// 7.2 with raw, 10.0 with qcow2; the campaign runs the other two.
void each_kind_outlives(Cut cut, std::string const& usual_qemu) {
    auto const qemu = GENERATE_COPY(from_range(qemus(usual_qemu)));
    outlives(cut, 0.6, qemu, qemu == "7.2" ? "raw" : "qcow2");
}

}  // namespace

TEST_CASE("cuts: the link is cut while copying, and the copy continues where it was", "[vm][cut]") {
    each_kind_outlives(Cut::link, "7.2");
}
TEST_CASE("cuts: the source's sidecar is killed while copying, and another continues",
          "[vm][cut]") {
    each_kind_outlives(Cut::source_sidecar, "10.0");
}

TEST_CASE("cuts: the destination's QEMU is killed while copying, and started again",
          "[vm][cut][fault]") {
    each_kind_outlives(Cut::destination_qemu, "10.0");
}

TEST_CASE("cuts: a link that stays down ends the command, and --resume continues",
          "[vm][cut][waits]") {
    Scene scene({.guest = {.format = "qcow2",
                           .disk_mib = disk_mib,
                           .random_mib = random_bytes >> 20,
                           .rate = 20}});
    auto migration = scene.start_migration(
        scene.a(), {"--bandwidth", std::to_string(bandwidth), "--link-timeout", "5"});
    scene.wait_copied(scene.a(), 0.5);
    scene.net().link(scene.b(), false);
    auto const waits = Scene::finish(migration);
    INFO(waits.text());
    CHECK(waits.exit_status == 6);
    auto const told = waits.report["error"].text_or("");
    CHECK(told.find("sidecar migrate --resume web1") != std::string::npos);
    CHECK(told.find("the guest runs on the source") != std::string::npos);
    CHECK(waits.report["disks"].elements().at(0)["copied_bytes"].integer_or(0) > 1 << 20);
    CHECK(scene.migration_on(scene.a()).has("waiting"));
    // A suspended migration exists, and it is kept.
    CHECK(scene.migrate(scene.a()).exit_status == 3);

    scene.net().link(scene.b(), true);
    auto resumed = scene.follow_migration(scene.a());
    auto const moved = Scene::finish(resumed);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    auto const disk = moved.report["disks"].elements().at(0);
    auto const copied = disk["rounds"].elements().at(0)["copied_bytes"].integer_or(0);
    CHECK(copied <= random_bytes + (10 << 20));
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("cuts: a copy that waits for its link can be cancelled, and started again", "[vm][cut]") {
    Scene scene({.guest = {.disk_mib = disk_mib, .random_mib = random_bytes >> 20}});
    auto migration = scene.start_migration(
        scene.a(), {"--bandwidth", std::to_string(bandwidth), "--link-timeout", "1"});
    scene.wait_copied(scene.a(), 0.3);
    scene.net().link(scene.b(), false);
    CHECK(Scene::finish(migration).exit_status == 6);
    CHECK(scene.sidecar(scene.a(), {"cancel", scene.guest().name()}).exit_status == 0);
    wait_until("the copy is given up", 60s,
               [&] { return scene.migration_on(scene.a()).is_null(); });
    scene.net().link(scene.b(), true);
    // The leftovers at the destination are replaced.
    expect::moves(scene, scene.a());
}

TEST_CASE("cuts: there is nothing to resume", "[vm][cut]") {
    Scene scene({});
    auto const ended = scene.sidecar(scene.a(), {"migrate", "--resume", scene.guest().name()});
    CHECK(ended.exit_status == 3);
    CHECK(ended.err.find("no migration of web1 was left unfinished") != std::string::npos);
}

// scripts/test --campaign cuts
TEST_CASE("cuts at ten random moments", "[.][random-cuts]") {
    auto const seed = std::random_device()();
    INFO("seed " << seed);
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> moment(0.02, 0.9);
    for (Cut const cut :
         {Cut::link, Cut::source_sidecar, Cut::destination_sidecar, Cut::destination_qemu}) {
        for (int time = 0; time < 10; ++time) {
            outlives(cut, time == 0 ? 0.9 : moment(random), random() % 2 == 0 ? "7.2" : "10.0",
                     random() % 2 == 0 ? "raw" : "qcow2");
        }
    }
}
