// A guest that checks its disk goes from a file to a block device, from there to a larger one, and
// back into a file.
#include <catch2/catch.hpp>

#include "tests/support/loop_device.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// A device full of other data.
struct FullDevice {
    FullDevice(Lab const& lab, std::string const& name, std::uint64_t mib)
        : backing(lab.directory() / name) {
        write_file(backing, {});
        fs::resize_file(backing, mib << 20);
        write_random(backing, 0, mib << 20);
        device.emplace(backing);
    }
    fs::path backing;
    std::optional<LoopDevice> device;
};

void moves_to(Scene& scene, Host const& from, std::string const& target, Argv more = {}) {
    more.insert(more.end(), {"--disk", "d0=" + target});
    auto const moved = scene.migrate(from, more);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["disks"].elements()[0]["target"].text_or("") == target);
    expect::guest_whole(scene, scene.net().other(from));
}

}  // namespace

TEST_CASE("devices: a guest's disk goes from a file to a device, to a larger one, and to a file",
          "[vm][device]") {
    auto const qemu = GENERATE(from_range(qemus("7.2")));
    GuestOptions const guest{
        .qemu = qemu, .format = "raw", .disks = 1, .blockdev = qemu == "10.0", .rate = 100};
    INFO("QEMU " << qemu);
    Scene scene({.guest = guest});
    FullDevice const first(scene.net(), "first", guest.disk_mib);
    FullDevice const second(scene.net(), "second", guest.disk_mib + 8);
    for (auto const* host : {&scene.a(), &scene.b()}) {
        scene.start_serve(
            *host, {},
            {"--allow-path", first.device->path(), "--allow-path", second.device->path()});
    }
    moves_to(scene, scene.a(), first.device->path(), {"--verify"});
    moves_to(scene, scene.b(), second.device->path());
    CHECK(first.device->read_only());
    CHECK_FALSE(second.device->read_only());
    auto const file = scene.b().images / "again.raw";
    moves_to(scene, scene.a(), file);
    CHECK(second.device->read_only());
    CHECK(fs::file_size(file) == guest.disk_mib << 20);
}
