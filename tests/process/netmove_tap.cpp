// Taps and netlink on the real kernel: open, attach, refuse, quiet, queues, vnet headers, and
// descriptors copied from a running process and from a real QEMU.
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <filesystem>

#include "core/process.hpp"
#include "netmove/watcher.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_tap_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");

/// Removes capabilities from the thread's effective set while it lives.
class Without {
public:
    explicit Without(std::initializer_list<int> capabilities) {
        header_ = {_LINUX_CAPABILITY_VERSION_3, 0};
        REQUIRE(syscall(SYS_capget, &header_, before_) == 0);
        std::copy(std::begin(before_), std::end(before_), std::begin(now_));
        for (int const capability : capabilities) {
            now_[capability / 32].effective &= ~(1U << (capability % 32));
        }
        REQUIRE(syscall(SYS_capset, &header_, now_) == 0);
    }
    ~Without() { syscall(SYS_capset, &header_, before_); }
    Without(Without const&) = delete;
    Without& operator=(Without const&) = delete;

private:
    __user_cap_header_struct header_{};
    __user_cap_data_struct before_[2]{};
    __user_cap_data_struct now_[2]{};
};

/// A process that only holds its descriptors; ended with the object.
struct Holder {
    explicit Holder(std::vector<std::string> argv, std::vector<std::pair<int, int>> descriptors) {
        core::SpawnOptions options;
        options.descriptors = std::move(descriptors);
        process = must(core::spawn(argv, options));
    }
    ~Holder() {
        (void)process.signal(SIGKILL);
        ::waitpid(process.pid(), nullptr, 0);
    }
    Holder(Holder const&) = delete;
    Holder& operator=(Holder const&) = delete;
    core::Process process;
};

void detach_queue(Tap const& tap, int queue) {
    ifreq request{};
    request.ifr_flags = IFF_DETACH_QUEUE;
    REQUIRE(ioctl(tap.descriptor(queue), TUNSETQUEUE, &request) == 0);
}

}  // namespace

TEST_CASE("a tap is made, and disappears with its last descriptor", "[netmove]") {
    OneHost host;
    {
        auto const tap = must(Tap::open(host.netlink, "tap0", {}));
        CHECK(tap.created());
        CHECK(tap.vnet_hdr());
        CHECK(must(tap.vnet_hdr_size()) == 10);
        auto const link = must(host.netlink.link("tap0"));
        CHECK(link.kind == "tun");
        REQUIRE(link.tun);
        CHECK(link.tun->tap);
        CHECK_FALSE(link.tun->persistent);
        CHECK_FALSE(link.up);
        int const flags = ::fcntl(tap.descriptor(0), F_GETFL);
        CHECK((flags & O_NONBLOCK) != 0);
        CHECK((::fcntl(tap.descriptor(0), F_GETFD) & FD_CLOEXEC) != 0);
    }
    CHECK_FALSE(must(host.netlink.find_link("tap0")));
}

TEST_CASE("a bridge keeps its MAC when a tap comes and goes", "[netmove]") {
    OneHost host;
    // As high as the kernel may choose for a veth; a bridge has the lowest MAC of its ports.
    sh("ip link add br0 type bridge; ip link add uplink address fe:fe:ff:ff:ff:ff type veth;"
       "ip link set uplink master br0");
    auto const before = must(host.netlink.link("br0")).mac;
    REQUIRE(before == must(host.netlink.link("uplink")).mac);
    {
        auto const tap = must(Tap::open(host.netlink, "tap0", {}));
        must(place_tap(host.netlink, "tap0", {"br0", 0, 0}));
        CHECK(must(host.netlink.link("br0")).mac == before);
    }
    CHECK(must(host.netlink.link("br0")).mac == before);
}

TEST_CASE("a persistent tap is attached to, and stays", "[netmove]") {
    OneHost host;
    sh("ip tuntap add tap0 mode tap");
    {
        auto const tap = must(Tap::open(host.netlink, "tap0", {1, true, false}));
        CHECK_FALSE(tap.created());
        CHECK(must(host.netlink.link("tap0")).tun->persistent);
    }
    CHECK(must(host.netlink.find_link("tap0")));
}

TEST_CASE("taps that cannot be opened are refused with a reason", "[netmove]") {
    OneHost host;
    sh("ip link add br0 type bridge; ip tuntap add multi0 mode tap multi_queue; "
       "ip tuntap add tun0 mode tun");
    auto const refusal = [&host](char const* name, TapOptions const& options) {
        return sentence(Tap::open(host.netlink, name, options));
    };
    SECTION("in use") {
        auto const held = must(Tap::open(host.netlink, "tap0", {}));
        CHECK(contains(refusal("tap0", {}), "the tap tap0 is in use by another program"));
    }
    SECTION("a multi-queue one in use: it would silently get half of the frames") {
        auto const held = must(Tap::open(host.netlink, "multi0", {2, true, true}));
        CHECK(contains(refusal("multi0", {2, true, true}), "multi0 is in use by another program"));
        detach_queue(held, 0);
        detach_queue(held, 1);
        CHECK(contains(refusal("multi0", {2, true, true}), "multi0 is in use by another program"));
    }
    SECTION("not what it should be") {
        CHECK(contains(refusal("br0", {}), "br0 is not a tap device but a bridge"));
        CHECK(contains(refusal("tun0", {}), "tun0 is not a tap device"));
        CHECK(contains(refusal("lo", {}), "lo is not a tap device"));
        CHECK(contains(refusal("multi0", {}), "ip tuntap add multi0 mode tap)"));
        sh("ip tuntap add single0 mode tap");
        CHECK(contains(refusal("single0", {4, true, true}), "mode tap multi_queue)"));
    }
    SECTION("missing, when it must be there") {
        CHECK(contains(refusal("tap9", {1, true, false}), "there is no tap tap9 on this host"));
    }
    SECTION("impossible") {
        CHECK(contains(refusal("a name too long", {}), "is not a name for a network interface"));
        CHECK(contains(refusal("tap0", {257, true, true}), "cannot have 257 queues"));
    }
    CHECK_FALSE(must(host.netlink.find_link("tap9")));
}

TEST_CASE("without privilege every refusal names the missing one", "[netmove]") {
    OneHost host;
    sh("ip link add br0 type bridge");
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    auto loop = must(core::Loop::create());
    Without const none{CAP_NET_ADMIN, CAP_NET_RAW};
    CHECK(contains(sentence(Tap::open(host.netlink, "tap1", {})), "CAP_NET_ADMIN is needed"));
    auto const up = sentence(host.netlink.set_up("tap0"));
    CHECK(contains(up, "no privilege: CAP_NET_ADMIN is needed to put tap0 up"));
    CHECK(contains(sentence(host.netlink.replace_fdb(1, guest, false)), "CAP_NET_ADMIN is needed"));
    CHECK(contains(sentence(place_tap(host.netlink, "tap0", {"br0", 0, 0})), "CAP_NET_ADMIN"));
    CHECK(contains(sentence(AddressWatcher::open(*loop, "tap0", guest)), "CAP_NET_RAW is needed"));
    // Reading needs no capability.
    CHECK(must(host.netlink.link("tap0")).name == "tap0");
}

TEST_CASE("a placed tap is up in its bridge, has a long ring, and sends nothing by itself",
          "[netmove]") {
    OneHost host;
    make_bridge("br0");
    auto const quiet = must(Tap::open(host.netlink, "quiet0", {}));
    must(place_tap(host.netlink, "quiet0", {"", 1400, 20000}));
    // Without a writable /proc/sys only this works.
    auto const half = must(Tap::open(host.netlink, "half0", {}));
    must(host.netlink.set_address_generation_none("half0"));
    must(host.netlink.set_up("half0"));
    // In a bridge, as in real use.
    auto const bridged = must(Tap::open(host.netlink, "bridged0", {}));
    must(place_tap(host.netlink, "bridged0", {"br0", 0, 0}));
    // For comparison, an ordinary interface: duplicate address detection, MLD, router solicitation.
    auto const loud = must(Tap::open(host.netlink, "loud0", {}));
    must(host.netlink.set_up("loud0"));

    auto const link = must(host.netlink.link("quiet0"));
    CHECK(link.up);
    CHECK(link.mtu == 1400);
    CHECK(link.queue_length == 20000);
    auto const in_bridge = must(host.netlink.link("bridged0"));
    CHECK(in_bridge.master == must(host.netlink.link("br0")).index);
    REQUIRE(in_bridge.port);
    CHECK(in_bridge.port->forwarding());

    bool solicits_routers = false;
    bool solicits_itself = false;
    CHECK(soon(
        [&] {
            for (auto const& frame : received(loud)) {
                auto const type = frame.size() > 54 ? frame[54] : 0;
                solicits_routers = solicits_routers || type == 133;
                solicits_itself = solicits_itself || type == 135;
            }
            return solicits_routers && solicits_itself;
        },
        20s));
    CHECK(received(quiet).empty());
    CHECK(received(half).empty());
    // The bridge forwards frames of others. Only loud0 could send any, and it is not in the bridge.
    for (auto const& frame : received(bridged)) {
        CHECK(parse_ethernet(frame)->source == must(host.netlink.link("br0")).mac);
    }
    CHECK(must(host.netlink.addresses(link.index)).empty());
    CHECK_FALSE(must(host.netlink.addresses(must(host.netlink.link("loud0")).index)).empty());
}

TEST_CASE("a tap is not taken out of another bridge", "[netmove]") {
    OneHost host;
    sh("ip link add br0 type bridge; ip link add br1 type bridge");
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    must(place_tap(host.netlink, "tap0", {"br0", 0, 0}));
    must(place_tap(host.netlink, "tap0", {"br0", 0, 0}));
    auto const refused = sentence(place_tap(host.netlink, "tap0", {"br1", 0, 0}));
    CHECK(contains(refused, "the tap tap0 is in br0, not in br1"));
}

TEST_CASE("frames keep their bytes whatever the vnet header and the queues", "[netmove]") {
    OneHost host;
    make_bridge("br0");
    auto const queues = GENERATE(1, 4);
    auto const vnet_hdr = GENERATE(true, false);
    auto const tap = must(Tap::open(host.netlink, "tap0", {queues, vnet_hdr, true}));
    auto const peer = must(Tap::open(host.netlink, "tap1", {1, !vnet_hdr, true}));
    must(place_tap(host.netlink, "tap0", {"br0", 0, 0}));
    must(place_tap(host.netlink, "tap1", {"br0", 0, 0}));
    CHECK(tap.queues() == queues);
    (void)received(peer);

    auto const frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request);
    auto const arrives = [&] {
        auto const before = must(host.netlink.link("tap0")).received;
        must(tap.write_frame(frame));
        CHECK(must(host.netlink.link("tap0")).received == before + 1);
        std::vector<Bytes> got;
        (void)soon([&] { return !(got = received(peer)).empty(); });
        return got == std::vector<Bytes>{frame};
    };
    CHECK(arrives());
    if (vnet_hdr) {
        int size = 12;  // QEMU sets this when the guest's driver has started
        REQUIRE(ioctl(tap.descriptor(queues - 1), TUNSETVNETHDRSZ, &size) == 0);
        CHECK(must(tap.vnet_hdr_size()) == 12);
        CHECK(arrives());
    }
    if (queues > 1) {
        detach_queue(tap, 0);
        CHECK(arrives());
    }
    must(host.netlink.set_down("tap0"));
    CHECK(contains(sentence(tap.write_frame(frame)), "the tap tap0, which is down"));
}

TEST_CASE("a lengthened ring holds as many frames, in order, and can be emptied", "[netmove]") {
    OneHost host;
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    auto const peer = must(Tap::open(host.netlink, "tap1", {}));
    make_bridge("br0");
    must(place_tap(host.netlink, "tap0", {"br0", 0, 5000}));
    must(place_tap(host.netlink, "tap1", {"br0", 0, 0}));
    auto frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request);
    for (unsigned i = 0; i < 4000; ++i) {
        frame[58] = static_cast<std::uint8_t>(i >> 8);
        frame[59] = static_cast<std::uint8_t>(i & 0xff);
        must(peer.write_frame(frame));
    }
    auto const got = received(tap);
    REQUIRE(got.size() == 4000);
    bool in_order = true;
    for (unsigned i = 0; i < 4000; ++i) {
        in_order = in_order && (static_cast<unsigned>(got[i][58]) << 8 | got[i][59]) == i;
    }
    CHECK(in_order);
    for (int i = 0; i < 300; ++i) must(peer.write_frame(frame));
    CHECK(must(tap.drain()) == 300);
    CHECK(received(tap).empty());
}

TEST_CASE("raw frames pass with their vnet header", "[netmove]") {
    OneHost host;
    make_bridge("br0");
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    auto const peer = must(Tap::open(host.netlink, "tap1", {}));
    for (auto const* name : {"tap0", "tap1"}) must(place_tap(host.netlink, name, {"br0", 0, 0}));
    auto const frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request);
    must(tap.write_frame(frame));
    Bytes raw(tap_frame_max);
    REQUIRE(soon([&] {
        raw.resize(tap_frame_max);
        raw.resize(must(peer.read_raw(0, raw)));
        return !raw.empty();
    }));
    CHECK(raw.size() == frame.size() + 10);
    must(peer.write_raw(0, raw));
    std::vector<Bytes> got;
    CHECK(soon([&] { return !(got = received(tap)).empty(); }));
    CHECK(got == std::vector<Bytes>{frame});
}

TEST_CASE("the taps of a running process can be copied", "[netmove]") {
    OneHost host;
    make_bridge("br0");
    std::optional<Tap> first = must(Tap::open(host.netlink, "tap0", {2, true, true}));
    std::optional<Tap> second = must(Tap::open(host.netlink, "tap1", {1, false, true}));
    for (auto const* name : {"tap0", "tap1"}) must(place_tap(host.netlink, name, {"br0", 0, 0}));
    Holder const holder(
        {"sleep", "600"},
        {{second->descriptor(0), 5}, {first->descriptor(0), 6}, {first->descriptor(1), 7}});
    first.reset();
    second.reset();
    auto const taps = must(Tap::duplicate_from(holder.process.pid()));
    REQUIRE(taps.size() == 2);
    CHECK(taps[0].name() == "tap1");
    CHECK_FALSE(taps[0].vnet_hdr());
    CHECK(taps[1].name() == "tap0");
    CHECK(taps[1].queues() == 2);
    CHECK(taps[1].vnet_hdr());
    auto const frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request);
    must(taps[0].write_frame(frame));
    std::vector<Bytes> got;
    CHECK(soon([&] { return !(got = received(taps[1])).empty(); }));
    CHECK(got == std::vector<Bytes>{frame});

    Without const none{CAP_SYS_PTRACE};
    CHECK(must(Tap::duplicate_from(::getpid())).size() == 2);
}

TEST_CASE("descriptors of no tap, or of two taps, are refused", "[netmove]") {
    OneHost host;
    auto const first = must(Tap::open(host.netlink, "tap0", {}));
    auto const second = must(Tap::open(host.netlink, "tap1", {}));
    auto const copies = [](std::vector<int> numbers) {
        std::vector<core::Fd> out;
        for (int const number : numbers) out.emplace_back(::fcntl(number, F_DUPFD_CLOEXEC, 3));
        return out;
    };
    CHECK(must(Tap::adopt(copies({first.descriptor(0)}))).name() == "tap0");
    auto const both = copies({first.descriptor(0), second.descriptor(0)});
    CHECK(contains(sentence(Tap::adopt(copies({first.descriptor(0), second.descriptor(0)}))),
                   "of two taps, tap0 and tap1"));
    CHECK(contains(sentence(Tap::adopt(copies({0}))), "is not a tap"));
    CHECK(contains(sentence(Tap::adopt({})), "without a descriptor"));
    CHECK(contains(sentence(Tap::duplicate_from(0x3fffffff)), "process 1073741823"));
}

TEST_CASE("a real QEMU's tap can be copied, with the queues it does not use", "[netmove]") {
    if (!std::filesystem::exists("/usr/bin/qemu-system-x86_64")) {
        WARN("no qemu-system-x86_64 here: not shown");
        return;
    }
    OneHost host;
    make_bridge("br0");
    auto const tap = must(Tap::open(host.netlink, "tap0", {2, true, true}));
    auto const peer = must(Tap::open(host.netlink, "tap1", {}));
    for (auto const* name : {"tap0", "tap1"}) must(place_tap(host.netlink, name, {"br0", 0, 0}));
    Holder const qemu(
        {"qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-m", "16", "-netdev",
         "tap,id=net0,fds=5:6,vhost=off", "-device", "virtio-net-pci,netdev=net0,mq=on,vectors=6"},
        {{tap.descriptor(0), 5}, {tap.descriptor(1), 6}});
    // A guest that has not enabled more uses one queue; QEMU disables the other.
    REQUIRE(soon([&] { return must(host.netlink.link("tap0")).tun->disabled_queues == 1; }, 20s));
    auto const copies = must(Tap::duplicate_from(qemu.process.pid()));
    REQUIRE(copies.size() == 1);
    CHECK(copies[0].name() == "tap0");
    CHECK(copies[0].queues() == 2);
    auto const frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request);
    must(copies[0].write_frame(frame));
    std::vector<Bytes> got;
    CHECK(soon([&] { return !(got = received(peer)).empty(); }));
    CHECK(got == std::vector<Bytes>{frame});
}

TEST_CASE("netlink changes what it says it changes", "[netmove]") {
    OneHost host;
    auto& netlink = host.netlink;
    sh("ip link add br0 type bridge; ip link set br0 up; "
       "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up");
    CHECK(must(netlink.links()).size() == 4);
    must(netlink.set_master("v0", "br0"));
    auto const port = must(netlink.link("v0"));
    auto const bridge = must(netlink.link("br0"));
    CHECK(bridge.kind == "bridge");
    CHECK(port.kind == "veth");
    CHECK(port.master == bridge.index);

    must(netlink.replace_fdb(port.index, guest, false));
    auto const entry_of = [&]() -> std::optional<FdbEntry> {
        for (auto const& entry : must(netlink.fdb(bridge.index))) {
            if (entry.mac == guest) return entry;
        }
        return std::nullopt;
    };
    REQUIRE(entry_of());
    CHECK_FALSE(entry_of()->pinned());
    CHECK(entry_of()->port == port.index);
    must(netlink.replace_fdb(port.index, guest, true));
    CHECK(entry_of()->pinned());
    CHECK(contains(sh("bridge fdb show br br0"), "52:54:00:12:34:56 dev v0 master br0 static"));
    CHECK(must(netlink.delete_fdb(port.index, guest)));
    CHECK_FALSE(must(netlink.delete_fdb(port.index, guest)));
    CHECK_FALSE(entry_of());
    // A port's own filter entry is not an entry of the bridge, and another bridge's table is not
    // this one's.
    sh("bridge fdb add 52:54:00:12:34:56 dev v0 self permanent; ip link add br1 type bridge; "
       "ip link set v1 master br1; bridge fdb add 52:54:00:12:34:56 dev v1 master static");
    CHECK_FALSE(entry_of());
    sh("ip link set v1 nomaster; ip link del br1");

    for (auto const& address : {ip("192.0.2.10"), ip("2001:db8::10")}) {
        CHECK_FALSE(must(netlink.refresh_neighbour(bridge.index, address, guest, NUD_REACHABLE)));
        must(netlink.replace_neighbour(bridge.index, address, guest, NUD_PERMANENT));
        auto const found = must(netlink.neighbours(bridge.index));
        auto const entry = std::ranges::find(found, address, &Neighbour::address);
        REQUIRE(entry != found.end());
        CHECK(entry->permanent());
        CHECK(entry->mac == guest);
        CHECK(must(netlink.refresh_neighbour(bridge.index, address, guest, NUD_REACHABLE)));
        CHECK(must(netlink.delete_neighbour(bridge.index, address)));
    }

    BridgePort closed = *port.port;
    CHECK(closed.unicast_flood);
    closed.unicast_flood = closed.multicast_flood = closed.broadcast_flood = false;
    must(netlink.set_bridge_port(port.index, closed));
    auto const after = *must(netlink.link("v0")).port;
    CHECK_FALSE(after.unicast_flood);
    CHECK_FALSE(after.multicast_flood);
    CHECK_FALSE(after.broadcast_flood);
    CHECK(after.learning);

    must(netlink.set_mtu("v0", 1300));
    must(netlink.set_down("v0"));
    must(netlink.set_master("v0", ""));
    auto const last = must(netlink.link("v0"));
    CHECK(last.mtu == 1300);
    CHECK(last.master == 0);
    CHECK_FALSE(last.up);
    must(netlink.delete_link("v0"));
    CHECK_FALSE(must(netlink.find_link("v1")));
    CHECK(contains(sentence(netlink.link("v0")), "there is no network interface v0"));
    CHECK(contains(sentence(netlink.set_up("v0")), "cannot put v0 up: No such device"));
}

TEST_CASE("a host without IPv6 has no IPv6 neighbours to refresh", "[netmove]") {
    OneHost host;
    sh("ip link add br0 type bridge; ip link set br0 up; "
       "echo 1 >/proc/sys/net/ipv6/conf/br0/disable_ipv6");
    auto const bridge = must(host.netlink.link("br0")).index;
    // Its guests may still have IPv6; then the refresh is called for their addresses too.
    for (auto const& address : {ip("192.0.2.10"), ip("2001:db8::10")}) {
        CHECK_FALSE(must(host.netlink.refresh_neighbour(bridge, address, guest, NUD_REACHABLE)));
    }
}

}  // namespace netmove_tap_cases
