// How sidecar rewrites a command line to launch it, and for the destination.
#include <catch2/catch.hpp>

#include <algorithm>
#include <sstream>

#include "qmp/command_line.hpp"

namespace qmp_rewrite_cases {

using namespace qmp;

namespace {

using Words = std::vector<std::string>;

Words words_of(std::string const& text) {
    std::istringstream stream(text);
    Words words{"qemu-system-x86_64"};
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}

CommandLine line_of(Words const& words) {
    auto line = CommandLine::parse(words);
    REQUIRE(line);
    return std::move(*line);
}
CommandLine line_of(std::string const& text) { return line_of(words_of(text)); }

std::string joined(Result<CommandLine> const& line) {
    if (!line) FAIL(line.error().sentence());
    std::string text;
    for (auto const& word : line->argv()) text += (text.empty() ? "" : " ") + word;
    return text;
}

Mapping mapping() {
    Mapping mapping;
    mapping.machine_type = "pc-i440fx-7.2";
    mapping.qmp_fd = 3;
    return mapping;
}

constexpr auto monitor =
    " -chardev socket,id=sidecar-qmp,fd=3,server=on,wait=off -mon chardev=sidecar-qmp,mode=control";
constexpr auto waiting = " -S -incoming defer";

std::string at_destination(std::string const& options, Mapping const& map) {
    auto text = joined(line_of(options).for_destination(map));
    REQUIRE(text.ends_with(waiting));
    text.resize(text.size() - std::string_view(waiting).size());
    REQUIRE(text.ends_with(monitor));
    text.resize(text.size() - std::string_view(monitor).size());
    return text;
}

}  // namespace

TEST_CASE("a launch adds a monitor and gives taps by descriptor", "[qmp][rewrite]") {
    auto const line = line_of(
        "-M pc -netdev tap,id=n0,ifname=t0,script=/etc/up,downscript=no,vnet_hdr=on,sndbuf=0 "
        "-nic tap,ifname=t1,model=e1000,mac=52:54:00:00:00:03 "
        "-netdev tap,id=n2,ifname=t2,queues=2,vhost=on,script=no -netdev user,id=u "
        "-netdev bridge,id=n3,br=virbr0,helper=/usr/lib/qemu/qemu-bridge-helper");
    auto const launched =
        line.for_launch({3, {{"n0", {4}}, {"#nic1", {5}}, {"n2", {6, 7}}, {"n3", {8}}}});
    CHECK(joined(launched) ==
          "qemu-system-x86_64 -M pc -netdev tap,id=n0,sndbuf=0,fd=4 "
          "-nic tap,model=e1000,mac=52:54:00:00:00:03,fd=5 "
          "-netdev tap,id=n2,vhost=on,fds=6:7 -netdev user,id=u -netdev tap,id=n3,fd=8" +
              std::string(monitor));
    // A tap without descriptors of ours is left to QEMU.
    CHECK(joined(line_of("-netdev tap,id=n0,ifname=t0").for_launch({3, {}})) ==
          "qemu-system-x86_64 -netdev tap,id=n0,ifname=t0" + std::string(monitor));
}

TEST_CASE("a launch refuses what it cannot follow", "[qmp][rewrite]") {
    auto const refusal = [](std::string const& options, LaunchOptions const& launch) {
        auto const line = line_of(options).for_launch(launch);
        REQUIRE_FALSE(line);
        CHECK(line.error().code == Errc::invalid);
        return line.error().what;
    };
    CHECK(refusal("-daemonize", {3, {}}).starts_with("leave out -daemonize"));
    CHECK(refusal("-incoming tcp::4444", {3, {}}).starts_with("leave out -incoming"));
    CHECK(refusal("-netdev tap,id=n0,fd=9", {3, {}}).find("name it (ifname=)") !=
          std::string::npos);
    CHECK(refusal("-netdev tap,id=n0,ifname=t0,queues=2", {3, {{"n0", {4}}}}) ==
          "the tap `-netdev tap,id=n0,ifname=t0,queues=2` has 2 queues, but was opened with 1");
    CHECK(refusal("-M pc", {3, {{"n0", {4}}}}) == "the command line has no tap `n0`");
}

TEST_CASE("the destination waits for the migration", "[qmp][rewrite]") {
    CHECK(at_destination("-M pc -S -daemonize -loadvm s1 -incoming tcp::1 -m 1G", mapping()) ==
          "qemu-system-x86_64 -M pc-i440fx-7.2 -m 1G");
    CHECK(at_destination("-m 1G", mapping()) ==
          "qemu-system-x86_64 -m 1G -machine type=pc-i440fx-7.2");
    CHECK(at_destination("-machine accel=tcg -M type=pc,usb=off", mapping()) ==
          "qemu-system-x86_64 -machine accel=tcg -M type=pc-i440fx-7.2,usb=off");
    auto map = mapping();
    map.qemu = "/opt/qemu/bin/qemu-system-x86_64";
    CHECK(at_destination("-M pc-i440fx-7.2", map) ==
          "/opt/qemu/bin/qemu-system-x86_64 -M pc-i440fx-7.2");
    // The line does not grow when the guest moves back and forth: the old monitor is replaced.
    auto const once = line_of("-M pc").for_destination(mapping());
    REQUIRE(once);
    CHECK(joined(once->for_destination(mapping())) == joined(once));
    auto nothing = mapping();
    nothing.machine_type.clear();
    CHECK_FALSE(line_of("-M pc").for_destination(nothing));
}

TEST_CASE("every path is mapped, and nothing else", "[qmp][rewrite]") {
    auto map = mapping();
    map.prefixes = {{"/srv", "/data"}, {"/srv/fast/", "/nvme"}, {"/run/a", "/run/b"}};
    map.images = {{"/srv/special.qcow2", "/elsewhere/s,1.qcow2"}};
    map.working_directory = "/srv/guest";
    CHECK(at_destination(
              "-M pc-i440fx-7.2 -drive file=/srv/a,,1.img,format=raw,if=virtio -hda d.img "
              "-drive file=/srv/special.qcow2,id=s -blockdev "
              "driver=file,filename=/srv/fast/x,node-name=f "
              "-blockdev raw,file=f,node-name=r -kernel /srvx/k -initrd initrd.gz -bios bios.bin "
              "-serial unix:/run/a/s.sock,server=on -serial file:log/out.txt -pidfile /run/a/p -D "
              "q.log "
              "-chardev file,id=c,path=c.log,logfile=/srv/l -qmp unix:/run/a/q,server=on "
              "-monitor mon:unix:/run/a/m,server -vnc unix:/run/a/v -smbios type=1,serial=/srv/no "
              "-append /srv/guest -name /srv/name -object "
              "memory-backend-file,id=m,mem-path=/srv/m,size=1G "
              "-drive file=nbd:unix:/run/a/n,if=none -fw_cfg name=opt/x,string=/srv/s "
              "-fw_cfg name=opt/y,file=y.bin",
              map) ==
          "qemu-system-x86_64 -M pc-i440fx-7.2 -drive file=/data/a,,1.img,format=raw,if=virtio "
          "-hda /data/guest/d.img -drive file=/elsewhere/s,,1.qcow2,id=s "
          "-blockdev driver=file,filename=/nvme/x,node-name=f -blockdev raw,file=f,node-name=r "
          "-kernel /srvx/k -initrd /data/guest/initrd.gz -bios bios.bin "
          "-serial unix:/run/b/s.sock,server=on -serial file:/data/guest/log/out.txt -pidfile "
          "/run/b/p "
          "-D /data/guest/q.log -chardev file,id=c,path=/data/guest/c.log,logfile=/data/l "
          "-qmp unix:/run/b/q,server=on -monitor mon:unix:/run/b/m,server -vnc unix:/run/b/v "
          "-smbios type=1,serial=/srv/no -append /srv/guest -name /srv/name "
          "-object memory-backend-file,id=m,mem-path=/data/m,size=1G -drive "
          "file=nbd:unix:/run/a/n,if=none "
          "-fw_cfg name=opt/x,string=/srv/s -fw_cfg name=opt/y,file=/data/guest/y.bin");

    auto const json = line_of(
        {"qemu", "-blockdev",
         R"({"driver":"qcow2","node-name":"q","file":{"driver":"file",)"
         R"("filename":"/srv/q.qcow2","x":1}})",
         "-drive",
         R"(file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"r.img"}},if=none)"});
    auto const words = json.for_destination(map)->argv();
    CHECK(words[2] == R"({"driver":"qcow2","node-name":"q","file":{"driver":"file",)"
                      R"("filename":"/data/q.qcow2","x":1}})");
    CHECK(words[4] == "if=none,driver=raw,file.driver=file,file.filename=/data/guest/r.img");
}

TEST_CASE("taps at the destination are ours, or it is refused", "[qmp][rewrite]") {
    auto map = mapping();
    map.taps = {{"hostnet0", {4, 5}}};
    Words const words{
        "qemu", "-netdev",
        R"({"type":"tap","fds":"27:28","vhost":true,"vhostfds":"29:30","id":"hostnet0"})"};
    auto const line = line_of(words).for_destination(map);
    REQUIRE(line);
    CHECK(line->argv()[2] == R"({"type":"tap","vhost":true,"id":"hostnet0","fds":"4:5"})");
    map.taps.clear();
    auto const without = line_of(words).for_destination(map);
    REQUIRE_FALSE(without);
    CHECK(without.error().code == Errc::refused);
    CHECK_FALSE(line_of("-netdev tap,id=n0,ifname=t0").for_destination(map));
}

TEST_CASE("what cannot be made again is refused", "[qmp][rewrite]") {
    for (auto const* options :
         {"-snapshot", "-drive file=/a,snapshot=on", "-readconfig /etc/q.cfg", "-add-fd set=1,fd=9",
          "-chardev socket,id=c,fd=9 -device virtio-serial -serial chardev:c",
          "-drive file=/dev/fdset/1", "-device vhost-scsi-pci,vhostfd=9",
          "-virtfs proxy,sock_fd=4"}) {
        INFO(options);
        auto const line = line_of(options).for_destination(mapping());
        REQUIRE_FALSE(line);
        CHECK(line.error().code == Errc::refused);
        CHECK(line.error().what.size() > 20);
    }
    // libvirt's monitor is left out, even if it is passed by descriptor.
    CHECK(at_destination("-M pc-i440fx-7.2 -chardev socket,id=m,fd=25,server=on,wait=off "
                         "-mon chardev=m,id=monitor,mode=control",
                         mapping()) == "qemu-system-x86_64 -M pc-i440fx-7.2");
}

TEST_CASE("layers above a base become one", "[qmp][rewrite]") {
    auto const flattened = [](std::string const& options, unsigned layers) {
        auto line = line_of(options);
        REQUIRE(line.flatten({{"d0", "top", "/t", layers}}, "/"));
        return joined(line);
    };
    std::string const program = "qemu-system-x86_64 ";
    std::string const base =
        "-blockdev driver=file,node-name=bf,filename=/b -blockdev driver=raw,node-name=b,file=bf";
    std::string const middle =
        " -blockdev driver=file,node-name=mf,filename=/m"
        " -blockdev driver=qcow2,node-name=m,file=mf,backing=b";
    std::string const top =
        " -blockdev driver=qcow2,node-name=top,file.driver=file,file.filename=/t,backing=";
    CHECK(flattened(base + middle + top + "m", 2) == program + base + top + "b");
    // Nothing to do, or nothing that can be done here: the images themselves name their base.
    for (auto const& [options, layers] :
         {std::pair{base + top + "b", 1u}, std::pair{base + middle + top + "m", 3u},
          std::pair{std::string("-drive file=/t,id=top"), 2u},
          std::pair{std::string("-blockdev driver=qcow2,node-name=top,file.filename=/t"), 2u}}) {
        CHECK(flattened(options, layers) == program + options);
    }
    CHECK(flattened(R"(-blockdev {"driver":"raw","node-name":"b","file":"bf"} )"
                    R"(-blockdev {"driver":"qcow2","node-name":"m","file":{"driver":"file",)"
                    R"("filename":"/m"},"backing":"b"} )"
                    R"(-blockdev {"driver":"qcow2","node-name":"top","file":"tf","backing":"m"})",
                    2) ==
          program + R"(-blockdev {"driver":"raw","node-name":"b","file":"bf"} )"
                    R"(-blockdev {"driver":"qcow2","node-name":"top","file":"tf","backing":"b"})");
}

namespace {

std::string const program_words = "qemu-system-x86_64 ";
std::string const chain_nodes =
    "-blockdev driver=file,node-name=bf,filename=/b -blockdev driver=raw,node-name=b,file=bf"
    " -blockdev driver=file,node-name=mf,filename=/m"
    " -blockdev driver=qcow2,node-name=m,file=mf,backing=b";

/// The line without the chain, or why it is refused.
std::string as_one_image(std::string const& options, ImageChain const& chain) {
    auto line = line_of(options);
    auto const flattened = line.flatten({chain}, "/work");
    if (flattened) return joined(line);
    CHECK(flattened.error().code == Errc::refused);
    return flattened.error().what;
}

}  // namespace

TEST_CASE("a whole chain becomes one, however it is written", "[qmp][rewrite]") {
    ImageChain const by_node{"d0", "top", "/t"};
    ImageChain const by_file{"d0", "#block123", "/work/t"};
    std::string const top = " -blockdev driver=qcow2,node-name=top,file.filename=/t,backing=m";
    CHECK(as_one_image(chain_nodes + top, by_node) ==
          program_words + "-blockdev driver=qcow2,node-name=top,file.filename=/t");
    // Nodes inside another option; the name of a file from QEMU's directory.
    CHECK(as_one_image(R"(-blockdev {"driver":"throttle","node-name":"t","file":{"driver":"qcow2",)"
                       R"("file":{"driver":"file","filename":"t"},"backing":{"driver":"raw",)"
                       R"("file":{"driver":"file","filename":"/b"}}}})",
                       by_file) ==
          program_words +
              R"(-blockdev {"driver":"throttle","node-name":"t","file":{"driver":"qcow2",)"
              R"("file":{"driver":"file","filename":"t"}}})");
    CHECK(as_one_image("-drive file=t,id=x,backing.driver=raw,backing.file.filename=/b", by_file) ==
          program_words + "-drive file=t,id=x");
    CHECK(as_one_image(chain_nodes + " -drive file=t,id=x,format=qcow2,backing=m", by_file) ==
          program_words + "-drive file=t,id=x,format=qcow2");
    // A filter in the chain.
    CHECK(as_one_image("-blockdev driver=copy-on-read,node-name=m,file=b "
                       "-blockdev driver=raw,node-name=b,file.filename=/b" +
                           top,
                       by_node) ==
          program_words + "-blockdev driver=qcow2,node-name=top,file.filename=/t");
    // Nothing is below it.
    for (std::string const options :
         {"-drive file=t,id=x", "-hda t",
          R"(-blockdev {"driver":"qcow2","node-name":"top","file":"tf","backing":null})"}) {
        CHECK(as_one_image(options, by_node) == program_words + options);
    }
}

TEST_CASE("a chain is not taken apart if a node of it is used elsewhere", "[qmp][rewrite]") {
    std::string const top = " -blockdev driver=qcow2,node-name=top,file.filename=/t,backing=m";
    for (std::string const user :
         {"-device virtio-blk-pci,drive=b", "-blockdev driver=raw,node-name=r,file=mf",
          "-blockdev driver=qcow2,node-name=o,file.filename=/o,backing=b",
          "-drive file=/o,backing=b", "-global isa-fdc.driveA=b", "-machine pflash0=b"}) {
        INFO(user);
        auto const why = as_one_image(chain_nodes + top + " " + user, {"d0", "top", "/t"});
        CHECK(why.find("in the backing chain of disk d0") != std::string::npos);
        CHECK(why.find("`" + user + "` uses it too") != std::string::npos);
    }
    // Of two disks that share a base, both become one image.
    auto line = line_of(chain_nodes + top +
                        " -blockdev driver=qcow2,node-name=o,file.filename=/o,backing=b");
    REQUIRE(line.flatten({{"d0", "top", "/t"}, {"d1", "o", "/o"}}, "/"));
    CHECK(joined(line) == program_words +
                              "-blockdev driver=qcow2,node-name=top,file.filename=/t "
                              "-blockdev driver=qcow2,node-name=o,file.filename=/o");
    // A node inside another option has no life of its own.
    auto const inside = as_one_image(
        "-blockdev driver=throttle,node-name=t,file.driver=raw,file.node-name=m,"
        "file.file.filename=/b" +
            top,
        {"d0", "top", "/t"});
    CHECK(inside.find("the node m is in the backing chain") != std::string::npos);
}

TEST_CASE("a -drive by JSON reads as its keys do", "[qmp][rewrite]") {
    auto const rewritten = [](std::string const& options) {
        auto const line = line_of(options).for_destination(mapping());
        REQUIRE(line);
        return joined(*line);
    };
    auto const written_out =
        rewritten(R"(-M pc -drive id=d0,file=json:{"driver":"qcow2",,"read-only":true,,)"
                  R"("file":{"driver":"file",,"filename":"/srv/a.qcow2"}})");
    CHECK(written_out.find("json:") == std::string::npos);
    CHECK(written_out.find("id=d0,driver=qcow2,read-only=true,file.driver=file,"
                           "file.filename=") != std::string::npos);
    // What stands outside of the object counts.
    auto const both = rewritten(R"(-M pc -drive format=raw,file=json:{"driver":"qcow2",,)"
                                R"("file":{"driver":"file",,"filename":"/srv/a"}})");
    CHECK(both.find("-drive format=raw,file.driver=file,file.filename=") != std::string::npos);
    auto const disks =
        line_of(R"(-drive id=d0,file=json:{"driver":"throttle",,"throttle-group":"g0",,"file":)"
                R"({"driver":"raw",,"file":{"driver":"file",,"filename":"/srv/a"}}})")
            .disks();
    REQUIRE(disks.size() == 1);
    CHECK(disks[0].id == "d0");
    CHECK(disks[0].format == "raw");
    CHECK(disks[0].file_name == "/srv/a");
    CHECK(disks[0].local);
}

TEST_CASE("an image below several nodes of one option is found", "[qmp]") {
    auto const disks = line_of(
                           "-blockdev driver=copy-on-read,node-name=c0,read-only=on,"
                           "file.driver=throttle,file.throttle-group=g0,file.file.driver=raw,"
                           "file.file.file.driver=file,file.file.file.filename=/srv/a")
                           .disks();
    REQUIRE(disks.size() == 1);
    CHECK(disks[0].id == "c0");
    CHECK(disks[0].format == "raw");
    CHECK(disks[0].read_only);
    CHECK_FALSE(disks[0].backing);
}

namespace {

/// The image of the disk is a device of another size than the disk at the destination.
Mapping to_device(std::string const& from, std::uint64_t size_bytes = 0) {
    auto map = mapping();
    map.images = {{from, "/dev/vg/lv", ImagePlace::Kind::device, size_bytes}};
    return map;
}

std::string on_device(std::string const& options, std::uint64_t size_bytes = 0) {
    auto const line =
        at_destination("-M pc-i440fx-7.2 " + options, to_device("/srv/d0", size_bytes));
    return line.substr(line.find("7.2 ") + 4);
}

bool refused_on_device(std::string const& options, std::uint64_t size_bytes = 0) {
    auto const line =
        line_of("-M pc-i440fx-7.2 " + options).for_destination(to_device("/srv/d0", size_bytes));
    return !line && line.error().code == core::Errc::refused &&
           line.error().what.find("/dev/vg/lv") != std::string::npos;
}

}  // namespace

TEST_CASE("the image of a disk becomes a block device", "[qmp][rewrite][device]") {
    // Without a format QEMU would look at what is on the device.
    CHECK(on_device("-drive file=/srv/d0,if=none,id=d") ==
          "-drive file=/dev/vg/lv,if=none,id=d,format=raw");
    CHECK(on_device("-drive file=file:/srv/./d0,format=raw") ==
          "-drive file=/dev/vg/lv,format=raw");
    CHECK(on_device("-drive file=/srv/d0,format=raw", 4096) ==
          "-drive file=/dev/vg/lv,format=raw,size=4096");
    CHECK(on_device("-drive file=/srv/d0,format=raw,size=512", 4096) ==
          "-drive file=/dev/vg/lv,format=raw,size=4096");
    CHECK(on_device("-drive driver=raw,file.driver=file,file.filename=/srv/d0,if=none", 4096) ==
          "-drive driver=raw,file.driver=host_device,file.filename=/dev/vg/lv,if=none,size=4096");
    CHECK(on_device("-hdb /srv/d0") == "-drive index=1,media=disk,file=/dev/vg/lv,format=raw");
    CHECK(on_device("-blockdev driver=file,filename=/srv/d0,node-name=f "
                    "-blockdev driver=raw,file=f,node-name=r") ==
          "-blockdev driver=host_device,filename=/dev/vg/lv,node-name=f "
          "-blockdev driver=raw,file=f,node-name=r");
    CHECK(on_device("-blockdev driver=file,filename=/srv/d0,node-name=f "
                    "-blockdev driver=raw,file=f,node-name=r",
                    4096) ==
          "-blockdev driver=host_device,filename=/dev/vg/lv,node-name=f "
          "-blockdev driver=raw,file=f,node-name=r,size=4096");
    CHECK(on_device("-blockdev driver=raw,node-name=r,file.driver=file,file.filename=/srv/d0",
                    4096) ==
          "-blockdev driver=raw,node-name=r,file.driver=host_device,"
          "file.filename=/dev/vg/lv,size=4096");
    auto const json = on_device(R"(-blockdev {"driver":"raw","node-name":"r",)"
                                R"("file":{"driver":"file","filename":"/srv/d0"}})",
                                4096);
    auto const settings = Settings::parse(std::string_view(json).substr(10), "");
    REQUIRE(settings);
    CHECK(settings->get("file.driver") == "host_device");
    CHECK(settings->get("file.filename") == "/dev/vg/lv");
    CHECK(settings->get("size") == "4096");
    CHECK(json.find("\"4096\"") == std::string::npos);  // QEMU wants a number
    CHECK(on_device(R"(-drive file=json:{"driver":"raw",,"file":{"driver":"file",,)"
                    R"("filename":"/srv/d0"}})",
                    4096) ==
          "-drive driver=raw,file.driver=host_device,file.filename=/dev/vg/lv,size=4096");
    // Another image stays a file.
    CHECK(on_device("-drive file=/srv/d00,format=raw") == "-drive file=/srv/d00,format=raw");
}

TEST_CASE("an option that cannot name a block device is refused", "[qmp][rewrite][device]") {
    CHECK(refused_on_device("-pflash /srv/d0"));
    CHECK(refused_on_device("-sd /srv/d0"));
    CHECK(refused_on_device("-blockdev driver=file,filename=/srv/d0,node-name=f", 4096));
    CHECK(refused_on_device("-drive file=/srv/d0,format=qcow2", 4096));
    CHECK(refused_on_device(
        "-drive driver=throttle,throttle-group=t,file.driver=file,file.filename=/srv/d0", 4096));
}

TEST_CASE("the image of a disk becomes a file again", "[qmp][rewrite][device]") {
    auto map = mapping();
    map.images = {{"/dev/vg/lv", "/srv/d0"}};
    CHECK(at_destination("-M pc-i440fx-7.2 -drive file=/dev/vg/lv,format=raw,size=4096", map) ==
          "qemu-system-x86_64 -M pc-i440fx-7.2 -drive file=/srv/d0,format=raw,size=4096");
    CHECK(at_destination("-M pc-i440fx-7.2 -blockdev driver=host_device,filename=/dev/vg/lv,"
                         "node-name=f -blockdev driver=raw,file=f,node-name=r",
                         map) ==
          "qemu-system-x86_64 -M pc-i440fx-7.2 -blockdev driver=file,filename=/srv/d0,node-name=f "
          "-blockdev driver=raw,file=f,node-name=r");
}

TEST_CASE("for a destination the TPM's socket becomes a descriptor", "[qmp][rewrite][tpm]") {
    auto map = mapping();
    map.tpm_fd = 7;
    map.prefixes = {{"/run", "/data"}};
    auto const tpm = std::string(" -tpmdev emulator,id=t,chardev=c -device tpm-crb,tpmdev=t");
    CHECK(at_destination("-M pc-i440fx-7.2 -chardev "
                         "socket,id=c,path=/run/swtpm.sock,server=off,reconnect=1,logfile=/run/l" +
                             tpm,
                         map) ==
          "qemu-system-x86_64 -M pc-i440fx-7.2 -chardev socket,id=c,logfile=/data/l,fd=7" + tpm);
    // As it came here from another host.
    auto const again = at_destination("-M pc-i440fx-7.2 -chardev socket,id=c,fd=4" + tpm, map);
    CHECK(again.find("socket,id=c,fd=7 ") != std::string::npos);
    auto const other = line_of("-M pc -chardev pty,id=c" + tpm).for_destination(map);
    REQUIRE_FALSE(other);
    CHECK(other.error().code == core::Errc::refused);
    CHECK(other.error().sentence().find("is not a Unix socket of swtpm") != std::string::npos);
    CHECK_FALSE(line_of("-M pc" + tpm).for_destination(map));
    // Only the TPM's may be given by descriptor.
    CHECK_FALSE(
        line_of("-M pc -chardev socket,id=d,fd=4 -serial chardev:d" + tpm).for_destination(map));
}

}  // namespace qmp_rewrite_cases
