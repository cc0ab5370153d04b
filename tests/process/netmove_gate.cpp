// Frames that are caught, sent to the other host and put into another tap's ring, and the gate that
// holds direct frames back. On the real kernel, with taps whose ring the test reads as QEMU would.
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "netmove/gate.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_gate_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const client = mac("52:54:00:00:00:01");

/// A frame for the guest with a number in it, in the form in which it is caught: after an empty
/// virtio header.
CaughtFrame numbered(unsigned number, std::size_t size = 200) {
    CaughtFrame frame(virtio_header_size + size);
    auto at = std::copy(guest.bytes.begin(), guest.bytes.end(), frame.begin() + virtio_header_size);
    at = std::copy(client.bytes.begin(), client.bytes.end(), at);
    *at++ = 0x88;
    *at++ = 0xb6;
    for (int shift = 24; shift >= 0; shift -= 8) *at++ = static_cast<std::uint8_t>(number >> shift);
    return frame;
}

unsigned number_of(Bytes const& ethernet) {
    return static_cast<unsigned>(ethernet[14]) << 24 | static_cast<unsigned>(ethernet[15]) << 16 |
           static_cast<unsigned>(ethernet[16]) << 8 | ethernet[17];
}

/// The numbers of the frames in the ring, without the gate's own frames.
std::vector<unsigned> numbers_in(Tap const& tap) {
    std::vector<unsigned> out;
    for (auto const& frame : must(catch_frames(tap, caught_bytes_max)).frames) {
        if (Gate::is_own(frame)) continue;
        out.push_back(number_of(Bytes(frame.begin() + virtio_header_size, frame.end())));
    }
    return out;
}

Tap made_tap(OneHost& host, TapOptions const& options = {}) {
    auto tap = must(Tap::open(host.netlink, "tap0", options));
    must(place_tap(host.netlink, "tap0", {"", 1500, 0}));
    return tap;
}

using Numbers = std::vector<unsigned>;

constexpr std::uint8_t segments_of_tcp4 = 1;

}  // namespace

TEST_CASE("gate: frames that arrive while it is closed follow the injected ones, in order",
          "[netmove][gate]") {
    OneHost host;
    int const queues = GENERATE(1, 4);
    auto const tap = made_tap(host, {.queues = queues});
    auto gate = must(Gate::install(host.netlink, tap));
    auto const network = must(Injector::open(host.netlink, "tap0"));

    SECTION("an open gate changes nothing") {
        CHECK(must(network.queue(numbered(1))));
        CHECK(numbers_in(tap) == Numbers{1});
    }
    SECTION("closed, it holds; put() goes past it; open, all goes on") {
        CHECK(must(network.queue(numbered(1))));  // before the announcement
        must(gate.close());
        for (unsigned n = 10; n < 15; ++n) CHECK(must(network.queue(numbered(n))));
        CHECK(numbers_in(tap).empty());
        CHECK(must(gate.count()).waiting == 5);
        CHECK(must(network.put(numbered(2))));
        CHECK(must(network.put(numbered(3))));
        must(gate.open());
        CHECK(must(network.queue(numbered(20))));
        CHECK(numbers_in(tap) == Numbers{2, 3, 10, 11, 12, 13, 14, 20});
        CHECK(must(gate.count()).waiting == 0);
    }
    SECTION("closed twice, it keeps what waits") {
        must(gate.close());
        CHECK(must(network.queue(numbered(1))));
        must(gate.close());
        must(gate.open());
        CHECK(numbers_in(tap) == Numbers{1});
    }
    SECTION("the shortest and the longest frame wait, tagged ones as well") {
        must(gate.close());
        CHECK(must(network.queue(numbered(1, 18))));
        CHECK(must(network.queue(numbered(2, 1514))));
        auto tagged = numbered(3, 1518);
        tagged[virtio_header_size + 12] = 0x81;
        tagged[virtio_header_size + 13] = 0x00;
        CHECK(must(network.queue(tagged)));
        CHECK(numbers_in(tap).empty());
        must(gate.open());
        CHECK(numbers_in(tap).size() == 3);
    }
    SECTION("another sidecar finds it and opens it") {
        must(gate.close());
        CHECK(must(network.queue(numbered(1))));
        auto found = must(Gate::find(host.netlink, tap));
        REQUIRE(found);
        must(found->open());
        CHECK(numbers_in(tap) == Numbers{1});
        must(Gate::install(host.netlink, tap));
    }
    SECTION("taken away, the tap has what it had; twice, and another's discipline, is left alone") {
        must(Gate::remove(host.netlink, "tap0"));
        CHECK_FALSE(contains(sh("tc qdisc show dev tap0"), "tbf"));
        CHECK_FALSE(must(Gate::find(host.netlink, tap)));
        must(Gate::remove(host.netlink, "tap0"));
        sh("tc qdisc add dev tap0 root handle 7: tbf rate 1gbit burst 1mb limit 1mb");
        must(Gate::remove(host.netlink, "tap0"));
        CHECK(contains(sh("tc qdisc show dev tap0"), "tbf 7:"));
        CHECK_FALSE(must(Gate::find(host.netlink, tap)));
    }
}

TEST_CASE("gate: under traffic not one frame is lost or overtaken", "[netmove][gate]") {
    OneHost host;
    make_bridge("br0");
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    must(place_tap(host.netlink, "tap0", {"br0", 1500, 20'000}));
    sh("ip link add client type veth peer name port0; ip link set port0 addrgenmode none; "
       "ip link set client addrgenmode none; ip link set port0 master br0 up; "
       "ip link set client up");
    auto gate = must(Gate::install(host.netlink, tap));
    auto const network = must(Injector::open(host.netlink, "client"));
    auto const caught = must(Injector::open(host.netlink, "tap0"));
    REQUIRE(soon([&] { return must(network.queue(numbered(0))) && !numbers_in(tap).empty(); }));

    must(gate.close());
    constexpr unsigned first_direct = 1'000'000;
    std::atomic<bool> over = false;
    std::atomic<unsigned> sent = 0;
    std::thread sender([&] {
        while (!over) {
            if (must(network.queue(numbered(first_direct + sent)))) ++sent;
            ::poll(nullptr, 0, sent % 8 == 0 ? 1 : 0);  // some thousands of frames a second
        }
    });
    unsigned put = 0;
    REQUIRE(soon([&] { return sent > 100; }));
    for (; put < 5000; ++put) CHECK(must(caught.put(numbered(put))));
    must(gate.open());
    unsigned const at_opening = sent;
    REQUIRE(soon([&] { return sent > at_opening + 500; }));
    over = true;
    sender.join();

    Numbers got;
    REQUIRE(soon([&] {
        std::ranges::copy(numbers_in(tap), std::back_inserter(got));
        return got.size() >= put + sent;
    }));
    Numbers wanted;
    for (unsigned n = 0; n < put; ++n) wanted.push_back(n);
    for (unsigned n = 0; n < sent; ++n) wanted.push_back(first_direct + n);
    CHECK(got.size() == wanted.size());
    auto const differs = std::ranges::mismatch(got, wanted);
    CHECK(differs.in1 - got.begin() == static_cast<std::ptrdiff_t>(wanted.size()));
}

TEST_CASE("caught frames keep their offloads on the way into another ring", "[netmove][gate]") {
    OneHost host;
    auto const tap = made_tap(host);
    auto const network = must(Injector::open(host.netlink, "tap0"));
    unsigned const offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    REQUIRE(ioctl(tap.descriptor(0), TUNSETOFFLOAD, offloads) == 0);
    // 30,000 bytes of TCP over IPv4 to be segmented into 1,448 bytes, without checksums yet.
    CaughtFrame large = udp_frame(client, guest, ip("192.0.2.1"), ip("192.0.2.2"), 64, 30'000);
    large.insert(large.begin(), virtio_header_size, 0);
    VirtioHeader header{};
    header.flags = virtio_needs_checksum;
    header.gso_type = segments_of_tcp4;
    header.hdr_len = 14 + 20 + 20;
    header.gso_size = 1448;
    header.csum_start = 14 + 20;
    header.csum_offset = 16;
    std::memcpy(large.data(), &header, virtio_header_size);
    large[virtio_header_size + 14 + 9] = 6;  // TCP
    large[virtio_header_size + 14 + 20 + 12] = 5 << 4;  // with a header of 20 bytes
    int const sizes = GENERATE(10, 12);
    REQUIRE(ioctl(tap.descriptor(0), TUNSETVNETHDRSZ, &sizes) == 0);
    CHECK(must(network.put(large)));
    auto const caught = must(catch_frames(tap, caught_bytes_max));
    REQUIRE(caught.frames.size() == 1);
    VirtioHeader got{};
    std::memcpy(&got, caught.frames[0].data(), virtio_header_size);
    CHECK(got.gso_type == segments_of_tcp4);
    CHECK(got.gso_size == 1448);
    CHECK((got.flags & virtio_needs_checksum) != 0);
    CHECK(caught.frames[0].size() == large.size());
    CHECK(std::equal(large.begin() + virtio_header_size, large.end(),
                     caught.frames[0].begin() + virtio_header_size));
}

TEST_CASE("caught frames: limits hold and are reported", "[netmove][gate]") {
    OneHost host;
    auto const tap = made_tap(host);
    must(host.netlink.set_queue_length("tap0", 10));
    auto const network = must(Injector::open(host.netlink, "tap0"));
    SECTION("a full ring refuses, and the kernel counts") {
        for (unsigned n = 0; n < 10; ++n) CHECK(must(network.put(numbered(n))));
        CHECK_FALSE(must(network.put(numbered(10))));
        CHECK(must(host.netlink.link("tap0")).dropped == 1);
        CHECK(numbers_in(tap).size() == 10);
    }
    SECTION("what is over the limit of bytes is dropped, the oldest kept") {
        for (unsigned n = 0; n < 5; ++n) CHECK(must(network.put(numbered(n))));
        auto const caught = must(catch_frames(tap, 2 * numbered(0).size()));
        CHECK(caught.frames.size() == 2);
        CHECK(caught.dropped == 3);
        CHECK(numbers_in(tap).empty());
    }
    SECTION("a tap that is down, or gone") {
        sh("ip link set tap0 down");
        CHECK(contains(sentence(network.put(numbered(0))), "tap0"));
        CHECK(contains(sentence(Injector::open(host.netlink, "tap1")), "tap1"));
    }
}

}  // namespace netmove_gate_cases
