#include "tests/process/tunnel_lab.hpp"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

namespace tunnel_lab {

namespace {

// struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
constexpr std::uint8_t gso_tcp4 = 1;
constexpr std::size_t hdr_len_at = 2;
constexpr std::size_t tcp_headers = 14 + 20 + 20;
// The rings of the tests hold a burst of frames.
constexpr int ring_frames = 4'000;

void put16_le(Bytes& out, std::size_t at, std::size_t value) {
    out[at] = static_cast<std::uint8_t>(value & 0xff);
    out[at + 1] = static_cast<std::uint8_t>(value >> 8);
}
void put16(Bytes& out, std::size_t at, std::size_t value) {
    out[at] = static_cast<std::uint8_t>(value >> 8);
    out[at + 1] = static_cast<std::uint8_t>(value & 0xff);
}

void fill(Frame& frame, std::size_t from, std::uint32_t number) {
    std::uint32_t state = number * 2654435761U + 1;
    for (std::size_t i = from; i < frame.size(); ++i) {
        state = state * 1664525U + 1013904223U;
        frame[i] = static_cast<std::uint8_t>(state >> 24);
    }
}

core::Fd packet_socket(std::string const& device) {
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    REQUIRE(made);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(if_nametoindex(device.c_str()));
    int const on = 1;
    int const room = 64 << 20;
    REQUIRE(::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) == 0);
    REQUIRE(setsockopt(made.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) == 0);
    REQUIRE(setsockopt(made.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) == 0);
    return made;
}

}  // namespace

Frame plain_frame(std::uint32_t number, std::size_t size) {
    Frame frame(virtio_header_size + size);
    fill(frame, virtio_header_size, number);
    frame[virtio_header_size] = 0x02;  // unicast, of no station here
    put16(frame, virtio_header_size + 12, 0x88b5);  // for experiments
    return frame;
}

Frame super_frame(std::uint32_t number, std::size_t size, std::uint16_t segment) {
    Frame frame(virtio_header_size + size);
    fill(frame, virtio_header_size, number);
    frame[0] = virtio_needs_checksum;
    frame[1] = gso_tcp4;
    put16_le(frame, hdr_len_at, tcp_headers);
    put16_le(frame, 4, segment);
    put16_le(frame, 6, 14 + 20);
    put16_le(frame, 8, 16);
    auto const at = virtio_header_size;
    frame[at] = 0x02;
    put16(frame, at + 12, 0x0800);
    put16(frame, at + 14, 0x4500);
    put16(frame, at + 16, size - 14);
    put16(frame, at + 20, 0);
    frame[at + 23] = 6;
    frame[at + 46] = 0x50;  // a TCP header of 20 bytes
    return frame;
}

bool same(Frame const& sent, Frame const& got) {
    if (sent.size() != got.size()) return false;
    Frame left = sent;
    Frame right = got;
    for (auto* one : {&left, &right}) put16_le(*one, hdr_len_at, 0);
    return left == right;
}

TapLab::TapLab(std::string const& name)
    : netlink_(must(Netlink::open())),
      tap_(must(Tap::open(netlink_, name, {}))),
      injector_([&] {
          must(place_tap(netlink_, name, {"", 0, ring_frames}));
          return must(Injector::open(netlink_, name));
      }()),
      seen_(packet_socket(name)),
      room_(tap_frame_max + virtio_header_size) {}

std::vector<Frame> TapLab::written() {
    std::vector<Frame> out;
    while (true) {
        sockaddr_ll from{};
        socklen_t length = sizeof from;
        auto const got = ::recvfrom(seen_.get(), room_.data(), room_.size(), MSG_DONTWAIT,
                                    reinterpret_cast<sockaddr*>(&from), &length);
        if (got < 0) return out;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        out.emplace_back(room_.begin(), room_.begin() + got);
    }
}

Hosts::Hosts(Options options) : options_(options), loop_(must(core::Loop::create())) {
    // The spaces were made in the order a, router, b: the thread is in b.
    a.enter();
    sh(
        fmt::format("ip link add up0 type veth peer name left0 netns {}; "
                    "ip addr add 10.1.0.1/24 dev up0; ip addr add fd01::1/64 dev up0 nodad; "
                    "ip link set up0 up",
                    router.path()));
    tap_a.emplace("tap0");
    b.enter();
    sh(
        fmt::format("ip link add up0 mtu {0} type veth peer name right0 mtu {0} netns {1}; "
                    "ip addr add 10.2.0.2/24 dev up0; ip addr add fd02::2/64 dev up0 nodad; "
                    "ip link set up0 up",
                    options.mtu, router.path()));
    tap_b.emplace("tap0");
    router.enter();
    sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; "
       "ip addr add 10.1.0.9/24 dev left0; ip addr add fd01::9/64 dev left0 nodad; "
       "ip addr add 10.2.0.9/24 dev right0; ip addr add fd02::9/64 dev right0 nodad; "
       "ip link set left0 up; ip link set right0 up");
    for (auto const& [space, number] : {std::pair(&a, 1), std::pair(&b, 2)}) {
        space->enter();
        sh(fmt::format("ip route add default via 10.{0}.0.9; ip -6 route add default via fd0{0}::9",
                       number));
    }
    hub_a = open_hub(a);
    hub_b = open_hub(b);
}

Hosts::~Hosts() {
    for (auto* hub : {&hub_a, &hub_b}) end_hub(*hub);
}

std::unique_ptr<Hub> Hosts::open_hub(Space const& space, std::uint16_t port) {
    space.enter();
    return must(Hub::open(*loop_, {"[::]", port}));
}

void Hosts::end_hub(std::unique_ptr<Hub>& hub) {
    if (!hub) return;
    loop_->run(hub->close());
    hub.reset();
}

std::string Hosts::address_of(char host) const {
    if (options_.ipv6) return host == 'a' ? "fd01::1" : "fd02::2";
    return host == 'a' ? "10.1.0.1" : "10.2.0.2";
}

Endpoint Hosts::endpoint_a() const { return {ip(address_of('a')), hub_a->port()}; }

namespace {

core::Task<bool> wait_for(core::Loop& loop, std::function<bool()> const& holds,
                          core::Clock::time_point until) {
    while (!holds()) {
        if (core::Clock::now() > until) co_return false;
        (void)co_await core::sleep_for(loop, 1ms);  // it cannot be cancelled
    }
    co_return true;
}

}  // namespace

bool Hosts::until(std::function<bool()> const& holds, std::chrono::milliseconds limit) {
    return loop_->run(wait_for(*loop_, holds, core::Clock::now() + limit));
}

void Hosts::establish() {
    at_a = must(hub_a->add(key, Role::listens, std::nullopt));
    at_b = must(hub_b->add(key, Role::connects, endpoint_a()));
    must(run(at_b->established(core::Deadline::after(10s))));
    must(run(at_a->established(core::Deadline::after(10s))));
}

void Hosts::connect_taps() {
    must(at_a->attach(tap_a->tap()));
    must(at_b->attach(tap_b->tap()));
    must(at_a->forward());
    must(at_b->forward());
}

void Hosts::restart_a() {
    auto const port = hub_a->port();
    end_hub(hub_a);
    hub_a = open_hub(a, port);
    at_a = must(hub_a->add(key, Role::listens, std::nullopt));
    must(at_a->attach(tap_a->tap()));
    must(at_a->forward());
}

void Hosts::restart_b() {
    end_hub(hub_b);
    hub_b = open_hub(b);
    at_b = must(hub_b->add(key, Role::connects, endpoint_a()));
    must(at_b->attach(tap_b->tap()));
    must(at_b->forward());
}

std::vector<Frame> Hosts::carry(TapLab& from, TapLab& to, std::vector<Frame> const& frames,
                                std::chrono::milliseconds limit) {
    std::vector<Frame> got;
    std::size_t next = 0;
    (void)until(
        [&] {
            while (next < frames.size() && from.put(frames[next])) ++next;
            for (auto& frame : to.written()) got.push_back(std::move(frame));
            return got.size() >= frames.size();
        },
        limit);
    return got;
}

}  // namespace tunnel_lab
