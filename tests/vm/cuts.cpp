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
    auto const bulk = moved.report["disks"].elements().at(0)["rounds"].elements().at(0);
    CHECK(bulk["copied_bytes"].integer_or(0) >= random_bytes);
    // Starting again would have copied 1.6 times as much.
    CHECK(bulk["copied_bytes"].integer_or(0) < random_bytes * 5 / 4);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}
