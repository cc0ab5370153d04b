// The link between the hosts is cut while the disks are copied: every TCP connection between the
// sidecars and between NBD's ends dies at once. The migration goes on where it was, and copies
// nothing twice.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr std::int64_t random_bytes = std::int64_t{48} << 20;
/// Of the bulk pass, when the cut comes.
constexpr double cut_at = 0.6;

void cut_link(Scene const& scene) {
    // -K destroys sockets: both ends see a reset or an abort, as after a router's restart.
    auto const cut = run({"ss", "-t", "-K", "state", "established"}, scene.a().place());
    INFO(cut.err);
    REQUIRE(cut.out.find(':') != std::string::npos);
}

/// Starting again would have copied 1.6 times as much.
void nothing_copied_twice(core::Json const& report) {
    auto const bulk = report["disks"].elements().at(0)["rounds"].elements().at(0);
    CHECK(bulk["copied_bytes"].integer_or(0) >= random_bytes);
    CHECK(bulk["copied_bytes"].integer_or(0) < random_bytes * 5 / 4);
}

}  // namespace

TEST_CASE("cuts: the link is cut while copying, and the copy goes on where it was", "[vm][cut]") {
    auto const qemu = GENERATE(as<std::string>(), "7.2", "10.0");
    auto const format = GENERATE(as<std::string>(), "raw", "qcow2");
    INFO("QEMU " << qemu << ", " << format);
    Scene scene({.guest = {.qemu = qemu,
                           .format = format,
                           .disk_mib = 64,
                           .random_mib = random_bytes >> 20,
                           .rate = 20}});
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", "6M"});
    scene.wait_copied(scene.a(), cut_at);
    cut_link(scene);
    auto const changed = scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"});
    CHECK(changed.exit_status == 0);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["link_cuts"].integer_or(0) >= 1);
    nothing_copied_twice(moved.report);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("cuts: the source's sidecar is killed while copying, and another goes on", "[vm][cut]") {
    auto const qemu = GENERATE(as<std::string>(), "7.2", "10.0");
    auto const format = GENERATE(as<std::string>(), "raw", "qcow2");
    INFO("QEMU " << qemu << ", " << format);
    Scene scene({.guest = {.qemu = qemu,
                           .format = format,
                           .disk_mib = 64,
                           .random_mib = random_bytes >> 20,
                           .rate = 20},
                 .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", "6M"});
    scene.wait_copied(scene.a(), cut_at);
    auto const source = scene.guest_sidecar(scene.a());
    REQUIRE(source);
    kill_process(source->pid);
    auto const ended = Scene::finish(migration);
    CHECK(ended.exit_status == 4);
    CHECK(ended.err.find("sidecar attach") != std::string::npos);

    scene.attach_guest(scene.a());
    auto following = scene.follow_migration(scene.a());
    CHECK(scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"}).exit_status == 0);
    auto const held = scene.wait_stopped(scene.b());
    // Both disks stand still now.
    compare_images(scene.guest().image(scene.a(), 0), format, scene.guest().image(scene.b(), 0));
    signal_process(held, SIGCONT);
    auto const moved = Scene::finish(following);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["disks"].elements().at(0)["resumed_at_bytes"].integer_or(0) > 0);
    nothing_copied_twice(moved.report);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
    expect::moves(scene, scene.b());
}

TEST_CASE("cuts: there is nothing to resume", "[vm][cut]") {
    Scene scene({});
    auto const ended = scene.sidecar(scene.a(), {"migrate", "--resume", scene.guest().name()});
    CHECK(ended.exit_status == 3);
    CHECK(ended.err.find("no migration of web1 was left unfinished") != std::string::npos);
}
