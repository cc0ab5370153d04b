// Devices of many kinds: a guest whose firmware has run has the device tree that a QEMU which waits
// for it has, of the same version and of a later one.
#include "qmp/vm.hpp"
#include "sidecar/guest/device_tree.hpp"
#include "tests/process/qmp_support.hpp"

namespace device_tree_kinds_cases {

using namespace qmp_test;
using sidecar::DeviceTree;
using Options = std::vector<std::string>;

namespace {

constexpr auto firmware_limit = 120s;  // on a busy machine

Options const pc_devices{"-machine",
                         "pc-i440fx-7.2",
                         "-m",
                         "64,slots=2,maxmem=512M",
                         "-smp",
                         "2,maxcpus=4",
                         "-vga",
                         "cirrus",
                         "-usb",
                         "-serial",
                         "null",
                         "-parallel",
                         "null",
                         "-drive",
                         "if=ide,driver=null-co,size=1M",
                         "-drive",
                         "if=virtio,driver=null-co,size=1M",
                         "-drive",
                         "if=floppy,driver=null-co,size=1440K",
                         "-drive",
                         "if=none,id=s1,driver=null-co,size=1M",
                         "-drive",
                         "if=none,id=u1,driver=null-co,size=1M",
                         "-device",
                         "lsi53c895a,id=lsi",
                         "-device",
                         "scsi-hd,drive=s1,bus=lsi.0",
                         "-device",
                         "usb-ehci,id=ehci",
                         "-device",
                         "usb-storage,drive=u1,bus=ehci.0",
                         "-device",
                         "usb-hub,bus=usb-bus.0,port=1,id=hub",
                         "-device",
                         "usb-mouse,bus=usb-bus.0,port=1.2",
                         "-audiodev",
                         "none,id=a0",
                         "-device",
                         "intel-hda",
                         "-device",
                         "hda-duplex,audiodev=a0",
                         "-device",
                         "sdhci-pci",
                         "-device",
                         "i6300esb",
                         "-device",
                         "pvpanic",
                         "-device",
                         "pci-bridge,id=br,chassis_nr=1",
                         "-device",
                         "virtio-rng-pci,bus=br,addr=4",
                         "-object",
                         "memory-backend-ram,id=m1,size=64M",
                         "-device",
                         "pc-dimm,memdev=m1,id=dimm1",
                         "-device",
                         "qemu64-x86_64-cpu,socket-id=0,core-id=2,thread-id=0,id=c2",
                         "-device",
                         "vmgenid",
                         "-device",
                         "vmcoreinfo",
                         "-device",
                         "virtio-net-pci-non-transitional",
                         "-device",
                         "rtl8139",
                         "-device",
                         "pcnet",
                         "-device",
                         "virtio-serial",
                         "-chardev",
                         "null,id=p0",
                         "-device",
                         "virtconsole,chardev=p0",
                         "-chardev",
                         "null,id=p1",
                         "-device",
                         "isa-debugcon,chardev=p1",
                         "-device",
                         "virtio-balloon-pci",
                         "-device",
                         "e1000"};

Options const q35_devices{"-machine", "pc-q35-7.2",
                          "-vga",     "std",
                          "-device",  "pcie-root-port,id=rp0,chassis=1,multifunction=on,addr=2.0",
                          "-device",  "pcie-root-port,id=rp1,chassis=2,addr=2.1",
                          "-device",  "virtio-net-pci,bus=rp0",
                          "-device",  "qemu-xhci,id=xhci",
                          "-device",  "usb-tablet",
                          "-device",  "usb-kbd",
                          "-device",  "virtio-scsi-pci",
                          "-device",  "scsi-cd",
                          "-device",  "scsi-cd,scsi-id=4,lun=1",
                          "-drive",   "if=none,id=h0,driver=null-co,size=1M",
                          "-device",  "ide-hd,drive=h0,bus=ide.2",
                          "-device",  "ahci,id=ahci1",
                          "-device",  "ide-cd,bus=ahci1.3",
                          "-device",  "pcie-pci-bridge,id=pb",
                          "-device",  "e1000,bus=pb,addr=3",
                          "-device",  "ich9-usb-ehci1,id=usb1",
                          "-device",  "ich9-usb-uhci1,masterbus=usb1.0",
                          "-device",  "virtio-serial-pci",
                          "-device",  "virtserialport,name=org.a",
                          "-device",  "virtserialport,name=org.b",
                          "-device",  "virtio-keyboard-pci",
                          "-device",  "virtio-gpu-pci",
                          "-device",  "e1000e",
                          "-device",  "vmxnet3",
                          "-device",  "pvscsi",
                          "-device",  "megasas",
                          "-device",  "vmcoreinfo",
                          "-device",  "pxb-pcie,id=px,bus_nr=128",
                          "-device",  "pcie-root-port,bus=px,chassis=9,id=far",
                          "-device",  "virtio-balloon-pci,bus=far"};

/// Whether firmware has given a number to the bus of a bridge.
bool has_numbers(Json const& buses) {
    for (auto const& bus : buses.elements()) {
        for (auto const& device : bus["devices"].elements()) {
            if (device["pci_bridge"]["bus"]["secondary"].integer_or(0) > 0) return true;
        }
    }
    return false;
}

DeviceTree tree_of_running(std::string const& program, Options const& options) {
    Qemu qemu(program, options);
    must(qemu.run(qmp::cont(qemu.client(), soon())));
    auto const until = std::chrono::steady_clock::now() + firmware_limit;
    while (!has_numbers(qemu.execute("query-pci"))) {
        REQUIRE(std::chrono::steady_clock::now() < until);
        (void)qemu.run(core::sleep_for(qemu.loop(), 50ms));
    }
    return get(qemu.run(sidecar::device_tree_of(qemu.client(), soon())));
}

DeviceTree tree_of_waiting(std::string const& program, Options const& options) {
    auto const line = get(get(qmp::CommandLine::parse(Qemu::words(program, options)))
                              .for_launch({qmp::qmp_fd_in_qemu}));
    auto words = line.argv();
    words.insert(words.end(), {"-incoming", "defer"});
    Qemu qemu(get(qmp::CommandLine::parse(words)));
    return get(qemu.run(sidecar::device_tree_of(qemu.client(), soon())));
}

void are_the_same(Options const& options) {
    auto const programs = qemus();
    for (auto const& from : programs) {
        INFO("from " << from);
        auto const source = tree_of_running(from, options);
        CHECK(source.parts.size() > 30);
        for (auto const& to : programs) {
            INFO("to " << to);
            CHECK(tree_differences(source, tree_of_waiting(to, options)) ==
                  std::vector<std::string>());
        }
    }
}

}  // namespace

TEST_CASE("device tree: many kinds on pc are the same in a QEMU that waits", "[device-tree]") {
    are_the_same(pc_devices);
}
TEST_CASE("device tree: many kinds on q35 are the same in a QEMU that waits", "[device-tree]") {
    are_the_same(q35_devices);
}

}  // namespace device_tree_kinds_cases
