// Long runs, not part of the normal one: scripts/test --campaign NAME.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr int round_trips = 10;

void ten_round_trips(GuestOptions const& guest) {
    Scene scene({.guest = guest});
    Watch watch(scene.net(), scene.guest());
    for (int trip = 0; trip < round_trips; ++trip) {
        INFO("round trip " << trip + 1 << " of " << round_trips);
        expect::moves(scene, scene.a());
        expect::moves(scene, scene.b());
        // Tombstones are the operator's to remove; here they would fill the disk.
        for (Host const* host : {&scene.a(), &scene.b()}) {
            for (auto const& file : fs::directory_iterator(host->images)) {
                if (file.path().string().find(".moved-") != std::string::npos) fs::remove(file);
            }
        }
    }
    must_have_kept_sessions(watch.finish(), guest);
}

void every_kind(std::string const& qemu) {
    auto const format = GENERATE(as<std::string>(), "raw", "qcow2");
    auto const disks = GENERATE(1, 3);
    INFO("QEMU " << qemu << ", " << format << ", disks: " << disks);
    ten_round_trips({.qemu = qemu, .format = format, .disks = disks, .rate = 100});
}

}  // namespace

TEST_CASE("round trips: ten there and back, every kind of guest, QEMU 7.2",
          "[.][round-trips][qemu-7.2]") {
    every_kind("7.2");
}
TEST_CASE("round trips: ten there and back, every kind of guest, QEMU 10.0",
          "[.][round-trips][qemu-10.0]") {
    every_kind("10.0");
}
