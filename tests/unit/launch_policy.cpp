// What a host runs of a command line that another host sent: qmp/launch_policy.hpp.
#include "tests/unit/launch_policy.hpp"

namespace launch_policy_cases {

using namespace launch_policy_test;

namespace {

std::vector<Words> const ordinary{
    {"-M", "pc", "-m", "512M", "-hda", "/srv/vm/d0.qcow2"},
    {"-machine", "q35,accel=kvm:tcg,usb=off,vmport=off,dump-guest-core=off,kernel_irqchip=split",
     "-cpu", "host,migratable=on,hv-relaxed=on,hv_vapic,hv-spinlocks=0x1fff,hv-vpindex,+x2apic"},
    {"-m", "size=2G,slots=4,maxmem=8G", "-smp", "2,sockets=1,dies=1,cores=2,threads=1,maxcpus=4"},
    {"-drive",
     "if=none,id=d0,file=/srv/vm/d0.qcow2,format=qcow2,cache=none,aio=native,"
     "discard=unmap,werror=stop,iops=100,throttling.bps-total=1000000",
     "-device", "virtio-blk-pci,drive=d0,serial=disk0,bootindex=1,iothread=io0,num-queues=2"},
    {"-blockdev",
     R"({"driver":"file","filename":"/srv/vm/d0.qcow2","aio":"io_uring","node-name":)"
     R"("libvirt-1-storage","cache":{"direct":true,"no-flush":false},"auto-read-only":true,)"
     R"("discard":"unmap"})",
     "-blockdev",
     R"({"node-name":"libvirt-1-format","read-only":false,"cache":{"direct":true,)"
     R"("no-flush":false},"driver":"qcow2","file":"libvirt-1-storage","backing":null})",
     "-device",
     R"({"driver":"virtio-blk-pci","bus":"pci.4","addr":"0x0","drive":"libvirt-1-format",)"
     R"("id":"virtio-disk0","bootindex":1,"write-cache":"on"})"},
    {"-blockdev",
     R"({"driver":"file","filename":"/srv/vm/cd.iso","node-name":"libvirt-2-storage",)"
     R"("auto-read-only":true})",
     "-blockdev",
     R"({"node-name":"libvirt-2-format","read-only":true,"driver":"raw",)"
     R"("file":"libvirt-2-storage"})",
     "-device", R"({"driver":"ide-cd","bus":"ide.0","drive":"libvirt-2-format","id":"sata0-0-0"})"},
    {"-blockdev",
     "driver=qcow2,node-name=q,file.driver=file,file.filename=/srv/vm/d0.qcow2,backing=b",
     "-blockdev", "driver=raw,node-name=b,file.driver=file,file.filename=/srv/vm/base.raw",
     "-device", "virtio-blk-pci,drive=q"},
    {"-device",
     R"({"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0",)"
     R"("multifunction":true,"addr":"0x2"})",
     "-device", "pcie-pci-bridge,id=pci.2,bus=pci.1,addr=0x0", "-device", "ioh3420,chassis=2"},
    {"-netdev", R"({"type":"tap","fds":"4:5","vhost":true,"id":"hostnet0"})", "-device",
     R"({"driver":"virtio-net-pci","mq":true,"vectors":6,"rx_queue_size":1024,"netdev":)"
     R"("hostnet0","id":"net0","mac":"52:54:00:11:22:33","host_mtu":1500,"romfile":""})"},
    {"-netdev", "tap,id=n0,ifname=web1,script=no,downscript=no,vhost=on", "-device",
     "e1000e,netdev=n0,mac=52:54:00:11:22:33"},
    {"-netdev", "user,id=u0,hostfwd=tcp::2222-:22,hostfwd=tcp::8080-:80,restrict=on", "-device",
     "rtl8139,netdev=u0"},
    {"-nic", "tap,fd=4,model=virtio-net-pci,mac=52:54:00:11:22:33", "-net", "none"},
    {"-device", "nvme,drive=n0,serial=abc,max_ioqpairs=4", "-drive",
     "if=none,id=n0,file=/srv/vm/d0.qcow2,format=qcow2"},
    {"-device", "qemu-xhci,id=usb,p2=15,p3=15", "-device", "usb-tablet,id=input0,bus=usb.0,port=1",
     "-usb", "-usbdevice", "tablet"},
    {"-device",
     "qxl-vga,id=video0,max_outputs=1,ram_size=67108864,vram_size=67108864,"
     "vram64_size_mb=0,vgamem_mb=16,bus=pcie.0,addr=0x1",
     "-spice",
     "port=5900,addr=127.0.0.1,disable-ticketing=on,image-compression=off,"
     "seamless-migration=on"},
    {"-vga", "std", "-vnc", "127.0.0.1:1,password=on", "-k", "de", "-device",
     "virtio-gpu-pci,id=v1,max_outputs=1", "-device", "VGA,vgamem_mb=16,edid=on"},
    {"-device", "ich9-intel-hda,id=sound0,bus=pcie.0,addr=0x1b", "-device",
     "hda-duplex,id=sound0-codec0,bus=sound0.0,cad=0,audiodev=audio1", "-audiodev",
     R"({"id":"audio1","driver":"none"})"},
    {"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
     "-drive", "if=pflash,format=raw,unit=1,file=/srv/vm/vars.fd", "-global",
     "driver=cfi.pflash01,property=secure,value=on"},
    {"-blockdev",
     R"({"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE.fd","node-name":"s0",)"
     R"("auto-read-only":true,"discard":"unmap"})",
     "-blockdev", R"({"node-name":"pflash0","read-only":true,"driver":"raw","file":"s0"})",
     "-blockdev", R"({"driver":"file","filename":"/srv/vm/vars.fd","node-name":"s1"})", "-blockdev",
     R"({"node-name":"pflash1","read-only":false,"driver":"raw","file":"s1"})", "-machine",
     "pc-q35-7.2,pflash0=pflash0,pflash1=pflash1,memory-backend=pc.ram,hpet=off,acpi=on"},
    {"-object",
     R"({"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,)"
     R"("x-use-canonical-path-for-ramblock-id":false,"size":2147483648})",
     "-object", R"({"qom-type":"iothread","id":"iothread1","thread-pool-max":16})", "-numa",
     "node,nodeid=0,cpus=0-1,memdev=pc.ram"},
    {"-object", "throttle-group,id=g0,x-iops-total=100,x-bps-read-max=1000", "-object",
     R"({"qom-type":"throttle-group","id":"g1","limits":{"iops-total":100,"iops-size":4096}})",
     "-blockdev",
     "driver=throttle,node-name=t,throttle-group=g0,file.driver=file,"
     "file.filename=/srv/vm/d0.qcow2",
     "-device", "virtio-scsi-pci,id=s,iothread=io0", "-device", "scsi-hd,drive=t,bus=s.0"},
    {"-device", "virtio-serial-pci,id=vs0,max_ports=16", "-chardev",
     "socket,id=charchannel0,path=/run/guests/web1.agent,server=on,wait=off", "-device",
     "virtserialport,bus=vs0.0,nr=1,chardev=charchannel0,id=ch0,name=org.qemu.guest_agent.0"},
    {"-name",
     "guest=web1,debug-threads=on",
     "-uuid",
     "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11",
     "-nodefaults",
     "-no-user-config",
     "-msg",
     "timestamp=on",
     "-sandbox",
     "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
     "-overcommit",
     "mem-lock=off",
     "-rtc",
     "base=utc,driftfix=slew",
     "-no-hpet",
     "-no-shutdown",
     "-boot",
     "order=c,menu=on,strict=on",
     "-S",
     "-display",
     "none",
     "-smbios",
     "type=1,manufacturer=Example,product=Guest,serial=1",
     "-compat",
     "deprecated-input=accept"},
    {"-global", "kvm-pit.lost_tick_policy=delay", "-global", "ICH9-LPC.disable_s3=1", "-global",
     "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off", "-watchdog-action", "reset", "-device",
     "i6300esb,id=watchdog0", "-device", "pvpanic,ioport=1285", "-device", "vmgenid,guid=auto"},
    {"-serial", "file:/srv/vm/web1.log", "-monitor", "none", "-qmp",
     "unix:/run/guests/web1.qmp,server,nowait", "-parallel", "null", "-pidfile",
     "/run/guests/web1.pid"},
    {"-chardev", "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control",
     "-chardev", "pty,id=charserial0,logfile=/srv/vm/serial.log,logappend=on", "-device",
     "isa-serial,chardev=charserial0,id=serial0"},
    {"-kernel", "/srv/vm/vmlinuz", "-initrd", "/srv/vm/initrd", "-append",
     "console=ttyS0 root=/dev/vda,rw", "-fw_cfg", "name=opt/x,string=y", "-bios", "bios-256k.bin"},
    {"-object", "rng-random,id=r0,filename=/dev/urandom", "-device",
     "virtio-rng-pci,rng=r0,max-bytes=1024,period=1000", "-device",
     "virtio-balloon-pci,id=balloon0,free-page-reporting=on", "-nographic", "-incoming", "defer"},
};

}  // namespace

TEST_CASE("launch policy: ordinary command lines are allowed as they are", "[qmp][launch-policy]") {
    for (auto const& words : ordinary) {
        auto const line = line_of(words);
        INFO(line.options().front().print() << "\n" << reasons(words));
        auto const allowed = allow(line, policy());
        REQUIRE(allowed);
        CHECK(allowed->line.argv() == line.argv());
    }
}

TEST_CASE("launch policy: what the host allows besides", "[qmp][launch-policy]") {
    auto host = policy();
    Words const vfio{"-device", "vfio-pci,host=0000:01:00.0,id=h0"};
    CHECK_FALSE(reasons(vfio).empty());
    host.devices = {"vfio-pci", "loader"};
    CHECK(reasons(vfio, host).empty());
    CHECK(reasons({"-device", "loader,file=/srv/vm/x,addr=1"}, host).empty());
    CHECK(reasons({"-device", "loader,file=/etc/shadow"}, host).find(elsewhere) !=
          std::string::npos);
    Words const bridged{"-netdev", "tap,id=n,fd=4,br=br1"};
    CHECK(reasons(bridged, host).empty());
    host.bridges = {"br0"};
    CHECK(reasons(bridged, host).find("may not use the bridge br1") != std::string::npos);
    host.directories = {"/"};
    host.images = {"/data//./d0"};
    CHECK(reasons({"-drive", "file=/data/d0,format=raw"}, host).empty());
}

TEST_CASE("launch policy: every refusal is reported, in the order of the options",
          "[qmp][launch-policy]") {
    auto const allowed =
        allow(line_of({"-plugin", "/tmp/x.so", "-S", "-chroot", "/srv", "-D", "/etc/\x1b[31mx"}),
              policy());
    REQUIRE_FALSE(allowed);
    auto const& refusals = allowed.error();
    REQUIRE(refusals.size() == 3);
    CHECK(refusals[0].option == "-plugin /tmp/x.so");
    CHECK(refusals[1].option == "-chroot /srv");
    CHECK(refusals[2].option == "-D /etc/?[31mx");
    auto const error = refusal_error(refusals);
    CHECK(error.code == Errc::refused);
    CHECK(error.sentence().find("`-plugin /tmp/x.so`: it runs a program; `-chroot /srv`: ") !=
          std::string::npos);
    std::vector<RefusedOption> const many(refusals_told + 3, RefusedOption{"-x", "no"});
    CHECK(refusal_error(many).sentence().ends_with("; and 3 more"));
}

TEST_CASE("launch policy: which program runs", "[qmp][launch-policy]") {
    LaunchPolicy host;
    CHECK(choose_program(host, "qemu-system-x86_64") == program);
    CHECK(choose_program(host, program) == program);
    CHECK(choose_program(host, "/usr/bin/kvm") == "/usr/bin/kvm");
    CHECK(choose_program(host, "/usr/libexec/qemu-kvm") == "/usr/libexec/qemu-kvm");
    for (auto const* const other :
         {"/bin/sh", "sh", "/usr/bin/../bin/sh", "/usr/bin/qemu-system-x/../sh", "./qemu-system-x",
          "/opt/bin/qemu-system-x86_64", "/usr/bin/qemu-system-x;y", "/usr/bin/qemu-img"}) {
        INFO(other);
        auto const chosen = choose_program(host, other);
        REQUIRE_FALSE(chosen);
        CHECK(chosen.error().code == Errc::refused);
    }
    host.programs = {"/opt/a/qemu-system-x86_64", "/opt/b/qemu-system-aarch64", "/opt/b/other"};
    CHECK(choose_program(host, "/opt/b/other") == "/opt/b/other");
    CHECK(choose_program(host, "qemu-system-aarch64") == "/opt/b/qemu-system-aarch64");
    CHECK(choose_program(host, "/bin/sh") == "/opt/a/qemu-system-x86_64");
    // What allow() gets must be what runs.
    CHECK_FALSE(allow(line_of({"-S"}), host));
}

TEST_CASE("launch policy: a path below a directory", "[qmp][launch-policy]") {
    CHECK(path_below("/srv/vm", "/srv/vm/a/b") == "a/b");
    CHECK(path_below("/srv/vm/", "//srv/./vm//a/../b") == "a/../b");
    CHECK(path_below("/srv/vm", "/srv/vm") == ".");
    CHECK(path_below("/", "/etc") == "etc");
    for (auto const* const path : {"/srv", "/srv/vmx", "/srv/vm/../x", "/srv/vm/a/../../x",
                                   "srv/vm/a", "", "/x/../srv/vm/a"}) {
        INFO(path);
        CHECK(path_below("/srv/vm", path) == std::nullopt);
    }
    CHECK(path_below("", "/a") == std::nullopt);
}

}  // namespace launch_policy_cases
