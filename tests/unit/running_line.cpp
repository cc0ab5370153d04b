// What is read from QEMU's human monitor, and what of a command line goes with a device that was
// unplugged.
#include <catch2/catch.hpp>

#include "qmp/devices.hpp"
#include "sidecar/guest/card_links.hpp"
#include "sidecar/guest/unplugged_devices.hpp"

namespace running_line_cases {

using namespace sidecar;

namespace {

qmp::CommandLine line_with(std::vector<std::string> words) {
    words.insert(words.begin(), "qemu-system-x86_64");
    auto line = qmp::CommandLine::parse(std::move(words));
    REQUIRE(line);
    return std::move(*line);
}

/// The options at those places, as they are written.
std::vector<std::string> printed(qmp::CommandLine const& line,
                                 std::set<std::size_t> const& places) {
    std::vector<std::string> texts;
    for (auto const place : places) texts.push_back(line.options().at(place).print());
    return texts;
}

}  // namespace

TEST_CASE("info network: cards and taps, by name and by descriptor, with several queues",
          "[running-line]") {
    auto const clients = qmp::detail::parse_info_network(
        "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n"
        " \\ n0: index=0,type=tap,ifname=tap0,script=no,downscript=no\r\n"
        "net1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n"
        " \\ n1: index=0,type=tap,fd=12\r\n"
        "net1: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n"
        " \\ n1: index=1,type=tap,fd=13\r\n"
        "alone: index=0,type=user,net=10.0.2.0,restrict=off\r\n");
    REQUIRE(clients.size() == 5);
    CHECK(clients[0].type == "nic");
    CHECK(clients[0].model == "virtio-net-pci");
    CHECK(clients[1].card == "virtio-net-pci.0");
    CHECK(clients[3].card == "net1");
    CHECK(clients[4].card.empty());
    CHECK(clients[1].name == "n0");
    CHECK(clients[1].ifname == "tap0");
    CHECK(clients[1].queues == 1);
    CHECK(clients[3].name == "n1");
    CHECK(clients[3].fd == 12);
    CHECK(clients[3].queues == 2);
    CHECK(clients[4].type == "user");
}

TEST_CASE("info usb: the ports of devices with an id", "[running-line]") {
    auto const ports = qmp::detail::parse_info_usb(
        "  Device 0.1, Port 1, Speed 480 Mb/s, Product QEMU USB Tablet, ID: t 1\r\n"
        "  Device 0.2, Port 2.1, Speed 12 Mb/s, Product QEMU USB Mouse\r\n");
    REQUIRE(ports.size() == 1);
    CHECK(ports.at("t 1") == "1");
}

TEST_CASE("devices without an id are counted as QEMU makes them", "[running-line]") {
    auto const line =
        line_with({"-device", R"({"driver":"scsi-hd","drive":"f1"})", "-drive", "if=virtio,file=/d",
                   "-device", "virtio-scsi-pci,id=s0", "-device", "scsi-hd,drive=d0"});
    auto const devices = started_devices(line);
    REQUIRE(devices);
    REQUIRE(devices->size() == 4);
    CHECK((*devices)[0].path() == "/machine/peripheral/s0");
    CHECK((*devices)[1].option == 3);
    CHECK((*devices)[1].path() == "/machine/peripheral-anon/device[0]");
    CHECK((*devices)[2].option == 1);  // -drive if=virtio
    CHECK((*devices)[3].option == 0);  // JSON comes last
    CHECK((*devices)[3].path() == "/machine/peripheral-anon/device[2]");
}

TEST_CASE("what an unplugged device used goes with it, unless others use it", "[running-line]") {
    auto const line = line_with(
        {"-drive",    "if=none,id=d0,file=/d0",
         "-blockdev", "driver=file,node-name=p1,filename=/d1",
         "-blockdev", "driver=qcow2,node-name=f1,file=p1,backing=base",
         "-blockdev", "driver=file,node-name=base,filename=/base,read-only=on",
         "-blockdev", "driver=qcow2,node-name=f2,backing=base,file.driver=file,file.filename=/d2",
         "-netdev",   "tap,id=n0,ifname=t0",
         "-device",   "scsi-hd,drive=d0",
         "-device",   "scsi-hd,drive=f1",
         "-device",   "scsi-hd,drive=f2",
         "-device",   "e1000,netdev=n0"});
    CHECK(printed(line, only_used_by(line, {6}, {})) ==
          std::vector<std::string>{"-drive if=none,id=d0,file=/d0"});
    CHECK(only_used_by(line, {6}, {"d0"}).empty());
    CHECK(printed(line, only_used_by(line, {7}, {})) ==
          std::vector<std::string>{"-blockdev driver=file,node-name=p1,filename=/d1",
                                   "-blockdev driver=qcow2,node-name=f1,file=p1,backing=base"});
    CHECK(only_used_by(line, {7, 8}, {}).size() == 4);
    CHECK(only_used_by(line, {9}, {}) == std::set<std::size_t>{5});
}

TEST_CASE("cards of which QEMU moves the link", "[running-line]") {
    CHECK(detail::keeps_its_link("virtio-net-pci-transitional"));
    CHECK(detail::keeps_its_link("e1000-82544gc"));
    CHECK_FALSE(detail::keeps_its_link("pcnet"));
    CHECK_FALSE(detail::keeps_its_link("vmxnet3"));
}

}  // namespace running_line_cases
