// The table of guests: network interfaces, other devices, machines.
#include <catch2/catch.hpp>

#include "tests/process/guest_table.hpp"
#include "tests/support/swtpm.hpp"

namespace guest_table_devices_cases {

using guest_table::Row;

namespace {

lab::Argv const q35{"-M", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none"};

lab::Argv interface(std::string const& device) {
    return {"-netdev", "tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off", "-device",
            device + ",netdev=n0,mac=52:54:00:10:00:10"};
}

}  // namespace

TEST_CASE("table: network interfaces", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"virtio", interface("virtio-net-pci")},
        {"virtio without its ROM", interface("virtio-net-pci,romfile=")},
        {"e1000", interface("e1000")},
        {"e1000e", interface("e1000e"), "", q35},
        {"rtl8139", interface("rtl8139")},
        {"vmxnet3", interface("vmxnet3")},
        {"pcnet", interface("pcnet")},
        {"igb", interface("igb"), "", q35, "10.0"},
        {"-nic", {"-nic", "tap,ifname={tap},script=no,downscript=no,model=virtio-net-pci"}},
        {"-net nic -net tap",
         {"-net", "nic,model=e1000,macaddr=52:54:00:10:00:10", "-net",
          "tap,ifname={tap},script=no,downscript=no"}},
        {"user mode", {"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"}},
        {"user mode beside a tap",
         {"-netdev", "tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off", "-device",
          "virtio-net-pci,netdev=n0,mac=52:54:00:10:00:10", "-netdev", "user,id=n1", "-device",
          "e1000,netdev=n1"}},
        {"two queues",
         {"-netdev", "tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off,queues=2", "-device",
          "virtio-net-pci,netdev=n0,mac=52:54:00:10:00:10,mq=on,vectors=6"}},
        {"an interface without a network", {"-device", "virtio-net-pci"}},
    });
}

TEST_CASE("table: devices that are not disks", "[table]") {
    guest_table::each_row_moves_or_is_refused({
        {"a memory balloon", {"-device", "virtio-balloon-pci"}},
        {"a balloon that reports free pages",
         {"-device", "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on"}},
        {"random numbers of the host",
         {"-object", "rng-random,id=r0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=r0"}},
        {"random numbers of QEMU",
         {"-object", "rng-builtin,id=r0", "-device", "virtio-rng-pci,rng=r0"}},
        {"a guest agent's channel",
         {"-device", "virtio-serial-pci", "-chardev",
          "socket,id=c0,path={d}/agent.sock,server=on,wait=off", "-device",
          "virtserialport,chardev=c0,name=org.qemu.guest_agent.0"}},
        {"a console on a socket",
         {"-chardev", "socket,id=c0,path={d}/console.sock,server=on,wait=off", "-serial",
          "chardev:c0"}},
        {"a console in a file", {"-serial", "file:{d}/console.log"}},
        {"a console that is not used", {"-serial", "null", "-parallel", "null"}},
        {"a terminal", {"-serial", "pty"}},
        {"-vga std", {"-vga", "std"}},
        {"-vga cirrus", {"-vga", "cirrus"}},
        {"-vga virtio", {"-vga", "virtio"}},
        {"-vga qxl", {"-vga", "qxl"}},
        {"virtio-gpu", {"-device", "virtio-gpu-pci"}},
        {"a virtio keyboard and a tablet",
         {"-device", "virtio-keyboard-pci", "-device", "virtio-tablet-pci"}},
        {"a USB tablet", {"-device", "qemu-xhci", "-device", "usb-tablet"}},
        {"USB 2 with companions",
         {"-device", "ich9-usb-ehci1,id=u,addr=1d.7,multifunction=on", "-device",
          "ich9-usb-uhci1,masterbus=u.0,firstport=0,addr=1d.0,multifunction=on", "-device",
          "usb-kbd,bus=u.0"}},
        {"-usb", {"-usb", "-device", "usb-mouse"}},
        {"sound of Intel",
         {"-audiodev", "none,id=a0", "-device", "intel-hda", "-device", "hda-duplex,audiodev=a0"}},
        {"AC97", {"-audiodev", "none,id=a0", "-device", "AC97,audiodev=a0"}},
        {"a watchdog", {"-device", "i6300esb", "-action", "watchdog=reset"}},
        {"pvpanic and vmcoreinfo", {"-device", "pvpanic", "-device", "vmcoreinfo"}},
        {"a directory of the host",
         {"-virtfs", "local,path={d},mount_tag=host,security_model=none"},
         "virtfs"},
        {"memory of its own",
         {"-object", "memory-backend-ram,id=m0,size=16M", "-device", "ivshmem-plain,memdev=m0"},
         "ivshmem"},
        {"a VNC display on a socket", {"-vnc", "unix:{d}/vnc.sock"}},
        {"a VNC display of the host", {"-vnc", "127.0.0.1:77"}},
    });
}

TEST_CASE("table: TPMs", "[table][tpm]") {
    auto const tpm = [](std::string const& device) {
        return lab::tpm_options("{d}/swtpm.sock", device);
    };
    guest_table::each_row_moves_or_is_refused({
        {"TPM 2.0, CRB", tpm("tpm-crb"), "", q35, "", {}, "2.0"},
        {"TPM 2.0, TIS", tpm("tpm-tis,id=t"), "", {}, "", {}, "2.0"},
        {"TPM 1.2, TIS", tpm("tpm-tis"), "", q35, "", {}, "1.2"},
        {"without the physical presence interface", tpm("tpm-crb,ppi=off"), "", {}, "", {}, "2.0"},
    });
}

TEST_CASE("table: machines", "[table]") {
    auto const base = [](std::string const& machine, lab::Argv const& more = {}) {
        lab::Argv words{"-M", machine, "-m", "64", "-display", "none"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    };
    lab::Argv const disk{"-drive", "if=virtio,format=raw,file={d}/one.raw"};
    guest_table::Row microvm{"microvm",
                             {"-drive", "if=none,id=d0,format=raw,file={d}/one.raw", "-device",
                              "virtio-blk-device,drive=d0"},
                             "",
                             base("microvm,accel=tcg", {"-nodefaults"})};
    microvm.refused_by_newer = "the machine type microvm has no version";
    guest_table::each_row_moves_or_is_refused({
        {"pc with its default devices", disk, "", base("pc,accel=tcg", {"-nic", "none"})},
        {"q35 with its default devices", disk, "", base("q35,accel=tcg", {"-nic", "none"})},
        {"-hda on pc with its default devices",
         {"-hda", "{d}/one.qcow2"},
         "",
         base("pc,accel=tcg", {"-nic", "none"})},
        {"an older type", disk, "", base("pc-i440fx-7.1,accel=tcg", {"-nodefaults"})},
        {"an older q35", disk, "", base("pc-q35-6.2,accel=tcg", {"-nodefaults"})},
        microvm,
        {"-machine and -accel",
         disk,
         "",
         {"-machine", "type=q35,usb=off", "-accel", "tcg", "-m", "size=64M", "-nodefaults",
          "-display", "none"}},
        {"two processors", disk, "", base("q35,accel=tcg", {"-nodefaults", "-smp", "2"})},
        {"sockets, cores and threads", disk, "",
         base("q35,accel=tcg", {"-nodefaults", "-smp", "4,sockets=1,cores=2,threads=2,maxcpus=4"})},
        {"-cpu max", disk, "", base("q35,accel=tcg", {"-nodefaults", "-cpu", "max"})},
        {"-cpu with features", disk, "",
         base("q35,accel=tcg", {"-nodefaults", "-cpu", "qemu64,+ssse3,-vme"})},
        {"a model of Intel's", disk, "",
         base("q35,accel=tcg", {"-nodefaults", "-cpu", "Nehalem-v1"})},
        {"slots for memory",
         disk,
         "",
         {"-M", "q35,accel=tcg", "-m", "64M,slots=2,maxmem=256M", "-nodefaults", "-display",
          "none"}},
        {"a memory module",
         {"-object", "memory-backend-ram,id=m1,size=128M", "-device", "pc-dimm,id=dimm1,memdev=m1"},
         "",
         {"-M", "q35,accel=tcg", "-m", "128M,slots=2,maxmem=512M", "-nodefaults", "-display",
          "none"}},
        {"shared memory",
         disk,
         "",
         {"-M", "q35,accel=tcg,memory-backend=m0", "-object",
          "memory-backend-memfd,id=m0,size=64M,share=on", "-m", "64M", "-nodefaults", "-display",
          "none"}},
        {"memory in a file system",
         disk,
         "",
         {"-M", "q35,accel=tcg,memory-backend=m0", "-object",
          "memory-backend-file,id=m0,size=64M,mem-path={d},share=on", "-m", "64M", "-nodefaults",
          "-display", "none"}},
        {"two NUMA nodes",
         disk,
         "",
         {"-M", "q35,accel=tcg", "-m", "128M", "-smp", "2", "-object",
          "memory-backend-ram,id=m0,size=64M", "-object", "memory-backend-ram,id=m1,size=64M",
          "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
          "-nodefaults", "-display", "none"}},
    });
}

TEST_CASE("table: other options", "[table]") {
    lab::Argv const disk{"-drive", "if=virtio,format=raw,file={d}/one.raw"};
    auto const also = [&](lab::Argv const& more) {
        lab::Argv words = disk;
        words.insert(words.end(), more.begin(), more.end());
        return words;
    };
    guest_table::each_row_moves_or_is_refused({
        {"a name, a UUID", also({"-name", "guest=web,debug-threads=on", "-uuid",
                                 "6ff3e9f8-7b5e-4a3a-9a52-0d8f4a3f6a10"})},
        {"SMBIOS", also({"-smbios", "type=1,manufacturer=Us,serial=1"})},
        {"-fw_cfg, a text", also({"-fw_cfg", "name=opt/test,string=abc"})},
        {"-fw_cfg, a file", also({"-fw_cfg", "name=opt/test,file={d}/ro-random"})},
        {"the clock", also({"-rtc", "base=localtime,driftfix=slew"})},
        {"-boot", also({"-boot", "order=c,menu=on,strict=on"})},
        {"-global", also({"-global", "kvm-pit.lost_tick_policy=delay"})},
        {"-global of ICH9", also({"-global", "ICH9-LPC.disable_s3=1"}), "", q35},
        {"-no-reboot", also({"-no-reboot"})},
        {"-action", also({"-action", "reboot=shutdown,shutdown=pause"})},
        {"-sandbox", also({"-sandbox",
                           "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                           "resourcecontrol=deny"})},
        {"-msg timestamp", also({"-msg", "timestamp=on"})},
        {"a monitor on a socket", also({"-monitor", "unix:{d}/monitor.sock,server=on,wait=off"})},
        {"a monitor as a character device",
         also({"-chardev", "socket,id=mon,path={d}/mon.sock,server=on,wait=off", "-mon",
               "chardev=mon,id=m,mode=control"})},
        {"a log", also({"-D", "{d}/qemu.log", "-d", "guest_errors"})},
        {"a PID file", also({"-pidfile", "{d}/qemu.pid"})},
        {"another user, who may not write the disk",
         also({"-runas", "nobody"}),
         "who may not write",
         {},
         "7.2"},
        {"overcommit", also({"-overcommit", "mem-lock=off"})},
        {"a secret", also({"-object", "secret,id=s0,data=abc"})},
        {"firmware", also({"-bios", "/usr/share/seabios/bios-256k.bin"})},
    });
}

}  // namespace guest_table_devices_cases
