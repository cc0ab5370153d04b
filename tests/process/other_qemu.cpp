// What differs between the QEMUs of two hosts, and between a guest and its command line: devices
// without an id, ROMs of another size. Moved, or refused in the check with the reason.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace other_qemu_cases {

using namespace move_lab;

namespace {

/// A QEMU on the destination whose data directory comes first.
std::string wrapper_of(storage_lab::Directory const& directory, std::string const& script) {
    auto path = directory.path("qemu-system-x86_64");
    lab::write_file(path, "#!/bin/sh\n" + script + "\n");
    lab::must_run({"chmod", "755", path});
    return path;
}

/// Devices without an id of every kind, and two disks whose drives QEMU names.
Argv devices_without_id(MoveHost const& host) {
    lab::write_file(host.directory + "/ide", std::string(disk_bytes, 'i'));
    lab::write_file(host.directory + "/virtio", std::string(disk_bytes, 'v'));
    return {"-drive",    "if=ide,format=raw,file=" + host.directory + "/ide",
            "-drive",    "if=virtio,format=raw,file=" + host.directory + "/virtio",
            "-vga",      "std",
            "-device",   "virtio-balloon-pci",
            "-usb",      "-device",
            "usb-tablet"};
}

}  // namespace

TEST_CASE("other QEMU: a guest with devices without an id moves from QEMU 7.2 to 10.0",
          "[migrate][other-qemu]") {
    auto const qemus = storage_lab::qemus();
    if (!qemus.contains("7.2") || !qemus.contains("10.0")) return;
    MoveLab lab{MoveLab::Empty()};
    lab.start_serve(lab.a);
    lab.start_serve(lab.b, {"--qemu", qemus.at("10.0")});
    lab.a.qemu = qemus.at("7.2");
    lab.a.start_guest(devices_without_id(lab.a));
    auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "running"));
    CHECK(lab::read_file(lab.b.directory + "/ide") == std::string(disk_bytes, 'i'));
    CHECK(lab::read_file(lab.b.directory + "/virtio") == std::string(disk_bytes, 'v'));
}

TEST_CASE("other QEMU: an option ROM of another size is refused in the check",
          "[migrate][other-qemu]") {
    storage_lab::Directory const data;
    // 10.0 is unpacked beside the system's, and its wrapper names its own directory of ROMs first.
    auto const qemus = storage_lab::qemus();
    if (!qemus.contains("7.2")) return;
    auto const qemu = qemus.at("7.2");
    constexpr std::size_t rom_bytes = 3 << 20;
    lab::write_file(data.path("efi-virtio.rom"), std::string(rom_bytes, 'r'));
    Argv const card{"-netdev", "user,id=u0", "-device", "virtio-net-pci,netdev=u0,id=card0"};
    {
        auto const wrapper = wrapper_of(data, "exec " + qemu + " -L " + data.text() + " \"$@\"");
        MoveLab const lab(card, {"--qemu", wrapper});
        auto const refused = lab.refused({});
        CHECK(contains(refused,
                       "the option ROM efi-virtio.rom of card0 takes 4096 KiB on the "
                       "destination"));
    }
    // A QEMU that hides it from the check: its own words reach the command.
    auto const wrapper = wrapper_of(data, "[ \"$1\" = -L ] && exec " + qemu + " \"$@\"; exec " +
                                              qemu + " -L " + data.text() + " \"$@\"");
    MoveLab const lab(card, {"--qemu", wrapper});
    auto const failed = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(failed.out << failed.err);
    CHECK(failed.exit_status == 1);
    CHECK(contains(failed.err, "the destination says: "));
    CHECK(contains(failed.err, "virtio-net-pci.rom"));
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
}

TEST_CASE("other QEMU: firmware of another size is refused, of another content is told",
          "[migrate][other-qemu]") {
    storage_lab::Directory const directory;
    constexpr std::size_t flash_bytes = 256 << 10;
    auto const code = directory.path("code");
    lab::fs::create_directory(directory.path("there"));
    auto const there = directory.path("there/code");
    lab::write_file(code, lab::read_file("/usr/share/seabios/bios-256k.bin"));
    MoveLab const lab({"-drive", "if=pflash,unit=0,readonly=on,format=raw,file=" + code},
                      {"--allow-path", directory.text(), "--map-path", code + "=" + there});
    lab::write_file(there, std::string(2 * flash_bytes, 'f'));
    CHECK(contains(lab.refused({}), there + " has 524288 bytes on the destination and 262144"));
    lab::write_file(there, std::string(flash_bytes, 'f'));
    auto const told = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(told.out << told.err);
    CHECK(told.exit_status == 0);
    CHECK(
        contains(told.out + told.err, there + " is another on the destination, of the same size"));
}

TEST_CASE("other QEMU: a device that was plugged in without an id moves", "[migrate][other-qemu]") {
    storage_lab::Directory const directory;
    auto const socket = directory.path("qmp");
    MoveLab const lab(
        {"-device", "virtio-balloon-pci", "-netdev", "user,id=u0", "-qmp",
         "unix:" + socket + ",server=on,wait=off"},
        {"--allow-path", directory.text(), "--map-path", socket + "=" + directory.path("there")});
    auto const before = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(before.out << before.err);
    CHECK(before.exit_status == 0);
    lab::Qmp qmp(socket);
    qmp.execute("device_add", core::Json::object({{"driver", "virtio-net-pci"}, {"netdev", "u0"}}));
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 0);
}

}  // namespace other_qemu_cases
