// The command line of a libvirt guest, without what is libvirt's own: qmp/libvirt_line.cpp.
#include <catch2/catch.hpp>

#include <algorithm>

#include "qmp/launch.hpp"
#include "qmp/launch_policy.hpp"

namespace libvirt_line_cases {

using namespace qmp;

namespace {

using Words = std::vector<std::string>;

// What libvirt 9.0 of Debian 12 started; its nine other devices on PCI ports are left out.
Words const web1{
    "/usr/bin/qemu-system-x86_64",
    "-name",
    "guest=web1,debug-threads=on",
    "-S",
    "-object",
    R"({"qom-type":"secret","id":"masterKey0","format":"raw",)"
    R"("file":"/var/lib/libvirt/qemu/domain-1-web1/master-key.aes"})",
    "-machine",
    "pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram",
    "-accel",
    "tcg",
    "-cpu",
    "qemu64",
    "-m",
    "64",
    "-object",
    R"({"qom-type":"memory-backend-ram","id":"pc.ram","size":67108864})",
    "-overcommit",
    "mem-lock=off",
    "-smp",
    "1,sockets=1,cores=1,threads=1",
    "-uuid",
    "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11",
    "-no-user-config",
    "-nodefaults",
    "-chardev",
    "socket,id=charmonitor,fd=22,server=on,wait=off",
    "-mon",
    "chardev=charmonitor,id=monitor,mode=control",
    "-rtc",
    "base=utc",
    "-no-shutdown",
    "-boot",
    "strict=on",
    "-device",
    R"({"driver":"virtio-serial-pci","id":"virtio-serial0"})",
    "-blockdev",
    R"({"driver":"file","filename":"/srv/vm/d0.qcow2","node-name":"libvirt-1-storage",)"
    R"("auto-read-only":true,"discard":"unmap"})",
    "-blockdev",
    R"({"node-name":"libvirt-1-format","read-only":false,"discard":"unmap","driver":"qcow2",)"
    R"("file":"libvirt-1-storage"})",
    "-device",
    R"({"driver":"virtio-blk-pci","drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1})",
    "-netdev",
    R"({"type":"tap","fd":"23","vhost":true,"vhostfd":"24","id":"hostnet0"})",
    "-device",
    R"({"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:10:00:10"})",
    "-add-fd",
    "set=0,fd=20,opaque=serial0-log",
    "-chardev",
    "pty,id=charserial0,logfile=/dev/fdset/0,logappend=on",
    "-device",
    R"({"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":2})",
    "-add-fd",
    "set=1,fd=21,opaque=serial1-source",
    "-chardev",
    "file,id=charserial1,path=/dev/fdset/1,append=on",
    "-device",
    R"({"driver":"isa-serial","chardev":"charserial1","id":"serial1","index":1})",
    "-chardev",
    "socket,id=charchannel0,fd=19,server=on,wait=off",
    "-device",
    R"({"driver":"virtserialport","chardev":"charchannel0","id":"channel0",)"
    R"("name":"org.qemu.guest_agent.0"})",
    "-audiodev",
    R"({"id":"audio1","driver":"none"})",
    "-vnc",
    "127.0.0.1:0,audiodev=audio1",
    "-object",
    R"({"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"})",
    "-device",
    R"({"driver":"virtio-rng-pci","rng":"objrng0","id":"rng0"})",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-msg",
    "timestamp=on"};

CommandLine line_of(Words const& words) {
    auto line = CommandLine::parse(words);
    if (!line) FAIL(line.error().sentence());
    return std::move(*line);
}

PlainLine plain(Words const& words, std::string const& user = "libvirt-qemu") {
    auto made = line_of(words).without_libvirt(user);
    if (!made) FAIL(made.error().sentence());
    return std::move(*made);
}

bool has(CommandLine const& line, std::string const& word) {
    auto const argv = line.argv();
    return std::ranges::find(argv, word) != argv.end();
}

Words without_secret(Words words) {
    std::erase_if(words, [](auto const& word) { return word.contains("masterKey0"); });
    return words;
}

}  // namespace

TEST_CASE("libvirt's own words are left out of a command line, and nothing else",
          "[qmp][libvirt]") {
    auto const made = plain(web1);
    auto const argv = made.line.argv();
    CHECK(argv.size() == web1.size() - 2 - 2 - 2 - 1 + 2);
    CHECK(has(made.line, "pty,id=charserial0"));
    CHECK(has(made.line, "null,id=charserial1"));
    CHECK(made.line.user() == "libvirt-qemu");
    CHECK(has(made.line, "on,obsolete=deny,spawn=deny,resourcecontrol=deny"));
    REQUIRE(made.lost.size() == 2);
    CHECK(made.lost[0].contains("charserial0"));
    CHECK(made.lost[1].contains("charserial1"));
    // What all guests have is dealt with at the destination.
    for (auto const* const word : {"-S", "socket,id=charmonitor,fd=22,server=on,wait=off",
                                   "socket,id=charchannel0,fd=19,server=on,wait=off"}) {
        CHECK(has(made.line, word));
    }
    CHECK(made.line.inherited_sockets() == Words{"charchannel0"});
    CHECK(plain(web1, "").line.user().empty());
    // A second time there is nothing to do.
    CHECK(plain(argv).line.argv() == argv);
    CHECK(plain(argv).lost.empty());
}

TEST_CASE("a destination runs the command line of a libvirt guest", "[qmp][libvirt]") {
    auto const line = plain(web1).line;
    Mapping mapping;
    mapping.machine_type = "pc-q35-7.2";
    mapping.qmp_fd = qmp_fd_in_qemu;
    mapping.taps = {{"hostnet0", {4}}};
    LaunchPolicy policy;
    policy.directories = {"/srv/vm"};
    policy.images = {"/srv/vm/d0.qcow2"};
    policy.descriptors = {qmp_fd_in_qemu, 4, 5};
    auto const refused = line.for_destination(mapping);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.contains("charchannel0"));
    mapping.sockets = {{"charchannel0", 5}};
    auto const made = line.for_destination(mapping);
    if (!made) FAIL(made.error().sentence());
    CHECK(has(*made, "socket,id=charchannel0,fd=5,server=on,wait=off"));
    CHECK_FALSE(has(*made, "chardev=charmonitor,id=monitor,mode=control"));
    auto const allowed = allow(*made, policy);
    if (!allowed) FAIL(refusal_error(allowed.error()).sentence());
    // Descriptors that are not ours stay refused.
    policy.descriptors = {qmp_fd_in_qemu, 4};
    CHECK_FALSE(allow(*made, policy));
}

TEST_CASE("what only libvirt can give is refused by name", "[qmp][libvirt]") {
    auto secret = web1;
    secret.insert(secret.end(), {"-object", R"({"qom-type":"secret","id":"vnc-tls0","data":"x",)"
                                            R"("keyid":"masterKey0","iv":"y","format":"base64"})"});
    auto const refused = line_of(secret).without_libvirt("");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == core::Errc::refused);
    CHECK(refused.error().what.contains("`vnc-tls0`"));
    CHECK_FALSE(refused.error().what.contains("data"));

    // A disk that libvirt has opened keeps its set, and is refused at the destination.
    auto disk = without_secret(web1);
    disk.insert(disk.end(), {"-add-fd", "set=7,fd=40", "-blockdev",
                             "driver=file,node-name=x,filename=/dev/fdset/7"});
    auto const kept = plain(disk).line;
    CHECK(has(kept, "set=7,fd=40"));
    Mapping mapping;
    mapping.machine_type = "pc-q35-7.2";
    mapping.sockets = {{"charchannel0", 5}};
    mapping.taps = {{"hostnet0", {4}}};
    CHECK_FALSE(kept.for_destination(mapping));
}

TEST_CASE("QEMU's user is named in the form that the QEMU has", "[qmp][libvirt]") {
    auto const named = [](Words words, std::string_view kind) {
        words.insert(words.begin(), "qemu-system-x86_64");
        auto line = line_of(words);
        line.name_user_by(kind);
        auto argv = line.argv();
        argv.erase(argv.begin());
        return argv;
    };
    CHECK(named({"-runas", "u", "-S"}, "run-with") == Words{"-S", "-run-with", "user=u"});
    CHECK(named({"-run-with", "user=u"}, "runas") == Words{"-runas", "u"});
    CHECK(named({"-run-with", "async-teardown=on,user=1:2"}, "runas") ==
          Words{"-run-with", "async-teardown=on", "-runas", "1:2"});
}

TEST_CASE("a socket of another process is not taken for one that listens", "[qmp][libvirt]") {
    auto const sockets = [](Words words) {
        words.insert(words.begin(), "qemu-system-x86_64");
        return line_of(words).inherited_sockets();
    };
    CHECK(sockets({"-chardev", "socket,id=a,fd=5,server=on"}) == Words{"a"});
    CHECK(sockets({"-chardev", "socket,id=a,fd=5"}).empty());
    CHECK(sockets({"-chardev", "socket,id=a,path=/a,server=on"}).empty());
    CHECK(sockets({"-chardev", "socket,id=a,fd=5,server=on", "-mon", "a"}).empty());
}

}  // namespace libvirt_line_cases
