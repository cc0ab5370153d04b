// A machine as HMP's info qtree prints it, and what of it must be the same at the destination.
#include "sidecar/guest/device_tree.hpp"

#include <catch2/catch.hpp>

namespace device_tree_cases {

using namespace sidecar;
using core::Json;

namespace {

/// A guest that runs: its firmware has given numbers to the buses. {N} is the number of the bus
/// behind the port, {D} the name of the CD's node.
constexpr auto tree_template = R"(bus: main-system-bus
  type System
  dev: hpet, id ""
    timers = 3 (0x3)
    mmio 00000000fed00000/0000000000000400
  dev: ps2-mouse, id ""
  dev: q35-pcihost, id ""
    short_root_bus = 0 (0x0)
    bus: pcie.0
      type PCIE
      dev: virtio-scsi-pci, id "s0"
        addr = 03.0
        class SCSI controller, addr 00:03.0, pci id 1af4:1004 (sub 1af4:0008)
        bar 0: i/o at 0xffffffffffffffff [0x3e]
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-scsi-device, id ""
            num_queues = 1 (0x1)
            hotplug = true
            x-own = true
            bus: s0.0
              type SCSI
              dev: scsi-cd, id ""
                drive = "{D}"
                serial = "a, id b"
                channel = 0 (0x0)
                scsi-id = 1 (0x1)
                lun = 2 (0x2)
      dev: qemu-xhci, id "xhci"
        addr = 02.0
        class USB controller, addr 00:02.0, pci id 1b36:000d (sub 1af4:1100)
        bus: xhci.0
          type usb-bus
          dev: usb-tablet, id "t1"
            port = ""
            addr 0.{N}, port 1.2, speed 480, name QEMU USB Tablet, attached
      dev: pcie-root-port, id "rp0"
        addr = 01.1
        chassis = 1 (0x1)
        class PCI bridge, addr 00:01.1, pci id 1b36:000c (sub {N}000:0000)
        bus: rp0
          type PCIE
          dev: e1000, id ""
            mac = "52:54:00:12:34:56"
            netdev = "n0"
            addr = 00.0
            class Ethernet controller, addr 0{N}:00.0, pci id 8086:100e (sub 1af4:1100)
      dev: ich9-ahci, id ""
        addr = 1f.2
        class SATA controller, addr 00:1f.2, pci id 8086:2922 (sub 1af4:1100)
        bus: ide.1
          type IDE
        bus: ide.0
          type IDE
          dev: ide-hd, id ""
            drive = "d0"
            unit = 0 (0x0)
      dev: ICH9-LPC, id ""
        smb_io_base = 4{N} (0x0)
        addr = 1f.0
        class ISA bridge, addr 00:1f.0, pci id 8086:2918 (sub 1af4:1100)
        bus: isa.0
          type ISA
          dev: isa-serial, id ""
            iobase = 1016 (0x3f8)
            chardev = "serial0"
          dev: i8042, id ""
)";

std::string tree_text(std::string const& number, std::string const& node) {
    std::string text = tree_template;
    for (auto const& [from, to] :
         {std::pair<std::string, std::string>("{N}", number), {"{D}", node}}) {
        for (auto at = text.find(from); at != std::string::npos; at = text.find(from))
            text.replace(at, from.size(), to);
    }
    return text;
}

DeviceTree tree_of(std::string const& text, std::string const& version = "7.2.22") {
    return {version, detail::parts_of_buses(qmp::detail::parse_info_qtree(text))};
}

MachinePart const& at(DeviceTree const& tree, std::string const& place) {
    auto const found = std::ranges::find(tree.parts, place, &MachinePart::place);
    if (found == tree.parts.end()) FAIL("there is nothing at " << place);
    return *found;
}

std::string replaced(std::string text, std::string const& from, std::string const& to) {
    auto const found = text.find(from);
    REQUIRE(found != std::string::npos);
    return text.replace(found, from.size(), to);
}

std::string const running = tree_text("2", "#block123");
std::string const waiting = tree_text("0", "medium0");

}  // namespace

TEST_CASE("info qtree: devices on their buses", "[device-tree]") {
    auto const devices = qmp::detail::parse_info_qtree(running);
    auto const named = [&](std::string const& kind) {
        auto const found = std::ranges::find(devices, kind, &qmp::BusDevice::kind);
        REQUIRE(found != devices.end());
        return *found;
    };
    auto const parent = [&](qmp::BusDevice const& device) {
        return devices.at(static_cast<std::size_t>(device.parent)).kind;
    };
    CHECK(devices.size() == 15);
    CHECK(named("hpet").parent == -1);
    CHECK(named("hpet").bus_kind == "System");
    auto const card = named("e1000");
    CHECK(parent(card) == "pcie-root-port");
    CHECK(card.bus == "rp0");
    CHECK(card.pci_ids == "8086:100e");
    CHECK(card.pci_subsystem == "1af4:1100");
    CHECK(card.pci_class == "Ethernet controller");
    CHECK(card.properties.at("mac") == "52:54:00:12:34:56");
    auto const cd = named("scsi-cd");
    CHECK(parent(cd) == "virtio-scsi-device");
    CHECK(cd.properties.at("serial") == "a, id b");
    CHECK(cd.properties.at("lun") == "2");
    CHECK(named("usb-tablet").usb_port == "1.2");
    CHECK(named("usb-tablet").id == "t1");
    CHECK(named("ide-hd").bus_number == 1);
    CHECK(qmp::detail::parse_info_qtree("unknown command: 'info qtree'\r\n").empty());
    CHECK(qmp::detail::parse_info_qtree("  dev: a, id \"\"\n  type x\nbus: b\n").empty());
}

TEST_CASE("device tree: what the guest's firmware has set is no difference", "[device-tree]") {
    auto const source = tree_of(running);
    auto const here = tree_of(waiting);
    CHECK(tree_differences(source, here) == std::vector<std::string>());
    CHECK(tree_differences(source, tree_of(waiting, "10.0.2")) == std::vector<std::string>());
    // A device is named by where it is, not by numbers.
    CHECK(at(source, "pcie.0/01.1:0/00.0").name == "e1000 (00.0 on rp0)");
    CHECK(at(source, "pcie.0/03.0:0/0:1:2").name == "scsi-cd (0:1:2 on s0.0)");
    CHECK(at(source, "pcie.0/03.0").values.at("num_queues") == "1");
    CHECK(at(source, "pcie.0/03.0").values.at("hotplug") == "true");
    CHECK_FALSE(at(source, "pcie.0/03.0").values.contains("x-own"));
    CHECK(at(source, "pcie.0/02.0:0/port 1.2").name == "t1 (usb-tablet, port 1.2 on xhci.0)");
    CHECK(at(source, "isa.0/1016").values.at("kind") == "isa-serial");
    CHECK(at(source, "main-system-bus/hpet").kind == MachinePart::Kind::device);
    CHECK(source.parts.size() == 11);  // not the mouse and the 8042
}

TEST_CASE("device tree: a difference names the values of both sides", "[device-tree]") {
    auto const source = tree_of(running);
    auto const told = [&](std::string const& from, std::string const& to) {
        auto const found = tree_differences(source, tree_of(replaced(waiting, from, to)));
        REQUIRE(found.size() == 1);
        return found.front();
    };
    CHECK(told("drive = \"d0\"", "drive = \"d1\"") ==
          "the device ide-hd (0 on ide.0) has drive d0 on the source and d1 on the destination");
    CHECK(
        told("8086:100e (sub", "8086:10d3 (sub") ==
        "the device e1000 (00.0 on rp0) has PCI ids 8086:100e (subsystem 1af4:1100) on the source "
        "and 8086:10d3 (subsystem 1af4:1100) on the destination");
    CHECK(told("num_queues = 1", "num_queues = 4")
              .ends_with("num_queues 1 on the source and 4 on "
                         "the destination"));
    CHECK(told("hotplug = true", "hotplug = false").find("has hotplug true") != std::string::npos);
    CHECK(told("class SATA controller", "class RAID bus controller").find("PCI class") !=
          std::string::npos);
    // QEMU 10.0 may have another word for it.
    CHECK(tree_differences(
              source, tree_of(replaced(waiting, "class SATA controller", "class AHCI"), "10.0.2"))
              .empty());
    auto const moved =
        tree_differences(source, tree_of(replaced(waiting, "addr = 00.0", "addr = 01.0")));
    CHECK(moved == std::vector<std::string>{
                       "it has no device e1000 (00.0 on rp0)",
                       "it has the device e1000 (01.0 on rp0), which the guest does not have"});
    CHECK(tree_differences(source, tree_of(replaced(waiting, "dev: hpet", "dev: apic"))) ==
          std::vector<std::string>{"it has no device hpet (on main-system-bus)"});
    CHECK(
        tree_differences(source, tree_of(replaced(waiting, "dev: i8042", "dev: vmport"))).empty());
}

TEST_CASE("device tree: memory, processors and devices on no bus", "[device-tree]") {
    using Kind = MachinePart::Kind;
    DeviceTree const source{"7.2.22",
                            {{Kind::machine, "", "", {{"type", "pc-i440fx-7.2"}}},
                             {Kind::ram, "", "", {{"bytes", "67108864"}}},
                             {Kind::memory_backend, "m0", "m0", {{"bytes", "4096"}}},
                             {Kind::processor, "0", "0", {{"state", "plugged in"}}},
                             {Kind::off_bus_device, "g0", "g0 (vmgenid)", {{"kind", "vmgenid"}}}}};
    CHECK(tree_differences(source, source).empty());
    auto here = source;
    here.parts[0].values["type"] = "pc-i440fx-6.2";
    here.parts[1].values["bytes"] = "134217728";
    here.parts[2].place = "unused";
    here.parts[3].values["state"] = "not plugged in";
    here.parts.pop_back();
    CHECK(
        tree_differences(source, here) ==
        std::vector<std::string>{
            "the machine has type pc-i440fx-7.2 on the source and pc-i440fx-6.2 on the destination",
            "the RAM has bytes 67108864 on the source and 134217728 on the destination",
            "the processor 0 has state plugged in on the source and not plugged in on the "
            "destination",
            "it has no device g0 (vmgenid)"});
    // A QEMU that says nothing about its processors.
    std::erase_if(here.parts, [](MachinePart const& part) { return part.kind == Kind::processor; });
    CHECK(tree_differences(source, here).size() == 3);
    CHECK(tree_differences(here, source).size() == 3);
}

TEST_CASE("device tree: from a peer", "[device-tree]") {
    auto const good = tree_of(running);
    auto const again = DeviceTree::from_json(good.to_json());
    REQUIRE(again);
    CHECK(again->parts == good.parts);
    CHECK(again->qemu_version == good.qemu_version);
    auto const spoilt = [&](auto change) {
        auto bad = good;
        change(bad.parts);
        return DeviceTree::from_json(bad.to_json());
    };
    using Parts = std::vector<MachinePart>;
    CHECK_FALSE(spoilt([](Parts& parts) { parts.resize(5000); }));
    CHECK_FALSE(spoilt([](Parts& parts) { parts[0].name = std::string(2000, 'n'); }));
    CHECK_FALSE(spoilt([](Parts& parts) { parts[0].values["k"] = std::string(2000, 'v'); }));
    CHECK_FALSE(spoilt([](Parts& parts) {
        for (int count = 0; count < 200; ++count) parts[0].values[std::to_string(count)] = "v";
    }));
    CHECK_FALSE(DeviceTree::from_json(Json("tree")));
    CHECK_FALSE(DeviceTree::from_json(Json::object(
        {{"qemu_version", "7"}, {"parts", Json::array({Json::object({{"kind", "house"}})})}})));
}

}  // namespace device_tree_cases
