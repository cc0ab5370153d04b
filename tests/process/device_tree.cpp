// The destination's QEMU makes another machine of the guest's command line than the guest has: that
// is refused before anything is copied.
#include "tests/process/move_lab.hpp"

namespace device_tree_cases {

using namespace move_lab;

namespace {

/// A QEMU of the destination that another program starts, which changes the line.
class ChangedQemu {
public:
    explicit ChangedQemu(std::string qemu) : qemu_(std::move(qemu)) { change("exec {} \"$@\""); }

    /// A shell's command in which {} is QEMU.
    void change(std::string const& script) const {
        lab::write_file(path(), "#!/bin/bash\n" + fmt::format(fmt::runtime(script), qemu_) + "\n");
        lab::must_run({"chmod", "755", path()});
    }
    [[nodiscard]] std::string path() const { return directory_.path("qemu-system-x86_64"); }

private:
    std::string qemu_;
    storage_lab::Directory directory_;
};

/// Makes A of each A in QEMU's words B.
std::string replacing(std::string const& from, std::string const& to) {
    return fmt::format("exec {{}} \"${{{{@//{}/{}}}}}\"", from, to);
}

struct Change {
    std::string what;
    std::string script;
    std::string refused;  ///< A part of the sentence.
};

std::vector<Change> const changes{
    {"one more device", "exec {} \"$@\" -device virtio-rng-pci",
     "it has the device virtio-rng-pci (04.0 on pci.0), which the guest does not have"},
    {"a machine without a HPET", "exec {} \"$@\" -machine hpet=off",
     "it has no device hpet (on main-system-bus)"},
    {"another card", replacing("virtio-net-pci", "e1000"),
     "has PCI ids 1af4:1000 (subsystem 1af4:0001) on the source and 8086:100e (subsystem "
     "1af4:1100) "
     "on the destination"},
    {"another MAC address", replacing("52:54:00:10:00:10", "52:54:00:10:00:11"),
     "has mac 52:54:00:10:00:10 on the source and 52:54:00:10:00:11 on the destination"},
    {"more queues of a disk", "exec {} \"$@\" -global virtio-blk-device.num-queues=2",
     "has num-queues 1 on the source and 2 on the destination"},
    {"a feature of a disk is off", "exec {} \"$@\" -global virtio-blk-device.event_idx=off",
     "has event_idx true on the source and false on the destination"},
    {"more memory", "exec {} \"$@\" -m 96",
     "the RAM has bytes 67108864 on the source and 100663296 on the destination"},
    {"more processors", "exec {} \"$@\" -smp 2", "it has the processor core-id 1, which the guest"},
    {"an older machine", "exec {} \"$@\" -machine pc-i440fx-6.2",
     "on the source and pc-i440fx-6.2 on the destination"},
    {"a device in the chipset", "exec {} \"$@\" -device pvpanic",
     "it has the device pvpanic without an id, which the guest does not have"},
    {"a device on no bus", "exec {} \"$@\" -device vmgenid",
     "it has the device vmgenid without an id, which the guest does not have"},
};

/// Nothing of the guest is on that host.
void nothing_is_left(MoveHost const& host) {
    lab::wait_until("the end of the destination's QEMU", 30s, [&] {
        return lab::processes_in(host.netns).size() == 1;  // `serve`
    });
    CHECK_FALSE(lab::fs::exists(host.directory + "/d0"));
    CHECK_FALSE(contains(host.in("ip -o link"), "web1"));
}

void other_machines_are_refused(std::string const& version) {
    auto const qemus = storage_lab::qemus();
    if (!qemus.contains(version)) return;
    ChangedQemu const qemu(qemus.at(version));
    MoveLab lab{MoveLab::Empty()};
    lab.start_serve(lab.a);
    lab.start_serve(lab.b, {"--qemu", qemu.path()});
    lab.a.qemu = qemus.at(version);
    lab.a.start_guest();
    for (auto const& change : changes) {
        INFO(change.what);
        qemu.change(change.script);
        auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
        INFO(moved.out << moved.err);
        CHECK(moved.exit_status == 1);
        CHECK(contains(moved.err, "makes another machine of the guest's command line"));
        CHECK(contains(moved.err, change.refused));
        CHECK(contains(moved.err, "serve --qemu PROGRAM"));
        CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
        nothing_is_left(lab.b);
    }
    CHECK_FALSE(contains(lab.b.serve->err(), "incoming phase=prepared"));
    qemu.change("exec {} \"$@\"");
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 0);
    CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "running"));
}

}  // namespace

TEST_CASE("device tree: another machine on the destination is refused before the copy, QEMU 7.2",
          "[migrate][device-tree]") {
    other_machines_are_refused("7.2");
}
TEST_CASE("device tree: another machine on the destination is refused before the copy, QEMU 10.0",
          "[migrate][device-tree]") {
    other_machines_are_refused("10.0");
}

}  // namespace device_tree_cases
