// The table of guests: devices that were plugged in and unplugged while the guest ran.
#include <catch2/catch.hpp>

#include "tests/process/guest_table.hpp"

namespace guest_table_plugged_cases {

using guest_table::Row;

namespace {

/// Two ports of PCI Express: devices can be plugged in there.
lab::Argv const ports{"-M",
                      "q35,accel=tcg",
                      "-m",
                      "64",
                      "-nodefaults",
                      "-display",
                      "none",
                      "-device",
                      "pcie-root-port,id=rp0,chassis=1",
                      "-device",
                      "pcie-root-port,id=rp1,chassis=2"};

constexpr auto raw_file =
    R"(blockdev-add {"driver":"file","node-name":"p1","filename":"{d}/one.raw"})";
constexpr auto raw_node = R"(blockdev-add {"driver":"raw","node-name":"f1","file":"p1"})";
constexpr auto qcow2_node = R"(blockdev-add {"driver":"qcow2","node-name":"f2",)"
                            R"("file":{"driver":"file","filename":"{d}/one.qcow2"}})";
constexpr auto tap =
    R"(netdev_add {"type":"tap","id":"n1","ifname":"{tap}","script":"no","downscript":"no",)"
    R"("vhost":false})";

lab::Argv const usb{"-device", "qemu-xhci,id=xhci"};
lab::Argv const scsi{"-device", "virtio-scsi-pci,id=s0"};

}  // namespace

TEST_CASE("table: disks that were plugged in", "[table][plugged]") {
    guest_table::each_row_moves_or_is_refused({
        {.name = "virtio-blk on pc, nodes with names",
         .options = {},
         .then = {raw_file, raw_node,
                  R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f1","serial":"s1",)"
                  R"("bootindex":1})"}},
        {.name = "virtio-blk without an id",
         .options = {},
         .then = {qcow2_node, R"(device_add {"driver":"virtio-blk-pci","drive":"f2"})"}},
        {.name = "two without ids",
         .options = {},
         .then = {qcow2_node, raw_file, raw_node,
                  R"(device_add {"driver":"virtio-blk-pci","drive":"f2"})",
                  R"(device_add {"driver":"virtio-blk-pci","drive":"f1"})"}},
        {.name = "drive_add of the human monitor",
         .options = {},
         .then = {"hmp drive_add 0 if=none,id=d1,format=raw,cache=none,file={d}/two.raw",
                  "hmp device_add virtio-blk-pci,id=v1,drive=d1,share-rw=on"}},
        {.name = "a port of PCI Express",
         .options = {},
         .base = ports,
         .then = {raw_file, raw_node,
                  R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f1","bus":"rp1"})"}},
        {.name = "an iothread of its own",
         .options = {},
         .then = {R"(object-add {"qom-type":"iothread","id":"io1"})", raw_file, raw_node,
                  R"(device_add {"driver":"virtio-blk-pci","drive":"f1","iothread":"io1"})"}},
        {.name = "qcow2 over a raw base",
         .options = {},
         .then = {R"(blockdev-add {"driver":"qcow2","node-name":"f1",)"
                  R"("file":{"driver":"file","filename":"{d}/middle.qcow2"}})",
                  R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f1"})"}},
        {.name = "one that is read only, on both hosts",
         .options = {},
         .then = {R"(blockdev-add {"driver":"raw","node-name":"f1","read-only":true,)"
                  R"("file":{"driver":"file","filename":"{d}/ro-seed.raw","read-only":true}})",
                  R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f1"})"}},
    });
}

TEST_CASE("table: disks on controllers that were plugged in", "[table][plugged]") {
    guest_table::each_row_moves_or_is_refused({
        {.name = "scsi-hd",
         .options = scsi,
         .then = {qcow2_node,
                  R"(device_add {"driver":"scsi-hd","drive":"f2","bus":"s0.0","scsi-id":3,)"
                  R"("lun":1,"serial":"abc"})"}},
        {.name = "a controller and its disks",
         .options = {},
         .then = {R"(device_add {"driver":"virtio-scsi-pci","id":"s1"})", raw_file, raw_node,
                  qcow2_node,
                  R"(device_add {"driver":"scsi-hd","id":"h1","drive":"f1","bus":"s1.0"})",
                  R"(device_add {"driver":"scsi-hd","drive":"f2","bus":"s1.0"})"}},
        {.name = "a drive for CDs without a medium",
         .options = scsi,
         .then = {R"(device_add {"driver":"scsi-cd","id":"cd1","bus":"s0.0"})"}},
        {.name = "usb-storage",
         .options = usb,
         .then = {R"(device_add {"driver":"usb-tablet","id":"t1"})", raw_file, raw_node,
                  R"(device_add {"driver":"usb-storage","id":"u1","drive":"f1","bus":"xhci.0"})"}},
        {.name = "a filter over the image",
         .options = scsi,
         .refused = "its drive has a filter",
         .then = {R"(blockdev-add {"driver":"copy-on-read","node-name":"c1",)"
                  R"("file":{"driver":"raw","file":{"driver":"file","filename":"{d}/one.raw"}}})",
                  R"(device_add {"driver":"scsi-hd","id":"h1","drive":"c1"})"}},
        {.name = "a disk without a file",
         .options = scsi,
         .refused = "is neither raw nor qcow2 in a file or device",
         .then = {R"(blockdev-add {"driver":"null-co","node-name":"c1","size":1048576,)"
                  R"("read-only":true})",
                  R"(device_add {"driver":"scsi-hd","id":"h1","drive":"c1"})"}},
    });
}

TEST_CASE("table: interfaces that were plugged in", "[table][plugged]") {
    guest_table::each_row_moves_or_is_refused({
        {.name = "virtio-net",
         .options = {},
         .then = {tap, R"(device_add {"driver":"virtio-net-pci","id":"nic1","netdev":"n1",)"
                       R"("mac":"52:54:00:10:00:10"})"}},
        {.name = "virtio-net without an id and a MAC",
         .options = {},
         .then = {tap, R"(device_add {"driver":"virtio-net-pci","netdev":"n1","romfile":""})"}},
        {.name = "a port of PCI Express",
         .options = {},
         .base = ports,
         .then = {tap, R"(device_add {"driver":"virtio-net-pci","netdev":"n1","bus":"rp0"})"}},
        {.name = "e1000", .options = {}, .then = {tap, "hmp device_add e1000,id=nic1,netdev=n1"}},
        {.name = "rtl8139",
         .options = {},
         .then = {tap, "hmp device_add rtl8139,id=nic1,netdev=n1"}},
        {.name = "two queues",
         .options = {},
         .then = {R"(netdev_add {"type":"tap","id":"n1","ifname":"{tap}","script":"no",)"
                  R"("downscript":"no","vhost":false,"queues":2})",
                  R"(device_add {"driver":"virtio-net-pci","id":"nic1","netdev":"n1","mq":true,)"
                  R"("vectors":6})"}},
        {.name = "user mode",
         .options = {},
         .refused = "its netdev n1 is no tap",
         .then = {R"(netdev_add {"type":"user","id":"n1"})",
                  R"(device_add {"driver":"virtio-net-pci","id":"nic1","netdev":"n1"})"}},
    });
}

TEST_CASE("table: other devices that were plugged in", "[table][plugged]") {
    guest_table::each_row_moves_or_is_refused({
        {.name = "random numbers",
         .options = {},
         .then = {R"(object-add {"qom-type":"rng-random","id":"r0","filename":"/dev/urandom"})",
                  R"(device_add {"driver":"virtio-rng-pci","id":"rng1","rng":"r0"})"}},
        {.name = "random numbers of QEMU's own",
         .options = {},
         .then = {R"(device_add {"driver":"virtio-rng-pci"})"}},
        {.name = "a guest agent's channel",
         .options = {"-device", "virtio-serial-pci,id=vs0"},
         .then = {R"(chardev-add {"id":"c1","backend":{"type":"socket","data":{"addr":{"type":)"
                  R"("unix","data":{"path":"{d}/agent.sock"}},"server":true,"wait":false}}})",
                  R"(device_add {"driver":"virtserialport","id":"port1","chardev":"c1",)"
                  R"("name":"org.qemu.guest_agent.0"})"}},
        {.name = "a balloon",
         .options = {},
         .then = {R"(device_add {"driver":"virtio-balloon-pci","id":"b1"})"}},
        {.name = "a USB keyboard",
         .options = usb,
         .then = {R"(device_add {"driver":"usb-kbd","id":"k1"})"}},
        {.name = "a USB mouse without an id",
         .options = usb,
         .refused = "QEMU does not say in which port it is",
         .then = {R"(device_add {"driver":"usb-mouse"})"}},
        {.name = "a memory module",
         .options = {},
         .base = {"-M", "q35,accel=tcg", "-m", "64M,slots=2,maxmem=512M", "-nodefaults", "-display",
                  "none"},
         .then = {R"(object-add {"qom-type":"memory-backend-ram","id":"m1","size":134217728})",
                  R"(device_add {"driver":"pc-dimm","id":"dimm1","memdev":"m1"})"}},
        {.name = "a processor",
         .options = {},
         .base = {"-M", "q35,accel=tcg", "-m", "64", "-smp", "1,maxcpus=4", "-nodefaults",
                  "-display", "none"},
         .then = {R"(device_add {"driver":"qemu64-x86_64-cpu","id":"cpu2","socket-id":0,)"
                  R"("core-id":2,"thread-id":0})"}},
        {.name = "a USB hub",
         .options = usb,
         .refused = "the device hub1 (usb-hub) was plugged in after QEMU's start",
         .then = {R"(device_add {"driver":"usb-hub","id":"hub1"})"}},
    });
}

TEST_CASE("table: interfaces that were unplugged", "[table][plugged]") {
    // QEMU cannot move a guest that has a usb-net; it takes one out without the guest's help.
    auto const two_cards = [](std::string const& first_tap) {
        auto const add = ",script=no,downscript=no,vhost=off";
        return lab::Argv{"-device", "qemu-xhci,id=xhci",
                         "-netdev", "tap,id=n0,ifname=" + first_tap + add,
                         "-device", "usb-net,netdev=n0,id=card0,mac=52:54:00:10:00:09",
                         "-netdev", "tap,id=n1,ifname={tap}" + std::string(add),
                         "-device", "virtio-net-pci,netdev=n1,mac=52:54:00:10:00:10"};
    };
    guest_table::each_row_moves_or_is_refused({
        {.name = "with its tap",
         .options = two_cards("first0"),
         .then = {R"(device_del {"id":"card0"})", R"(netdev_del {"id":"n0"})"}},
        {.name = "its tap is left",
         .options = two_cards("first0"),
         .then = {R"(device_del {"id":"card0"})"}},
        {.name = "another card in its place",
         .options = two_cards("first0"),
         .then = {R"(device_del {"id":"card0"})",
                  R"(device_add {"driver":"e1000","id":"card0","netdev":"n0",)"
                  R"("mac":"52:54:00:10:00:08"})"}},
    });
}

TEST_CASE("table: devices that were unplugged", "[table][plugged]") {
    lab::Argv const two_disks{"-device",   "virtio-scsi-pci,id=s0",
                              "-drive",    "if=none,id=d0,format=raw,file={d}/one.raw",
                              "-device",   "scsi-hd,drive=d0,id=h0",
                              "-blockdev", "driver=file,node-name=p1,filename={d}/one.qcow2",
                              "-blockdev", "driver=qcow2,node-name=f1,file=p1",
                              "-device",   "scsi-hd,drive=f1,id=h1"};
    guest_table::each_row_moves_or_is_refused({
        {.name = "a disk of -drive, of two",
         .options = two_disks,
         .then = {R"(device_del {"id":"h0"})"}},
        {.name = "a disk of -blockdev, of two",
         .options = two_disks,
         .then = {R"(device_del {"id":"h1"})", R"(blockdev-del {"node-name":"f1"})",
                  R"(blockdev-del {"node-name":"p1"})"}},
        {.name = "a disk of -blockdev, its nodes are left",
         .options = two_disks,
         .then = {R"(device_del {"id":"h1"})"}},
        {.name = "a disk without an id, of three",
         .options = {"-device", "virtio-scsi-pci,id=s0", "-drive",
                     "if=none,id=d0,format=raw,file={d}/one.raw", "-device", "scsi-hd,drive=d0",
                     "-drive", "if=none,id=d1,format=qcow2,file={d}/one.qcow2", "-device",
                     "scsi-hd,drive=d1", "-drive", "if=none,id=d2,format=raw,file={d}/two.raw",
                     "-device", "scsi-hd,drive=d2"},
         .then = {R"(device_del {"id":"/machine/peripheral-anon/device[1]"})"}},
        {.name = "another disk under the same id",
         .options = two_disks,
         .then = {R"(device_del {"id":"h1"})", R"(blockdev-del {"node-name":"f1"})",
                  R"(blockdev-add {"driver":"raw","node-name":"f1",)"
                  R"("file":{"driver":"file","filename":"{d}/two.raw"}})",
                  R"(device_add {"driver":"scsi-hd","id":"h1","drive":"f1","bus":"s0.0"})"}},
        {.name = "a USB device, of three",
         .options = {"-device", "qemu-xhci,id=xhci", "-device", "usb-tablet,id=t1", "-device",
                     "usb-kbd,id=k1", "-device", "usb-mouse,id=m1"},
         .then = {R"(device_del {"id":"t1"})"}},
    });
}

TEST_CASE("table: what else was changed", "[table][plugged]") {
    lab::Argv const card{"-netdev", "tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off",
                         "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:10:00:10,id=card0"};
    guest_table::each_row_moves_or_is_refused({
        {.name = "a raw disk is larger",
         .options = {"-drive", "if=none,id=d0,format=raw,file={d}/one.raw", "-device",
                     "virtio-blk-pci,drive=d0"},
         .then = {R"(block_resize {"device":"d0","size":3145728})"}},
        {.name = "a qcow2 disk that was plugged in is larger",
         .options = {},
         .then = {qcow2_node, R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f2"})",
                  R"(block_resize {"node-name":"f2","size":3145728})"}},
        {.name = "a disk that was plugged in has limits",
         .options = {},
         .then = {qcow2_node, R"(device_add {"driver":"virtio-blk-pci","id":"v1","drive":"f2"})",
                  R"(block_set_io_throttle {"id":"/machine/peripheral/v1/virtio-backend",)"
                  R"("bps":0,"bps_rd":0,"bps_wr":0,"iops":500,"iops_rd":0,"iops_wr":0})"}},
        {.name = "the link of a card is down",
         .options = card,
         .then = {R"(set_link {"name":"card0","up":false})"}},
    });
}

TEST_CASE("table: media that were changed", "[table][plugged]") {
    constexpr auto other = R"("filename":"{d}/ro-seed.raw","format":"raw"})";
    constexpr auto stop = "stop {}";  // The BIOS closes a tray that it finds open.
    lab::Argv const by_node{"-blockdev",
                            "driver=raw,node-name=m0,read-only=on,file.driver=file,"
                            "file.filename={d}/ro-cd.iso",
                            "-device",
                            "virtio-scsi-pci",
                            "-device",
                            "scsi-cd,drive=m0,id=cd1"};
    guest_table::each_row_moves_or_is_refused({
        {.name = "-cdrom, another CD",
         .options = {"-cdrom", "{d}/ro-cd.iso"},
         .then = {std::string(R"(blockdev-change-medium {"device":"ide1-cd0",)") + other}},
        {.name = "-cdrom, ejected",
         .options = {"-cdrom", "{d}/ro-cd.iso"},
         .then = {stop, R"(eject {"device":"ide1-cd0","force":true})"}},
        {.name = "-drive, ejected",
         .options = {"-drive", "if=none,id=m0,media=cdrom,format=raw,file={d}/ro-cd.iso", "-device",
                     "ide-cd,drive=m0,id=cd1"},
         .then = {stop, R"(eject {"id":"cd1","force":true})"}},
        {.name = "an empty drive has a CD",
         .options = {"-device", "ide-cd,id=cd1"},
         .then = {std::string(R"(blockdev-change-medium {"id":"cd1",)") + other}},
        {.name = "-blockdev, another CD",
         .options = by_node,
         .then = {std::string(R"(blockdev-change-medium {"id":"cd1",)") + other}},
        {.name = "-blockdev, ejected",
         .options = by_node,
         .then = {stop, R"(eject {"id":"cd1","force":true})"}},
    });
}

}  // namespace guest_table_plugged_cases
