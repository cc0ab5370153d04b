// Command lines that a host must not run: qmp/launch_policy.hpp.
#include "tests/unit/launch_policy.hpp"

namespace launch_policy_hostile_cases {

using namespace launch_policy_test;

namespace {

struct Hostile {
    Words words;
    char const* why;  ///< Part of the reason.
};

std::vector<Hostile> const runs_something{
    {{"-netdev", "tap,id=n,ifname=t,script=/tmp/x,downscript=no"}, "`script` runs a program"},
    {{"-netdev", "tap,id=n,ifname=t,script=no,downscript=/tmp/x"}, "`downscript` runs a program"},
    {{"-netdev", "tap,id=n,ifname=t"}, "it runs /etc/qemu-ifup"},
    {{"-netdev", "tap,id=n,script=no,helper=/tmp/x"}, "`helper` runs a program"},
    {{"-netdev", "bridge,id=n,br=br0"}, "it runs a program"},
    {{"-nic", "bridge,br=br0,helper=/tmp/x"}, "it runs a program"},
    {{"-netdev", R"({"type":"tap","id":"n","script":"/tmp/x"})"}, "`script` runs a program"},
    {{"-netdev", "user,id=n,guestfwd=tcp:10.0.2.100:80-cmd:/bin/sh"}, "`guestfwd` runs a program"},
    {{"-netdev", "user,id=n,smb=/etc"}, "`smb` runs a program"},
    {{"-netdev", "passt,id=n"}, "it runs a program"},
    {{"-plugin", "/tmp/x.so"}, "it runs a program"},
    {{"-incoming", "exec:/tmp/x"}, "it runs a program"},
    {{"-incoming", "tcp:0.0.0.0:1"}, "reads the guest's state from elsewhere"},
    {{"-monitor", "tcp:0.0.0.0:4444,server"}, "it opens a device, a file or a socket"},
    {{"-chardev", "socket,id=m,path=/run/guests/m,server=on", "-mon", "chardev=n"},
     "others than the operator would reach this monitor"},
    {{"-chardev", "vc,id=m", "-mon", "chardev=m,mode=control"},
     "others than the operator would reach this monitor"},
    {{"-serial", "mon:vc"}, "others than the operator would reach this monitor"},
    {{"-chardev", "spiceport,id=m,name=m", "-qmp", "chardev:m"},
     "others than the operator would reach this monitor"},
    {{"-gdb", "tcp::1234"}, "it gives control over the guest"},
    {{"-s"}, "it gives control over the guest"},
    {{"-qtest", "unix:/run/guests/q"}, "it gives control over the guest"},
};

std::vector<Hostile> const opens_a_file{
    {{"-drive", "file=/dev/sda,format=raw,if=virtio"}, elsewhere},
    {{"-drive", "file=/srv/vm/other.qcow2,format=qcow2,if=virtio"},
     "is neither read-only nor one of the disks that are moved"},
    {{"-drive", "file=/srv/vm/../../etc/shadow,readonly=on"}, elsewhere},
    {{"-drive", "file=/srv/vmx/a,readonly=on"}, elsewhere},
    {{"-drive", "if=none,id=d,file.driver=file,file.filename=/etc/shadow,read-only=on"}, elsewhere},
    {{"-drive", "if=none,id=d,readonly=on,file=/srv/vm/a,backing.file.filename=/etc/shadow"},
     elsewhere},
    {{"-drive", "file=fat:rw:/etc,format=raw"}, "is not the absolute path of a file"},
    {{"-drive", R"(file=json:{"driver":"raw"},,{},readonly=on)"},
     "is not the absolute path of a file"},
    {{"-drive", "file=/srv/vm/d0.qcow2,snapshot=on"}, "in a temporary file"},
    {{"-drive", "file=/srv/vm/a,file=/etc/shadow,readonly=on"}, "`file` is given twice"},
    {{"-drive", R"({"file":"/srv/vm/d0.qcow2"})"}, "QEMU does not take JSON here"},
    {{"-hda", "/etc/shadow"}, elsewhere},
    {{"-cdrom", "/etc/shadow"}, elsewhere},
    {{"/etc/shadow"}, elsewhere},
    {{"-pflash", "/srv/vm/other.fd"}, "is neither read-only nor one of the disks"},
    {{"-blockdev", R"({"driver":"file","filename":"/etc/shadow","node-name":"n"})"}, elsewhere},
    {{"-blockdev", R"({"driver":"raw","node-name":"n","file":{"driver":"file","filename":"/x"}})"},
     elsewhere},
    {{"-blockdev", "driver=file,filename=/srv/vm/other,node-name=f,read-only=on", "-blockdev",
      "driver=file,filename=/srv/vm/other,node-name=g", "-device", "virtio-blk-pci,drive=g"},
     "is neither read-only nor one of the disks that are moved"},
    {{"-blockdev",
      R"({"driver":"raw","node-name":"r","read-only":true,"file":{"driver":"file",)"
      R"("node-name":"f","filename":"/srv/vm/other"}})",
      "-device", "scsi-hd,drive=f"},
     "is neither read-only nor one of the disks that are moved"},
    {{"-blockdev", "driver=file,filename=/srv/vm/other,node-name=g", "-global", "isa-fdc.driveA=g"},
     "is neither read-only nor one of the disks that are moved"},
    {{"-blockdev", "driver=file,filename=/srv/vm/other,node-name=g", "-machine", "q35,pflash1=g"},
     "is neither read-only nor one of the disks that are moved"},
    {{"-blockdev", "driver=qcow2,node-name=q,file=f,data-file.driver=file"},
     "key `data-file.driver`"},
    {{"-kernel", "/etc/shadow"}, elsewhere},
    {{"-initrd", "/etc/shadow"}, elsewhere},
    {{"-dtb", "/etc/shadow"}, elsewhere},
    {{"-bios", "/etc/shadow"}, elsewhere},
    {{"-machine", "q35,kernel=/etc/shadow"}, elsewhere},
    {{"-machine", "virt,dumpdtb=/etc/passwd"}, "key `dumpdtb`"},
    {{"-boot", "splash=/etc/shadow"}, elsewhere},
    {{"-fw_cfg", "name=opt/x,file=/etc/shadow"}, elsewhere},
    {{"-smbios", "file=/etc/shadow"}, elsewhere},
    {{"-smbios", "type=11,path=/etc/shadow"}, elsewhere},
    {{"-acpitable", "data=/srv/vm/a:/etc/shadow"}, elsewhere},
    {{"-object", "secret,id=s,file=/etc/shadow"}, elsewhere},
    {{"-object", R"({"qom-type":"secret","id":"s","file":"/etc/shadow"})"}, elsewhere},
    {{"-object", "rng-random,id=r,filename=/etc/shadow"}, "is not a source of random numbers"},
    {{"-object", "memory-backend-file,id=m,size=1G,mem-path=/dev/sda"}, elsewhere},
    {{"-object", "tls-creds-x509,id=t,dir=/etc/ssl/private,endpoint=server"}, elsewhere},
    {{"-mem-path", "/etc"}, elsewhere},
    {{"-device", "virtio-net-pci,romfile=/etc/shadow"}, elsewhere},
    {{"-device", R"({"driver":"e1000e","romfile":"/etc/shadow"})"}, elsewhere},
    {{"-device", "usb-tablet,pcap=/etc/passwd"}, "key `pcap`"},
    {{"-device", "loader,file=/etc/shadow,addr=0"}, "device kind loader"},
    {{"-device", "usb-mtp,rootdir=/etc"}, "device kind usb-mtp"},
    {{"-global", "virtio-net-pci.romfile=/etc/shadow"}, elsewhere},
    {{"-global", "driver=usb-device,property=pcap,value=/etc/passwd"}, "key `pcap`"},
    {{"-global", "loader.file=/etc/shadow"}, "device kind loader"},
    {{"-option-rom", "/etc/shadow"}, elsewhere},
    {{"-chardev", "file,id=c,path=/etc/passwd"}, elsewhere},
    {{"-chardev", "null,id=c,logfile=/etc/passwd"}, elsewhere},
    {{"-chardev", "pipe,id=c,path=/tmp/p"}, "the backend pipe"},
    {{"-serial", "file:/etc/passwd"}, elsewhere},
    {{"-serial", "file:/srv/vm/a,/../../etc/passwd"}, "its name has a comma"},
    {{"-serial", "unix:/run/guests/a,server=on,path=/etc/passwd"}, "key `path`"},
    {{"-serial", "pipe:/tmp/p"}, "it opens a device, a file or a socket"},
    {{"-pidfile", "/etc/passwd"}, elsewhere},
    {{"-D", "/etc/passwd"}, elsewhere},
    {{"-d", "in_asm"}, "it may fill the disk"},
    {{"-trace", "file=/etc/passwd"}, "it writes to files"},
    {{"-dump-vmstate", "/etc/passwd"}, "it writes to files"},
    {{"-audiodev", "wav,id=a,path=/etc/passwd"}, "a file of the destination"},
    {{"-readconfig", "/tmp/x"}, "it hides options"},
    {{"-writeconfig", "/etc/passwd"}, "it writes to files"},
    {{"-virtfs", "local,path=/,mount_tag=r,security_model=none"}, "a directory of the destination"},
    {{"-fsdev", "local,id=f,path=/,security_model=none"}, "a directory of the destination"},
    {{"-k", "/etc/shadow"}, "its value is not a single word"},
    {{"-icount", "shift=1,rr=record,rrfile=/etc/passwd"}, "key `rrfile`"},
    {{"-semihosting"}, "open files of the destination"},
    {{"-qmp", "unix:/etc/shadow,server=on"}, elsewhere},
    {{"-vnc", "unix:/etc/shadow"}, elsewhere},
    {{"-spice", "unix=on,addr=/etc/shadow"}, elsewhere},
    {{"-spice", "port=1,x509-dir=/etc/ssl/private"}, elsewhere},
};

std::vector<Hostile> const opens_more{
    {{"-chardev", "socket,id=c,host=10.0.0.1,port=22"}, "it opens a socket"},
    {{"-chardev", "socket,id=c,path=/run/guests/x"}, "it connects to a program"},
    {{"-chardev", "socket,id=c,path=x,server=on,abstract=on"}, "its socket is in no directory"},
    {{"-chardev", "socket,id=c,fd=9,server=on"}, "a descriptor of another process"},
    {{"-chardev", "udp,id=c,host=10.0.0.1,port=22"}, "the backend udp"},
    {{"-chardev", "serial,id=c,path=/dev/ttyS0"}, "the backend serial"},
    {{"-chardev", "parport,id=c,path=/dev/parport0"}, "the backend parport"},
    {{"-serial", "/dev/ttyS0"}, "it opens a device, a file or a socket"},
    {{"-serial", "unix:/run/guests/x"}, "it connects to a program"},
    {{"-serial", "tcp:10.0.0.1:22"}, "it opens a device, a file or a socket"},
    {{"-parallel", "/dev/parport0"}, "it opens a device, a file or a socket"},
    {{"-drive", "file=nbd://10.0.0.1/x,format=raw"}, "is not the absolute path of a file"},
    {{"-drive", "if=none,id=d,driver=iscsi,portal=10.0.0.1"}, "the block driver iscsi"},
    {{"-blockdev", R"({"driver":"nbd","node-name":"n","server":{"type":"unix","path":"/x"}})"},
     "the block driver nbd"},
    {{"-blockdev", "driver=ssh,node-name=n,host=h,path=/x"}, "the block driver ssh"},
    {{"-blockdev", "driver=https,node-name=n,url=https://h/x"}, "the block driver https"},
    {{"-blockdev", "driver=host_device,node-name=n,filename=/dev/sda"}, elsewhere},
    {{"-blockdev", "driver=vvfat,node-name=n,dir=/etc"}, "the block driver vvfat"},
    {{"-device", "vfio-pci,host=0000:01:00.0"}, "device kind vfio-pci"},
    {{"-device", "usb-host,hostbus=1,hostaddr=2"}, "device kind usb-host"},
    {{"-device", "vhost-user-blk-pci,chardev=c"}, "device kind vhost-user-blk-pci"},
    {{"-device", "vhost-vsock-pci,guest-cid=3"}, "device kind vhost-vsock-pci"},
    {{"-device", "scsi-generic,drive=d"}, "device kind scsi-generic"},
    {{"-device", "virtio-input-host-pci,evdev=/dev/input/event0"}, "device kind virtio-input-host"},
    {{"-device", "scsi-hd,drive=d,unheard-of=1"}, "key `unheard-of`"},
    {{"-device", "driver=e1000,driver=loader"}, "device kind loader"},
    {{"-device", "e1000,nopcap"}, "key `pcap`"},
    {{"-usbdevice", "host:1.2"}, "it opens a device"},
    {{"-object", "input-linux,id=i,evdev=/dev/input/event0"}, "objects of the kind input-linux"},
    {{"-object", "can-host-socketcan,id=c,if=can0,canbus=b"},
     "objects of the kind can-host-socketcan"},
    {{"-object", "pr-manager-helper,id=p,path=/run/x"}, "objects of the kind pr-manager-helper"},
    {{"-object", "filter-dump,id=f,netdev=n,file=/etc/passwd"}, "objects of the kind filter-dump"},
    {{"-netdev", "user,id=n,hostfwd=unix:/x-:22"}, "`hostfwd` names neither tcp: nor udp:"},
    {{"-netdev", "socket,id=n,listen=:1234"}, "it opens a socket"},
    {{"-netdev", "stream,id=n,addr.type=unix,addr.path=/x"}, "it opens a socket"},
    {{"-netdev", "vhost-user,id=n,chardev=c"}, "it opens a device or a socket"},
    {{"-netdev", "l2tpv3,id=n,src=::1,dst=::1"}, "it opens a socket"},
    {{"-netdev", "tap,id=n,fd=9"}, "`fd` names a descriptor"},
    {{"-netdev", "tap,id=n,fd=4,vhostfd=9"}, "key `vhostfd`"},
    {{"-tpmdev", "passthrough,id=t,path=/dev/tpm0"}, "it uses the TPM chip of the host"},
    {{"-tpmdev", "emulator,id=t,chardev=c,path=/x"}, "key `path`"},
    {{"-tpmdev", "emulator,id=t,chardev=c", "-chardev", "socket,id=c,path=/run/swtpm.sock"},
     "it connects to a program of the destination"},
    {{"-tpmdev", "emulator,id=t,chardev=c", "-chardev", "socket,id=c,fd=4", "-mon", "chardev=c"},
     "others than the operator would reach this monitor"},
    {{"-iscsi", "initiator-name=x"}, "it connects to another host"},
    {{"-vnc", "10.0.0.1:0,reverse=on"}, "key `reverse`"},
    {{"-display", "gtk"}, "it opens a window"},
    {{"-display", "egl-headless,rendernode=/dev/dri/renderD128"}, "key `rendernode`"},
    {{"-audiodev", "alsa,id=a"}, "it opens a sound device"},
    {{"-accel", "xen"}, "the accelerator xen"},
    {{"-accel", "kvm,device=/dev/x"}, "key `device`"},
    {{"-add-fd", "fd=9,set=1"}, "a descriptor of another process"},
    {{"-runas", "no body"}, "not the name of a user"},
    {{"-chroot", "/tmp"}, "it changes the user or the root directory"},
    {{"-run-with", "user=no body"}, "key `user`"},
    {{"-run-with", "chroot=/srv"}, "key `chroot`"},
    {{"-run-with", "exit-with-parent=on"}, "key `exit-with-parent`"},
    {{"-set", "device.d.romfile=/etc/shadow"}, "it changes other options unseen"},
    {{"-daemonize"}, "follows QEMU by itself"},
    {{"-loadvm", "s"}, "another state"},
    {{"-snapshot"}, "in a temporary file"},
    {{"-unheard-of", "x"}, "this option is not known to be safe"},
    {{"-append", "a\nb"}, "it has control characters"},
    {{"-device", R"({"driver":"e1000","id":"a\u0000b"})"}, "it has control characters"},
};

}  // namespace

TEST_CASE("launch policy: what runs, opens or names something of the host is refused",
          "[qmp][launch-policy]") {
    for (auto const* const table : {&runs_something, &opens_a_file, &opens_more}) {
        for (auto const& [words, why] : *table) {
            auto const found = reasons(words);
            INFO(line_of(words).options().back().print() << "\n" << found);
            CHECK(found.find(why) != std::string::npos);
            // The option as it was written; the last one is the hostile one.
            auto const written = line_of(words).options().back().print();
            bool const printable = words.back().find_first_of("\n") == std::string::npos;
            bool const named = found.find(written) != std::string::npos || !printable;
            CHECK((named || words.size() > 2));
        }
    }
}

TEST_CASE("launch policy: a program that starts QEMU is refused, whatever it is called",
          "[qmp][launch-policy]") {
    for (Words const& words : std::vector<Words>{{"sh", "-c", "touch /tmp/x", program},
                                                 {"taskset", "-c", "0", program, "-S"},
                                                 {"/tmp/qemu-system-x86_64", program},
                                                 {"/tmp/x", "/usr/bin/kvm"}}) {
        auto const line = CommandLine::parse(words);
        REQUIRE(line);
        auto const allowed = allow(*line, policy());
        INFO(words.front());
        REQUIRE_FALSE(allowed);
        CHECK_FALSE(allowed.error().empty());
    }
}

TEST_CASE("hostile: a -drive by JSON is reviewed by its keys", "[qmp][launch-policy]") {
    Mapping mapping;
    mapping.machine_type = "pc-i440fx-7.2";
    mapping.qmp_fd = 3;
    auto const reasons_for = [&](std::string const& object) {
        auto const line =
            line_of({"-M", "pc-i440fx-7.2", "-drive", "if=none,id=d0,file=json:" + object})
                .for_destination(mapping);
        REQUIRE(line);
        auto const allowed = allow(*line, policy());
        if (allowed) return std::string();
        return refusal_error(allowed.error()).what;
    };
    CHECK(reasons_for(R"({"driver":"qcow2",,"file":{"driver":"file",,)"
                      R"("filename":"/srv/vm/d0.qcow2"}})")
              .empty());
    for (auto const& [object, reason] :
         {std::pair(R"({"driver":"raw",,"file":{"driver":"file",,"filename":"/etc/shadow"}})",
                    elsewhere),
          std::pair(R"({"driver":"raw",,"file":{"driver":"nbd",,"host":"h"}})",
                    "the block driver nbd is not known to be safe"),
          std::pair(
              R"({"driver":"qcow2",,"file":{"driver":"file",,"filename":"/srv/vm/d0.qcow2"},,)"
              R"("backing":{"file":{"driver":"file",,"filename":"/etc/shadow"}}})",
              elsewhere),
          std::pair(R"({"driver":"raw",,"file":"node"})", "is not the absolute path of a file"),
          std::pair(R"({"driver":"raw",,"file":{"driver":"file",,"filename":"json:{}"}})",
                    "is not the absolute path of a file")}) {
        INFO(object);
        CHECK(reasons_for(object).find(reason) != std::string::npos);
    }
}

}  // namespace launch_policy_hostile_cases
