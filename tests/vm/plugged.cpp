// A guest whose second disk and whose interface were plugged in while QEMU ran is moved there and
// back. It writes to that disk and checks it, and a client keeps sessions over that interface.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

TEST_CASE("plugged: a disk and an interface that were plugged in, there and back",
          "[vm][plugged]") {
    auto const version = GENERATE(from_range(qemus("7.2")));
    auto const format = version == "7.2" ? "raw" : "qcow2";
    INFO("QEMU " << version << ", " << format);
    GuestOptions const guest{
        .qemu = version, .format = format, .disks = 2, .plugged = true, .rate = 100};
    Scene scene({.guest = guest, .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    expect::moves_and_disks_are_equal(scene, scene.a());
    expect::moves_and_disks_are_equal(scene, scene.b());
    must_have_kept_sessions(watch.finish(), guest);

    // The guest gives the disk back; what is left moves on.
    Qmp qemu(scene.guest().probe_socket(scene.a()));
    qemu.execute("device_del", core::Json::object({{"id", "plugged0"}}));
    qemu.wait_event_if("plugged0 to be gone", [](Qmp::Event const& event) {
        return event.name == "DEVICE_DELETED" && event.data["device"].text_or("") == "plugged0";
    });
    auto running = scene.start_migration(scene.a());
    auto const ended = scene.finish_past_hooks(running);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    CHECK(ended.report["disks"].size() == 1);
    CHECK(scene.guest().answers());
}
