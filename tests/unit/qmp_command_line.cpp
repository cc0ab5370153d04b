// QEMU's command line: parsed, printed back byte for byte, and queried.
#include <catch2/catch.hpp>

#include <sstream>

#include "qmp/command_line.hpp"

namespace qmp_command_line_cases {

using namespace qmp;

namespace {

using Words = std::vector<std::string>;

CommandLine line_of(Words words) {
    auto line = CommandLine::parse(std::move(words));
    if (!line) FAIL(line.error().sentence());
    return std::move(*line);
}

// Words separated by spaces, for lines without spaces in them.
CommandLine line_of(std::string const& text) {
    std::istringstream stream(text);
    Words words{"qemu-system-x86_64"};
    for (std::string word; stream >> word;) words.push_back(word);
    return line_of(words);
}

core::Error error_of(Words words) {
    words.insert(words.begin(), "qemu-system-x86_64");
    auto const line = CommandLine::parse(words);
    REQUIRE_FALSE(line);
    return line.error();
}

// What libvirt 11 starts for a guest with one qcow2 disk on UEFI; repetitions are left out.
Words const libvirt_words{
    "/usr/bin/qemu-system-x86_64",
    "-name",
    "guest=web1,debug-threads=on",
    "-S",
    "-object",
    R"({"qom-type":"secret","id":"masterKey0","format":"raw",)"
    R"("file":"/var/lib/libvirt/q/master-key.aes"})",
    "-blockdev",
    R"({"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.fd",)"
    R"("node-name":"libvirt-pflash0-storage","auto-read-only":true,)"
    R"("discard":"unmap"})",
    "-blockdev",
    R"({"node-name":"libvirt-pflash0-format","read-only":true,"driver":"raw",)"
    R"("file":"libvirt-pflash0-storage"})",
    "-machine",
    "pc-q35-7.2,usb=off,dump-guest-core=off,pflash0=libvirt-pflash0-format,memory-backend=pc.ram",
    "-accel",
    "kvm",
    "-cpu",
    "host,migratable=on",
    "-m",
    "size=2097152k",
    "-object",
    R"({"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648})",
    "-overcommit",
    "mem-lock=off",
    "-smp",
    "2,sockets=2,cores=1,threads=1",
    "-uuid",
    "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11",
    "-no-user-config",
    "-nodefaults",
    "-chardev",
    "socket,id=charmonitor,fd=25,server=on,wait=off",
    "-mon",
    "chardev=charmonitor,id=monitor,mode=control",
    "-rtc",
    "base=utc,driftfix=slew",
    "-no-hpet",
    "-no-shutdown",
    "-boot",
    "strict=on",
    "-device",
    R"({"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1",)"
    R"("bus":"pcie.0","multifunction":true,"addr":"0x2"})",
    "-blockdev",
    R"({"driver":"file","filename":"/srv/images/base.qcow2",)"
    R"("node-name":"libvirt-2-storage","auto-read-only":true,)"
    R"("discard":"unmap"})",
    "-blockdev",
    R"({"node-name":"libvirt-2-format","read-only":true,"driver":"qcow2",)"
    R"("file":"libvirt-2-storage","backing":null})",
    "-blockdev",
    R"({"driver":"file","filename":"/srv/images/web1.qcow2",)"
    R"("node-name":"libvirt-1-storage","auto-read-only":true,)"
    R"("discard":"unmap"})",
    "-blockdev",
    R"({"node-name":"libvirt-1-format","read-only":false,"driver":"qcow2",)"
    R"("file":"libvirt-1-storage","backing":"libvirt-2-format"})",
    "-device",
    R"({"driver":"virtio-blk-pci","bus":"pci.3","addr":"0x0",)"
    R"("drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1})",
    "-blockdev",
    R"({"driver":"file","filename":"/srv/iso/debian.iso",)"
    R"("node-name":"libvirt-3-storage","read-only":true})",
    "-blockdev",
    R"({"node-name":"libvirt-3-format","read-only":true,"driver":"raw",)"
    R"("file":"libvirt-3-storage"})",
    "-device",
    R"({"driver":"ide-cd","bus":"ide.0","drive":"libvirt-3-format","id":"sata0-0-0"})",
    "-netdev",
    R"({"type":"tap","fds":"27:28","vhost":true,"vhostfds":"29:30","id":"hostnet0"})",
    "-device",
    R"({"driver":"virtio-net-pci","mq":true,"vectors":6,"netdev":"hostnet0",)"
    R"("id":"net0","mac":"52:54:00:aa:bb:01"})",
    "-chardev",
    "pty,id=charserial0",
    "-device",
    R"({"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0})",
    "-vnc",
    "127.0.0.1:0",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-msg",
    "timestamp=on"};

}  // namespace

TEST_CASE("a command line is printed back byte for byte", "[qmp][command_line]") {
    std::vector<Words> const lines{
        {"qemu-system-x86_64"},
        {"qemu-system-x86_64", "disk.img"},
        {"qemu", "-M", "pc", "--nodefaults", "-S", "--display", "none", "disk.qcow2"},
        {"qemu", "-drive", "file=/srv/a,,b=c.img,if=virtio,,format=raw", "-append",
         "root=/dev/vda, quiet -S", "-kernel", "/boot/vmlinuz"},
        {"qemu", "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device",
         "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01"},
        {"qemu", "-serial", "mon:stdio", "-qmp", "unix:/run/q,server,nowait", "-gdb", "tcp::1234"},
        {"qemu", "-device", "virtio-blk-pci,,odd", "-name", "", "-smp", "4,maxcpus=8,", "-cpu",
         "host,-vmx"},
        {"qemu", "-blockdev", "{ \"driver\": \"file\",  \"filename\": \"/a\" }", "-S", "-S"},
        {"qemu", "-some-option-of-later-years", "value", "-another", "-S"},
        libvirt_words};
    for (auto const& words : lines) CHECK(line_of(words).argv() == words);
}

TEST_CASE("what runs QEMU in its own place is told apart from it", "[qmp][command_line]") {
    Words const words{"taskset", "-c", "0,1", "nice", "/usr/bin/qemu-system-x86_64", "-m", "64"};
    auto const line = line_of(words);
    CHECK(line.wrapper() == Words{"taskset", "-c", "0,1", "nice"});
    CHECK(line.program() == "/usr/bin/qemu-system-x86_64");
    CHECK(line.options().size() == 1);
    CHECK(line.argv() == words);
    CHECK(line.without_wrapper().argv() == Words{words.begin() + 4, words.end()});
    // A QEMU of any name; and a value that is named like one.
    auto const own = line_of(Words{"/opt/my-emulator", "-name", "kvm"});
    CHECK(own.wrapper().empty());
    CHECK(own.program() == "/opt/my-emulator");
    CHECK(line_of("-name qemu-system-x86_64").wrapper().empty());
}

TEST_CASE("a broken command line is reported", "[qmp][command_line]") {
    CHECK(error_of({"-drive"}).what == "QEMU's option -drive needs a value");
    CHECK(error_of({"-blockdev", "{\"driver\":"})
              .what.starts_with("cannot read `-blockdev {\"driver\":`: not valid JSON"));
    auto const empty = CommandLine::parse({});
    REQUIRE_FALSE(empty);
    CHECK(empty.error().code == Errc::invalid);
}

TEST_CASE("values are read as QEMU reads them", "[qmp][option]") {
    auto const read = [](std::string_view text, std::string_view implied) {
        auto settings = Settings::parse(text, implied);
        REQUIRE(settings);
        return std::move(*settings);
    };
    auto drive = read("file=/a,,b.img,format=raw,readonly,cache=none,format=qcow2", "");
    CHECK(drive.get("file") == "/a,b.img");
    CHECK(drive.get("format") == "qcow2");  // the last one wins
    CHECK(drive.flag("readonly", false));
    CHECK_FALSE(drive.get("media"));
    CHECK(drive.print() == "file=/a,,b.img,format=raw,readonly,cache=none,format=qcow2");

    auto socket = read("unix:/run/a,,b.sock,server,nowait", "address");
    CHECK(socket.get("address") == "unix:/run/a,b.sock");
    CHECK(socket.flag("server", false));
    CHECK_FALSE(socket.flag("wait", true));
    socket.set("address", "unix:/c,d");
    CHECK(socket.print() == "unix:/c,,d,server,nowait");
    socket.erase("wait");
    CHECK(socket.print() == "unix:/c,,d,server");
    socket.set("address", "unix:/c=d");  // without its key it would be read as another option
    CHECK(socket.print() == "address=unix:/c=d,server");

    auto json = read(R"({"driver":"qcow2","file":{"driver":"file","filename":"/a"},"n":[{"x":1}]})",
                     "driver");
    CHECK(json.get("file.filename") == "/a");
    CHECK(json.get("n.0.x") == "1");
    CHECK_FALSE(json.get("file"));
    json.set("file.filename", "/b");
    json.set_flag("read-only", true);
    json.erase("n");
    CHECK(json.print() ==
          R"({"driver":"qcow2","file":{"driver":"file","filename":"/b"},"read-only":true})");
}

TEST_CASE("disks of short options", "[qmp][command_line]") {
    auto const line = line_of(
        "-hda /srv/a.img -cdrom /srv/i.iso -drive file=/srv/b.qcow2,format=qcow2,id=d0,if=none "
        "-drive driver=raw,file.driver=file,file.filename=/srv/c.raw,if=virtio,read-only=on "
        "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF.fd -drive if=ide,media=cdrom "
        "-drive file=nbd://h:10809/x,if=virtio last.img");
    auto const disks = line.disks();
    REQUIRE(disks.size() == 7);
    CHECK(disks[0].file_name == "/srv/a.img");
    CHECK(disks[0].format.empty());
    CHECK(disks[1].cdrom);
    CHECK(disks[2].id == "d0");
    CHECK(disks[2].format == "qcow2");
    CHECK(disks[3].file_name == "/srv/c.raw");
    CHECK(disks[3].format == "raw");
    CHECK(disks[3].read_only);
    CHECK(disks[4].firmware);
    CHECK_FALSE(disks[5].local);
    CHECK(disks[6].file_name == "last.img");
    CHECK(disks[6].id == "hda");
}

TEST_CASE("disks of -blockdev and of json: names", "[qmp][command_line]") {
    auto const disks =
        line_of(Words{"qemu", "-blockdev",
                      "driver=qcow2,node-name=q,file.driver=file,file.filename=/srv/q.qcow2",
                      "-drive",
                      R"(file=json:{"driver":"qcow2",,"file":{"driver":"file",,)"
                      R"("filename":"/srv/j.qcow2"}})",
                      "-blockdev", "raw,node-name=r,file=f", "-blockdev",
                      "driver=host_device,node-name=f,filename=/dev/vg/lv"})
            .disks();
    REQUIRE(disks.size() == 3);
    CHECK(disks[0].file_name == "/srv/j.qcow2");
    CHECK(disks[0].format == "qcow2");
    CHECK(disks[0].local);
    CHECK(disks[1].id == "q");
    CHECK(disks[1].format == "qcow2");
    CHECK(disks[2].id == "r");
    CHECK(disks[2].format == "raw");
    CHECK(disks[2].file_name == "/dev/vg/lv");
}

TEST_CASE("the guest agent's socket", "[qmp][command_line]") {
    std::string const port = " -device virtserialport,chardev=c0,name=org.qemu.guest_agent.0";
    auto const socket = [&](std::string const& chardev) {
        return line_of("-device virtio-serial-pci -chardev " + chardev + port).guest_agent_socket();
    };
    CHECK(socket("socket,id=c0,path=/run/ga.sock,server=on,wait=off") == "/run/ga.sock");
    CHECK(socket("socket,id=c0,path=ga.sock,server,nowait") == "ga.sock");
    CHECK(line_of(Words{"qemu", "-chardev", "socket,id=c0,path=/x/ga,server=yes", "-device",
                        R"({"driver":"virtserialport","chardev":"c0","id":"channel0",)"
                        R"("name":"org.qemu.guest_agent.0"})"})
              .guest_agent_socket() == "/x/ga");
    CHECK(socket("socket,id=c0,path=/run/ga.sock").empty());  // QEMU is the client
    CHECK(socket("socket,id=c0,fd=25,server=on,wait=off").empty());
    CHECK(socket("socket,id=other,path=/run/ga.sock,server=on").empty());
    CHECK(socket("pty,id=c0").empty());
    CHECK(line_of("-chardev socket,id=c0,path=/run/x,server=on "
                  "-device virtserialport,chardev=c0,name=org.example.0")
              .guest_agent_socket()
              .empty());
}

TEST_CASE("a command line of libvirt is understood", "[qmp][command_line]") {
    auto const line = line_of(libvirt_words);
    auto const disks = line.disks();
    REQUIRE(disks.size() == 4);
    CHECK(disks[0].firmware);
    CHECK(disks[0].id == "libvirt-pflash0-format");
    CHECK(disks[1].backing);
    CHECK(disks[2].id == "libvirt-1-format");
    CHECK(disks[2].file_name == "/srv/images/web1.qcow2");
    CHECK(disks[2].format == "qcow2");
    CHECK_FALSE(disks[2].read_only);
    CHECK_FALSE(disks[2].backing);
    CHECK(disks[3].cdrom);
    CHECK(disks[3].read_only);

    auto const taps = line.taps();
    REQUIRE(taps.size() == 1);
    CHECK(taps[0].id == "hostnet0");
    CHECK(taps[0].fds == std::vector<int>{27, 28});
    CHECK(taps[0].queues == 2);
    CHECK(taps[0].vhost);
    CHECK(taps[0].macs == Words{"52:54:00:aa:bb:01"});

    CHECK(line.stopped_at_start());
    CHECK(line.guest_name() == "web1");
    CHECK(line.uuid() == "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11");
    CHECK(line.machine_type() == "pc-q35-7.2");
    CHECK(line.accelerator() == "kvm");
    CHECK(line.qmp_socket().empty());  // by descriptor only
    REQUIRE(line.files().size() == 1);
    CHECK(line.files()[0].path == "/var/lib/libvirt/q/master-key.aes");
}

TEST_CASE("taps of every form", "[qmp][command_line]") {
    auto const taps = line_of(
                          "-netdev tap,id=n0,ifname=t0,script=no,downscript=no,vhost=on,queues=4 "
                          "-device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01 "
                          "-device e1000,netdev=n0,mac=52:54:00:00:00:02 -netdev user,id=u0 "
                          "-nic tap,ifname=t1,mac=52:54:00:00:00:03,model=e1000 "
                          "-netdev bridge,id=n2,br=virbr0 -net nic,macaddr=52:54:00:00:00:04 "
                          "-net tap,ifname=t3,vnet_hdr=off -netdev tap,id=n4,fd=17")
                          .taps();
    REQUIRE(taps.size() == 5);
    CHECK(taps[0].id == "n0");
    CHECK(taps[0].ifname == "t0");
    CHECK(taps[0].queues == 4);
    CHECK(taps[0].vhost);
    CHECK(taps[0].script == "no");
    CHECK(taps[0].macs == Words{"52:54:00:00:00:01", "52:54:00:00:00:02"});
    CHECK(taps[1].id == "#nic2");
    CHECK(taps[1].ifname == "t1");
    CHECK(taps[1].macs == Words{"52:54:00:00:00:03"});
    CHECK(taps[2].bridge == "virbr0");
    CHECK(taps[3].ifname == "t3");
    CHECK_FALSE(taps[3].vnet_hdr);
    CHECK(taps[3].macs == Words{"52:54:00:00:00:04"});
    CHECK(taps[4].fds == std::vector<int>{17});
}

TEST_CASE("monitors, sockets and files", "[qmp][command_line]") {
    CHECK(
        line_of("-qmp tcp:localhost:4444 -qmp unix:/run/q.sock,server=on,wait=off").qmp_socket() ==
        "/run/q.sock");
    auto const line = line_of(
        "-chardev socket,id=m,path=/run/m.sock,server=on,wait=off -mon chardev=m,mode=control "
        "-serial unix:/run/s.sock,server -monitor mon:unix:/run/h.sock,server -vnc unix:/run/v "
        "-kernel /boot/k -initrd /boot/i -bios b.bin -device e1000,romfile= -pidfile /run/p "
        "-netdev stream,id=n,addr.type=unix,addr.path=/run/n.sock,server=off -M q35,accel=kvm:tcg "
        "-incoming defer -daemonize -name guest=a -name process=b");
    CHECK(line.qmp_socket() == "/run/m.sock");
    Words paths;
    for (auto const& socket : line.sockets()) paths.push_back(socket.path);
    CHECK(paths == Words{"/run/m.sock", "/run/s.sock", "/run/h.sock", "/run/v", "/run/n.sock"});
    paths.clear();
    for (auto const& file : line.files()) paths.push_back(file.path);
    CHECK(paths == Words{"/boot/k", "/boot/i", "b.bin"});
    CHECK(line.pidfile() == "/run/p");
    CHECK(line.machine_type() == "q35");
    CHECK(line.accelerator() == "kvm");
    CHECK(line.incoming() == "defer");
    CHECK(line.daemonize());
    CHECK(line.guest_name() == "a");
    CHECK_FALSE(line.stopped_at_start());
}

TEST_CASE("a TPM, and its socket apart from the others", "[qmp][command_line][tpm]") {
    auto const line = line_of(
        "-chardev socket,id=c,path=/run/swtpm.sock -tpmdev emulator,id=t,chardev=c "
        "-device tpm-tis,tpmdev=t -serial unix:/run/s.sock,server");
    auto const tpm = line.tpm();
    REQUIRE(tpm);
    CHECK(tpm->type == "emulator");
    CHECK(tpm->chardev == "c");
    CHECK(tpm->socket == "/run/swtpm.sock");
    REQUIRE(line.sockets().size() == 1);
    CHECK(line.sockets()[0].path == "/run/s.sock");
    CHECK(line_of("-tpmdev passthrough,id=t,path=/dev/tpm0").tpm()->type == "passthrough");
    CHECK_FALSE(line_of("-M pc").tpm());
}

}  // namespace qmp_command_line_cases
