// A guest that writes to its disks and talks to a client in both families is moved there and back:
// QEMU 7.2 and 10.0, raw and qcow2, one disk and three. At each move every disk is compared byte
// for byte while the guest is stopped. That makes the pause long here; the benchmark measures the
// real one.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void there_and_back(GuestOptions const& guest) {
    Scene scene({.guest = guest, .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    {
        INFO("there");
        expect::moves_and_disks_are_equal(scene, scene.a());
    }
    INFO("the first sidecar ends with its QEMU: " << scene.first_sidecar().err());
    CHECK(scene.first_sidecar().wait(end_limit) == 0);
    {
        INFO("back");
        expect::moves_and_disks_are_equal(scene, scene.b());
    }
    must_have_kept_sessions(watch.finish(), guest);
}

}  // namespace

TEST_CASE("there and back: QEMU 7.2, raw, one disk", "[vm][move]") {
    there_and_back({.qemu = "7.2", .format = "raw", .disks = 1});
}
TEST_CASE("there and back: QEMU 7.2, raw, three disks", "[vm][move]") {
    there_and_back({.qemu = "7.2", .format = "raw", .disks = 3, .blockdev = true, .rate = 100});
}
TEST_CASE("there and back: QEMU 7.2, raw, two disks in an iothread", "[vm][move]") {
    there_and_back({.qemu = "7.2", .format = "raw", .disks = 2, .iothread = true, .rate = 100});
}
TEST_CASE("there and back: QEMU 7.2, qcow2, one disk", "[vm][move]") {
    there_and_back({.qemu = "7.2", .format = "qcow2", .disks = 1, .blockdev = true});
}
TEST_CASE("there and back: QEMU 7.2, qcow2, three disks", "[vm][move]") {
    there_and_back({.qemu = "7.2", .format = "qcow2", .disks = 3, .rate = 100});
}
TEST_CASE("there and back: QEMU 10.0, raw, one disk", "[vm][move]") {
    there_and_back({.qemu = "10.0", .format = "raw", .disks = 1, .blockdev = true});
}
TEST_CASE("there and back: QEMU 10.0, raw, three disks", "[vm][move]") {
    there_and_back({.qemu = "10.0", .format = "raw", .disks = 3, .rate = 100});
}
TEST_CASE("there and back: QEMU 10.0, qcow2, one disk", "[vm][move]") {
    there_and_back({.qemu = "10.0", .format = "qcow2", .disks = 1});
}
TEST_CASE("there and back: QEMU 10.0, qcow2, three disks in an iothread", "[vm][move]") {
    there_and_back({.qemu = "10.0", .format = "qcow2", .disks = 3, .iothread = true, .rate = 100});
}
