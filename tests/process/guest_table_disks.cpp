// The table of guests: their disks.
#include <catch2/catch.hpp>

#include "tests/process/guest_table.hpp"

namespace guest_table_disks_cases {

using guest_table::Row;

namespace {

lab::Argv drive(std::string const& options, std::string const& device = "virtio-blk-pci,drive=d0") {
    return {"-drive", "if=none,id=d0," + options, "-device", device};
}

lab::Argv scsi(std::string const& controller) {
    return {"-device", controller,        "-drive", "if=none,id=d0,format=raw,file={d}/one.raw",
            "-device", "scsi-hd,drive=d0"};
}

}  // namespace

TEST_CASE("table: formats of disks", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"no disk", {}},
        {"raw", drive("format=raw,file={d}/one.raw")},
        {"raw, probed", drive("file={d}/two.raw")},
        {"qcow2", drive("format=qcow2,file={d}/one.qcow2")},
        {"qcow2, probed", drive("file={d}/one.qcow2")},
        {"qcow2 with clusters of 1 MiB", drive("format=qcow2,file={d}/big-clusters.qcow2")},
        {"qcow2 with subclusters", drive("format=qcow2,file={d}/subclusters.qcow2")},
        {"qcow2 of the old version", drive("format=qcow2,file={d}/old.qcow2")},
        {"qcow2, compressed by zstd", drive("format=qcow2,file={d}/zstd.qcow2")},
        {"qcow2, lazy reference counts", drive("format=qcow2,file={d}/lazy.qcow2")},
        {"qcow2, reference counts of one bit", drive("format=qcow2,file={d}/refcounts.qcow2")},
        {"qcow2 over a raw base", drive("format=qcow2,file={d}/middle.qcow2")},
        {"qcow2 over two bases", drive("format=qcow2,file={d}/top.qcow2")},
        {"qcow2 with an external data file", drive("format=qcow2,file={d}/external.qcow2")},
        {"encrypted qcow2",
         {"-object", "secret,id=s,data=secret", "-drive",
          "if=none,id=d0,format=qcow2,file={d}/encrypted.qcow2,encrypt.key-secret=s", "-device",
          "virtio-blk-pci,drive=d0"},
         "is encrypted"},
        {"vdi", drive("format=vdi,file={d}/one.vdi"), "does not support live migration"},
        {"vmdk", drive("format=vmdk,file={d}/one.vmdk"), "does not support live migration"},
        {"vhdx", drive("format=vhdx,file={d}/one.vhdx"), "does not support live migration"},
        {"a name with a space", drive("format=raw,file={d}/a b.raw")},
        {"a name with a comma", drive("format=raw,file={d}/a,,b.raw")},
        {"a name with an umlaut", drive("format=raw,file={d}/\u00fc.raw")},
        {"a name with the prefix file:", drive("format=raw,file=file:{d}/one.raw")},
        {"a temporary overlay", drive("format=raw,snapshot=on,file={d}/one.raw"), "snapshot=on"},
        {"a directory as a disk", drive("file=fat:rw:{d},format=raw"),
         "does not support live migration"},
    });
}

TEST_CASE("table: ways to name a disk", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"-hda", {"-hda", "{d}/one.qcow2"}},
        {"-hda and -hdb, raw",
         {"-drive", "index=0,format=raw,file={d}/one.raw", "-drive",
          "index=1,format=raw,file={d}/two.raw"}},
        {"-drive if=virtio", {"-drive", "if=virtio,format=raw,file={d}/one.raw"}},
        {"-drive if=ide,index=2", {"-drive", "if=ide,index=2,format=raw,file={d}/one.raw"}},
        {"-drive if=scsi",
         {"-device", "lsi", "-drive", "if=none,id=d0,format=raw,file={d}/one.raw", "-device",
          "scsi-hd,drive=d0"}},
        {"-fda", {"-drive", "if=floppy,format=raw,file={d}/floppy.raw"}},
        {"-blockdev, options with dots",
         {"-blockdev", "driver=raw,node-name=f0,file.driver=file,file.filename={d}/one.raw",
          "-device", "virtio-blk-pci,drive=f0"}},
        {"-blockdev, JSON",
         {"-blockdev",
          R"({"driver":"file","filename":"{d}/one.qcow2","node-name":"p0","auto-read-only":true})",
          "-blockdev", R"({"driver":"qcow2","node-name":"f0","file":"p0"})", "-device",
          R"({"driver":"virtio-blk-pci","drive":"f0","id":"disk0","write-cache":"on"})"}},
    });
}

TEST_CASE("table: graphs of block nodes", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"-blockdev, a chain",
         {"-blockdev", R"({"driver":"file","filename":"{d}/base.raw","node-name":"p1"})",
          "-blockdev", R"({"driver":"raw","node-name":"f1","file":"p1","read-only":true})",
          "-blockdev", R"({"driver":"file","filename":"{d}/middle.qcow2","node-name":"p0"})",
          "-blockdev", R"({"driver":"qcow2","node-name":"f0","file":"p0","backing":"f1"})",
          "-device", "virtio-blk-pci,drive=f0,id=disk0"}},
        {"-blockdev, a chain inside one option",
         {"-blockdev",
          R"({"driver":"qcow2","node-name":"f0","file":{"driver":"file",)"
          R"("filename":"{d}/top.qcow2"},"backing":{"driver":"qcow2","read-only":true,)"
          R"("file":{"driver":"file","filename":"{d}/middle.qcow2"},"backing":{"driver":"raw",)"
          R"("file":{"driver":"file","filename":"{d}/base.raw"}}}})",
          "-device", "virtio-blk-pci,drive=f0"}},
        {"-drive over a node",
         {"-blockdev",
          "driver=raw,node-name=f1,read-only=on,file.driver=file,file.filename={d}/base.raw",
          "-drive", "if=none,id=d0,format=qcow2,file={d}/middle.qcow2,backing=f1", "-device",
          "virtio-blk-pci,drive=d0"}},
        {"-blockdev, two disks over one base",
         {"-blockdev",
          "driver=raw,node-name=f1,read-only=on,file.driver=file,file.filename={d}/base.raw",
          "-blockdev",
          "driver=qcow2,node-name=f0,backing=f1,file.driver=file,file.filename={d}/middle.qcow2",
          "-blockdev",
          "driver=qcow2,node-name=f2,backing=f1,file.driver=file,file.filename={d}/one.qcow2",
          "-device", "virtio-blk-pci,drive=f0", "-device", "virtio-blk-pci,drive=f2"}},
        {"-blockdev, a chain whose base is a disk too",
         {"-blockdev",
          "driver=raw,node-name=f1,read-only=on,file.driver=file,file.filename={d}/base.raw",
          "-blockdev",
          "driver=qcow2,node-name=f0,backing=f1,file.driver=file,file.filename={d}/middle.qcow2",
          "-device", "virtio-blk-pci,drive=f0", "-device", "virtio-blk-pci,drive=f1,id=seed"},
         "`-device virtio-blk-pci,drive=f1,id=seed` uses it too"},
        {"-blockdev, part of a file",
         {"-blockdev",
          "driver=raw,node-name=f0,offset=65536,size=524288,file.driver=file,"
          "file.filename={d}/part.raw",
          "-device", "virtio-blk-pci,drive=f0"}},
        {"-blockdev over -drive's file in JSON",
         drive(
             R"(file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"{d}/two.raw"}})")},
        {"-drive's file in JSON, with a format of its own",
         drive(R"(format=qcow2,file=json:{"driver":"qcow2",,"lazy-refcounts":true,,"file":)"
               R"({"driver":"file",,"filename":"{d}/one.qcow2"}})")},
        {"part of a file, -drive", drive("format=raw,offset=65536,size=524288,file={d}/part.raw")},
        {"a throttle group",
         {"-object", "throttle-group,id=g0,x-iops-total=500", "-blockdev",
          "driver=throttle,node-name=t0,throttle-group=g0,file.driver=raw,"
          "file.file.driver=file,file.file.filename={d}/one.raw",
          "-device", "virtio-blk-pci,drive=t0"}},
        {"copy on read and a throttle group in one option",
         {"-object", "throttle-group,id=g0,x-iops-total=500", "-blockdev",
          "driver=copy-on-read,node-name=c0,file.driver=throttle,file.throttle-group=g0,"
          "file.file.driver=qcow2,file.file.file.driver=file,"
          "file.file.file.filename={d}/middle.qcow2",
          "-device", "virtio-blk-pci,drive=c0"}},
        {"a throttle group, -drive's file in JSON",
         {"-object", "throttle-group,id=g0,x-iops-total=500", "-drive",
          R"(if=none,id=d0,file=json:{"driver":"throttle",,"throttle-group":"g0",,"file":)"
          R"({"driver":"raw",,"file":{"driver":"file",,"filename":"{d}/one.raw"}}})",
          "-device", "virtio-blk-pci,drive=d0"}},
        {"limits of -drive", drive("format=raw,file={d}/one.raw,throttling.iops-total=500")},
        {"copy on read", drive("format=qcow2,copy-on-read=on,file={d}/middle.qcow2")},
    });
}

TEST_CASE("table: options of disks", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"cache=none", drive("format=raw,cache=none,file={d}/one.qcow2")},
        {"cache=none, aio=native", drive("format=raw,cache=none,aio=native,file={d}/two.raw")},
        {"aio=io_uring", drive("format=raw,aio=io_uring,file={d}/two.raw")},
        {"cache=unsafe", drive("format=qcow2,cache=unsafe,file={d}/one.qcow2")},
        {"cache=directsync", drive("format=raw,cache=directsync,file={d}/two.raw")},
        {"cache=writethrough", drive("format=raw,cache=writethrough,file={d}/two.raw")},
        {"discard and detect-zeroes",
         drive("format=raw,discard=unmap,detect-zeroes=unmap,file={d}/two.raw")},
        {"werror and rerror",
         drive("format=raw,werror=stop,rerror=stop,file={d}/two.raw", "virtio-blk-pci,drive=d0")},
        {"a serial number, 4 KiB blocks",
         drive("format=raw,file={d}/two.raw",
               "virtio-blk-pci,drive=d0,serial=abc,logical_block_size=4096,"
               "physical_block_size=4096")},
        {"an iothread",
         {"-object", "iothread,id=io0", "-drive", "if=none,id=d0,format=raw,file={d}/one.raw",
          "-device", "virtio-blk-pci,drive=d0,iothread=io0"}},
        {"a boot order",
         drive("format=raw,file={d}/one.raw", "virtio-blk-pci,drive=d0,bootindex=1")},
        {"read-only, on both hosts", drive("format=raw,readonly=on,file={d}/ro-seed.raw")},
        {"a CD, on both hosts", {"-cdrom", "{d}/ro-cd.iso"}},
        {"an empty drive for CDs", {"-device", "ide-cd"}},
        {"a CD that the destination has not",
         {"-drive", "if=ide,media=cdrom,format=raw,file={d}/two.raw"}},
        {"-cdrom, probed, that the destination has not", {"-cdrom", "{d}/one.raw"}},
        {"a CD by -blockdev that the destination has not",
         {"-device", "virtio-scsi-pci", "-blockdev",
          R"({"driver":"raw","node-name":"cd0","read-only":true,)"
          R"("file":{"driver":"file","filename":"{d}/two.raw"}})",
          "-device", "scsi-cd,drive=cd0"}},
        {"a read-only disk that the destination has not",
         drive("format=qcow2,readonly=on,file={d}/one.qcow2")},
        {"a read-only floppy that the destination has not",
         {"-drive", "if=floppy,format=raw,readonly=on,file={d}/floppy.raw"}},
        {"a read-only disk over a base that the destination has not",
         drive("format=qcow2,readonly=on,file={d}/middle.qcow2"), "its backing file"},
        {"a file for the guest that the destination has not",
         {"-fw_cfg", "name=opt/seed,file={d}/two.raw"}},
    });
}

TEST_CASE("table: controllers of disks", "[table]") {
    lab::Argv const q35{"-M", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none"};
    guest_table::Row am53c974{"am53c974", scsi("am53c974")};
    am53c974.refused_by_newer = "cannot read the state of am53c974";
    guest_table::each_row_moves_or_is_refused({
        {"virtio-scsi", scsi("virtio-scsi-pci,id=s0")},
        {"two units of virtio-scsi",
         {"-device", "virtio-scsi-pci,id=s0", "-drive", "if=none,id=d0,format=raw,file={d}/one.raw",
          "-device", "scsi-hd,drive=d0,bus=s0.0,scsi-id=1,lun=0", "-drive",
          "if=none,id=d1,format=qcow2,file={d}/one.qcow2", "-device",
          "scsi-hd,drive=d1,bus=s0.0,scsi-id=1,lun=3"}},
        {"two disks without ids",
         {"-drive", "if=virtio,format=raw,file={d}/one.raw", "-drive",
          "if=virtio,format=qcow2,file={d}/one.qcow2"}},
        {"megasas", scsi("megasas")},
        {"mptsas1068", scsi("mptsas1068")},
        {"lsi53c895a", scsi("lsi53c895a")},
        am53c974,
        {"pvscsi", scsi("pvscsi")},
        {"ide-hd", drive("format=raw,file={d}/one.raw", "ide-hd,drive=d0")},
        {"ahci", drive("format=raw,file={d}/one.raw", "ide-hd,drive=d0"), "", q35},
        {"ahci of its own",
         {"-device", "ahci,id=sata0", "-drive", "if=none,id=d0,format=raw,file={d}/one.raw",
          "-device", "ide-hd,drive=d0,bus=sata0.3"}},
        {"usb-storage",
         {"-device", "qemu-xhci", "-drive", "if=none,id=d0,format=raw,file={d}/one.raw", "-device",
          "usb-storage,drive=d0"}},
        {"nvme", drive("format=raw,file={d}/one.raw", "nvme,drive=d0,serial=n0"), "nvme"},
        {"sd-card",
         {"-device", "sdhci-pci", "-drive", "if=none,id=d0,format=raw,file={d}/card.raw", "-device",
          "sd-card,drive=d0"}},
        {"a port of PCI Express",
         {"-device", "pcie-root-port,id=rp0,chassis=1", "-drive",
          "if=none,id=d0,format=raw,file={d}/one.raw", "-device",
          "virtio-blk-pci,drive=d0,bus=rp0"},
         "",
         q35},
        {"five disks of different kinds",
         {"-device", "virtio-scsi-pci,id=s0", "-hda", "{d}/two.qcow2", "-drive",
          "if=virtio,format=raw,file={d}/one.raw", "-drive",
          "if=none,id=d1,format=qcow2,file={d}/one.qcow2", "-device", "scsi-hd,drive=d1", "-drive",
          "if=none,id=d2,format=raw,file={d}/two.raw", "-device",
          "virtio-blk-pci,drive=d2,id=named", "-cdrom", "{d}/ro-cd.iso"}},
    });
}

}  // namespace guest_table_disks_cases
