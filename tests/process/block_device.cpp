// Block devices: what the kernel says of them, who uses them, and making them read as zeroes. Loop
// devices over files in memory.
#include "storage/block_device.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include "sidecar/guest/left_devices.hpp"
#include "storage/image.hpp"
#include "storage/stale_image.hpp"
#include "storage/thin_volume.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/loop_device.hpp"

namespace block_device_cases {

using namespace storage_lab;

namespace {

constexpr std::size_t device_bytes = 8 << 20;

struct Devices {
    explicit Devices(std::size_t bytes = device_bytes) {
        lab::write_file(backing, std::string(bytes, 'x'));
        loop.emplace(backing);
    }
    [[nodiscard]] std::string const& path() const { return loop->path(); }

    Directory directory;
    std::string backing = directory.path("backing");
    std::optional<lab::LoopDevice> loop;
};

std::string why_used(std::string const& path) {
    auto const unused = storage::check_device_unused(path);
    return unused ? std::string() : unused.error().what;
}

}  // namespace

TEST_CASE("block device: it is found by every name, and has a size", "[storage][device]") {
    Devices const here;
    auto const link = here.directory.path("link");
    lab::fs::create_symlink(here.path(), link);
    for (auto const& name : {here.path(), link}) {
        CHECK(storage::is_block_device(name));
        auto const status = storage::look_at_device(name);
        REQUIRE(status);
        CHECK(status->bytes == device_bytes);
        CHECK_FALSE(status->read_only);
    }
    CHECK(storage::is_same_device(link, here.path()));
    CHECK_FALSE(storage::is_block_device(here.backing));
    CHECK_FALSE(storage::is_same_device(here.backing, here.backing));
    CHECK(storage::look_at_device(here.backing).error().code == core::Errc::invalid);
    CHECK(*storage::allocated_bytes(link) == device_bytes);
}

TEST_CASE("block device: one that is used is refused, and the user is named", "[storage][device]") {
    Devices const here;
    CHECK(why_used(here.path()).empty());
    {
        core::Fd const exclusive(open(here.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
        REQUIRE(exclusive);
        CHECK(why_used(here.path()).find("it is mounted") != std::string::npos);
    }
    {
        lab::Daemon const writer(
            "writer", {"sh", "-c", fmt::format("exec 3<>{}; exec sleep 1000", here.path())}, {},
            here.directory.text());
        lab::wait_until("the writer", 20s, [&] { return !why_used(here.path()).empty(); });
        CHECK(why_used(here.path()).find(fmt::format("(pid {}) has it open", writer.pid())) !=
              std::string::npos);
    }
    // Who only reads does no harm, as udev does.
    core::Fd const reader(open(here.path().c_str(), O_RDONLY | O_CLOEXEC));
    CHECK(why_used(here.path()).empty());
}

TEST_CASE("block device: a QEMU that locks it is a user, also by another name of it",
          "[storage][device]") {
    Devices const here;
    auto const link = here.directory.path("link");
    lab::fs::create_symlink(here.path(), link);
    for (auto const& [version, binary] : qemus()) {
        INFO("QEMU " << version);
        lab::Daemon const qemu("qemu",
                               {binary, "-M", "pc,accel=tcg", "-nodefaults", "-display", "none",
                                "-S", "-drive", "if=virtio,format=raw,file=" + link},
                               {}, here.directory.text());
        lab::wait_until("QEMU's locks", 30s, [&] {
            if (!qemu.running()) throw lab::Failure(qemu.err());
            return storage::in_use(here.path()).value_or(false);
        });
        CHECK(why_used(here.path()).find("has it open") != std::string::npos);
    }
}

TEST_CASE("block device: zeroes are punched, and the rest is left alone", "[storage][device]") {
    Devices const here;
    Runner runner;
    constexpr std::size_t zeroed = 5 << 20;
    auto const done = runner.must(
        storage::zero_device(runner.loop(), here.path(), zeroed, core::Deadline::after(limit)));
    CHECK(done == zeroed);
    auto const text = lab::read_file(here.path());
    CHECK(text == std::string(zeroed, '\0') + std::string(device_bytes - zeroed, 'x'));
    // Thin stays thin.
    CHECK(*storage::allocated_bytes(here.backing) <= device_bytes - zeroed);
    // A deadline that has passed: nothing is zeroed, which is no error.
    auto const late =
        runner.must(storage::zero_device(runner.loop(), here.path(), device_bytes,
                                         core::Deadline::after(std::chrono::milliseconds(-1))));
    CHECK(late == 0);
}

TEST_CASE("block device: a thin volume is empty if nothing of it is mapped", "[storage][device]") {
    CHECK(storage::is_empty_thin("253:5 1", "0 -"));
    CHECK_FALSE(storage::is_empty_thin("253:5 1", "128 127"));
    CHECK_FALSE(storage::is_empty_thin("253:5 1", "Fail"));
    CHECK_FALSE(storage::is_empty_thin("253:5 1", ""));
    CHECK_FALSE(storage::is_empty_thin("253:5 1 253:9", "0 -"));  // over an external origin
    // Nothing is done to another device.
    Devices const here;
    Runner runner;
    auto const done = runner.must(
        storage::empty_thin_volume(runner.loop(), here.path(), core::Deadline::after(limit)));
    CHECK_FALSE(done);
    CHECK(lab::read_file(here.path()) == std::string(device_bytes, 'x'));
}

TEST_CASE("block device: a stale one is read-only, and QEMU does not open it",
          "[storage][device][stale]") {
    Devices const here;
    Runner runner;
    auto const& path = here.path();
    REQUIRE(storage::check_can_be_set_aside(path, "e1"));
    CHECK_FALSE(here.loop->read_only());
    for (int repeated = 0; repeated < 2; ++repeated) {
        REQUIRE(runner.loop().run(storage::set_images_aside(runner.loop(), {path}, "e1")));
        CHECK(here.loop->read_only());
    }
    for (auto const& [version, binary] : qemus()) {
        INFO("QEMU " << version);
        auto const tried =
            lab::run({binary, "-M", "none", "-nodefaults", "-display", "none", "-drive",
                      "if=none,format=raw,file=" + path, "-device", "help"});
        auto const second = lab::run({binary, "-M", "pc,accel=tcg", "-nodefaults", "-display",
                                      "none", "-S", "-drive", "if=virtio,format=raw,file=" + path});
        INFO(tried.err << second.err);
        CHECK(second.exit_status == 1);
        CHECK(second.err.find("not writable") != std::string::npos);
    }
    for (int repeated = 0; repeated < 2; ++repeated) {
        REQUIRE(storage::restore_images({path}, "e1"));
        CHECK_FALSE(here.loop->read_only());
    }
    REQUIRE(storage::tombstone(path, "e1"));
    REQUIRE(storage::tombstone(path, "e1"));
    CHECK(here.loop->read_only());
    REQUIRE(storage::untombstone(path, "e1"));
    CHECK_FALSE(here.loop->read_only());
}

TEST_CASE("block device: which device a guest left is known, also when it is writable again",
          "[storage][device][stale]") {
    Devices here;
    sidecar::Paths paths{here.directory.path("run"), here.directory.path("state")};
    lab::fs::create_directories(paths.state("web1"));
    lab::fs::create_directories(paths.state("web2"));
    auto const file = here.directory.path("d0");
    lab::write_file(file, "x");
    auto const& path = here.path();
    auto const device = path;
    REQUIRE(sidecar::record_left_devices(paths, "web1", "m1", {file, path}));
    REQUIRE(sidecar::record_left_devices(paths, "web1", "m1", {file, path}));
    CHECK(sidecar::left_devices(paths, "web1").size() == 1);
    CHECK_FALSE(sidecar::has_left(paths, "web1", path));  // it is writable
    here.loop->set_read_only(true);
    CHECK(sidecar::has_left(paths, "web1", path));
    CHECK_FALSE(sidecar::has_left(paths, "web2", path));
    CHECK(sidecar::guest_that_left(paths, path) == "web1");
    CHECK_FALSE(sidecar::guest_that_left(paths, file));
    // LVM has deactivated a volume and activated it: it is not started, nor overwritten.
    here.loop->set_read_only(false);
    CHECK_FALSE(sidecar::has_left(paths, "web1", path));
    CHECK(sidecar::guest_that_left(paths, path) == "web1");
    // After a reboot the name alone may refuse a guest, and never overwrite the device.
    auto const record = lab::read_file(sidecar::left_devices_path(paths, "web1"));
    auto entry = lab::parse_json(record).elements()[0];
    lab::fs::remove(sidecar::left_devices_path(paths, "web1"));
    auto rebooted = core::Json::array();
    entry.set("boot", "another").set("identity", "disk another 1 7:0");
    rebooted.add(entry);
    lab::write_file(sidecar::left_devices_path(paths, "web2"), rebooted.dump());
    CHECK_FALSE(sidecar::has_left(paths, "web2", path));
    CHECK(sidecar::guest_that_left(paths, path) == "web2");
    // `serve` makes a device that it knows read-only again.
    auto const identity = storage::device_identity(path);
    auto known = core::Json::array();
    entry.set("identity", identity);
    known.add(entry);
    lab::write_file(sidecar::left_devices_path(paths, "web2"), known.dump());
    {
        core::Fd const user(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
        sidecar::keep_left_devices(paths);
        CHECK_FALSE(here.loop->read_only());
        CHECK(sidecar::left_devices(paths, "web2").empty());
    }
    lab::write_file(sidecar::left_devices_path(paths, "web2"), known.dump());
    CHECK_FALSE(sidecar::has_left(paths, "web2", path));
    sidecar::keep_left_devices(paths);
    CHECK(here.loop->read_only());
    CHECK(sidecar::has_left(paths, "web2", path));
    lab::fs::remove(sidecar::left_devices_path(paths, "web2"));
    lab::write_file(sidecar::left_devices_path(paths, "web1"), record);
    CHECK(sidecar::has_left(paths, "web1", path));
    // Another file is attached under the same name: it is not that device.
    auto const other = here.directory.path("other");
    lab::write_file(other, std::string(device_bytes, 'y'));
    here.loop.reset();
    lab::must_run({"losetup", device, other});
    lab::must_run({"blockdev", "--setro", device});
    CHECK_FALSE(sidecar::has_left(paths, "web1", device));
    lab::must_run({"blockdev", "--setrw", device});
    lab::must_run({"losetup", "-d", device});
    REQUIRE(sidecar::forget_left_device(paths, device, "web1"));
    CHECK(sidecar::left_devices(paths, "web1").size() == 1);
    REQUIRE(sidecar::forget_left_device(paths, device, "web2"));
    CHECK(sidecar::left_devices(paths, "web1").empty());
    CHECK_FALSE(lab::fs::exists(sidecar::left_devices_path(paths, "web1")));
}

}  // namespace block_device_cases
