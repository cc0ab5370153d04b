// What the network sends to a tap, as netmove/recorder.hpp records it, on the real kernel: the
// frames that a reader of the tap gets, with what is still to be done of them.
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cstring>

#include "netmove/recorder.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_recorder_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const client = mac("52:54:00:00:00:01");

/// A frame of TCP that the network put together from several segments.
CaughtFrame long_frame(std::size_t payload_bytes) {
    constexpr std::size_t ethernet_bytes = 14;
    constexpr std::size_t headers_bytes = ethernet_bytes + 20 + 20;
    CaughtFrame frame(virtio_header_size + headers_bytes + payload_bytes, 0x5a);
    auto const udp = udp_frame(client, guest, ip("10.0.0.1"), ip("10.0.0.10"));
    auto const ethernet = frame.begin() + virtio_header_size;
    std::copy_n(udp.begin(), headers_bytes, ethernet);
    auto const bytes = frame.size() - virtio_header_size - ethernet_bytes;
    ethernet[ethernet_bytes + 2] = static_cast<std::uint8_t>(bytes >> 8);
    ethernet[ethernet_bytes + 3] = static_cast<std::uint8_t>(bytes & 0xff);
    ethernet[ethernet_bytes + 9] = 6;  // TCP
    ethernet[ethernet_bytes + 20 + 12] = 5 << 4;
    constexpr std::uint8_t segments_of_tcp4 = 1;
    VirtioHeader const header{
        virtio_needs_checksum, segments_of_tcp4, headers_bytes, 1'448, ethernet_bytes + 20, 16};
    std::memcpy(frame.data(), &header, sizeof header);
    return frame;
}

/// Its own record of a frame, as QEMU's filter writes it.
Bytes as_read(CaughtFrame const& frame, bool with_header) {
    return {frame.begin() + (with_header ? 0 : static_cast<std::ptrdiff_t>(virtio_header_size)),
            frame.end()};
}

struct RecordedTap {
    RecordedTap() {
        unsigned const offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        REQUIRE(ioctl(tap.descriptor(0), TUNSETOFFLOAD, offloads) == 0);
        must(place_tap(host.netlink, "tap0", {"br0", 1500, 100}));
        sh("ip link add client type veth peer name port0; ip link set port0 addrgenmode none; "
           "ip link set client addrgenmode none; ip link set port0 master br0 up; "
           "ip link set client up");
        recorder.emplace(must(FrameRecorder::open(host.netlink, "tap0")));
        network.emplace(must(Injector::open(host.netlink, "client")));
        port.emplace(must(Injector::open(host.netlink, "tap0")));
    }
    /// Sends it, and returns what the tap's reader and the recorder have of it.
    std::pair<CaughtFrame, SentFrame> send(CaughtFrame const& frame) {
        // The bridge does not forward a long one that comes from a packet socket.
        bool const is_long = frame.size() > sent_bytes_max;
        CHECK(must((is_long ? port : network)->queue(frame)));
        auto caught = must(catch_frames(tap, caught_bytes_max)).frames;
        must(recorder->take_in());
        REQUIRE(caught.size() == 1);
        REQUIRE(recorder->frames().size() == ++sent);
        return {std::move(caught[0]), recorder->frames().back()};
    }

    OneHost host;
    Tap tap = (make_bridge("br0"), must(Tap::open(host.netlink, "tap0", {})));
    std::optional<FrameRecorder> recorder;
    std::optional<Injector> network;  ///< A station beyond the bridge.
    std::optional<Injector> port;  ///< The bridge.
    std::size_t sent = 0;
};

CaughtFrame datagram(std::size_t size, std::uint8_t last) {
    CaughtFrame frame(virtio_header_size);
    auto const udp = udp_frame(client, guest, ip("10.0.0.1"), ip("10.0.0.10"), 64, size);
    frame.insert(frame.end(), udp.begin(), udp.end());
    frame.back() = last;
    return frame;
}

/// In VLAN 7.
CaughtFrame tagged(CaughtFrame frame) {
    constexpr std::array<std::uint8_t, 4> tag{0x81, 0, 0, 7};
    frame.insert(frame.begin() + virtio_header_size + 12, tag.begin(), tag.end());
    return frame;
}

}  // namespace

TEST_CASE("recorder: a frame is recorded as the tap's reader gets it", "[netmove][recorder]") {
    RecordedTap scene;
    bool const with_header = GENERATE(true, false);

    SECTION("a datagram") {
        auto const [caught, sent] = scene.send(datagram(20, 1));
        CHECK(sent.is_whole());
        CHECK(sent.frame == caught);
    }
    SECTION("one with a VLAN tag, which the kernel keeps apart") {
        auto const [caught, sent] = scene.send(tagged(datagram(20, 1)));
        CHECK(caught[virtio_header_size + 12] == 0x81);
        CHECK(sent.is_whole());
        CHECK(sent.frame == caught);
    }
    SECTION("several segments in one, of which QEMU's record has the rest") {
        auto const [caught, sent] = scene.send(long_frame(20'000));
        CHECK_FALSE(sent.is_whole());
        CHECK(sent.bytes == caught.size() - virtio_header_size);
        CHECK(sent.frame.size() == virtio_header_size + sent_bytes_max);
        auto const& all = scene.recorder->frames();
        CHECK(matching({as_read(caught, with_header)}, all) == std::vector<CaughtFrame>{caught});
        CHECK_FALSE(sent_before(as_read(caught, with_header), all));  // nothing was
    }
}

TEST_CASE("recorder: the frame before the one that QEMU read is known", "[netmove][recorder]") {
    RecordedTap scene;
    auto const first = scene.send(datagram(20, 1)).first;
    auto const second = scene.send(datagram(20, 2)).first;
    (void)scene.send(long_frame(20'000));
    auto const fourth = scene.send(datagram(20, 4)).first;
    (void)scene.send(datagram(20, 5));
    auto const& all = scene.recorder->frames();
    CHECK(sent_before(as_read(second, false), all) == first);
    CHECK_FALSE(sent_before(as_read(first, false), all));
    CHECK_FALSE(sent_before(as_read(fourth, false), all));  // the one before was not kept whole
    CHECK_FALSE(sent_before(as_read(datagram(20, 9), false), all));
    CHECK(matching({as_read(second, true), as_read(fourth, true)}, all) ==
          std::vector{second, fourth});
}

}  // namespace netmove_recorder_cases
