#include "netmove/adjacency.hpp"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace netmove {

using core::Errc;
using core::fail_errno;
using core::Result;

namespace {

/// 192.0.0.8: the dummy address of RFC 7600, which is never assigned to a host.
constexpr std::array<std::uint8_t, 4> dummy_address{192, 0, 0, 8};

/// The frame up to its padding, with zeroes for the sender's MAC address and the number.
constexpr std::array<std::uint8_t, 42> probe_form{0xff,
                                                  0xff,
                                                  0xff,
                                                  0xff,
                                                  0xff,
                                                  0xff,  // broadcast
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,     // sender
                                                  0x08,
                                                  0x06,                          // ARP
                                                  0,
                                                  1,
                                                  0x08,
                                                  0,
                                                  6,
                                                  4,     // Ethernet, IPv4
                                                  0,
                                                  1,                             // request
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,     // sender
                                                  0,
                                                  0,
                                                  0,
                                                  0,                 // no address
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,
                                                  0,     // number
                                                  dummy_address[0],
                                                  dummy_address[1],
                                                  dummy_address[2],
                                                  dummy_address[3]};
constexpr std::size_t at_bridge_mac = 6;
constexpr std::size_t at_sender_mac = 22;
constexpr std::size_t at_probe_number = 32;
constexpr std::size_t probe_number_bytes = 6;
/// Frames that are looked at in one go: a network with a storm of ARP must not hold this host up.
constexpr int frames_looked_at_max = 1'000;

Result<core::Fd> bridge_socket(Link const& bridge, std::uint16_t protocol) {
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(protocol)));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(
            Errc::netlink, errno,
            "no privilege: CAP_NET_RAW is needed to test the network of " + bridge.name);
    }
    if (!made) return fail_errno(errno, "cannot make a packet socket for {}", bridge.name);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(protocol);
    where.sll_ifindex = bridge.index;
    if (::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0) {
        return fail_errno(errno, "cannot bind a packet socket to {}", bridge.name);
    }
    return made;
}

}  // namespace

Bytes adjacency_frame(MacAddress const& source, std::uint64_t number) {
    Bytes frame(probe_form.begin(), probe_form.end());
    std::ranges::copy(source.bytes, frame.begin() + at_bridge_mac);
    std::ranges::copy(source.bytes, frame.begin() + at_sender_mac);
    for (std::size_t byte = 0; byte < probe_number_bytes; ++byte) {
        frame[at_probe_number + byte] =
            static_cast<std::uint8_t>(number >> 8 * (probe_number_bytes - 1 - byte));
    }
    frame.resize(frame_min);
    return frame;
}

std::optional<std::uint64_t> adjacency_number(ByteView frame) {
    if (frame.size() < probe_form.size()) return {};
    std::uint64_t number = 0;
    for (std::size_t at = 0; at < probe_form.size(); ++at) {
        bool const source = at >= at_bridge_mac && at < at_bridge_mac + probe_number_bytes;
        bool const sender = at >= at_sender_mac && at < at_sender_mac + probe_number_bytes;
        bool const digit = at >= at_probe_number && at < at_probe_number + probe_number_bytes;
        if (digit) number = number << 8 | frame[at];
        if (!source && !sender && !digit && frame[at] != probe_form[at]) return {};
    }
    return number;
}

bool can_test_adjacency(Link const& bridge) {
    return bridge.kind == "bridge" && bridge.up && !bridge.vlan_filtering;
}

Result<> send_adjacency_frame(Link const& bridge, std::uint64_t number) {
    TRY(auto const socket, bridge_socket(bridge, 0));  // it receives nothing
    auto const frame = adjacency_frame(bridge.mac, number);
    if (::send(socket.get(), frame.data(), frame.size(), 0) < 0) {
        return fail_errno(errno, "cannot send a frame into {}", bridge.name);
    }
    return {};
}

Result<AdjacencyListener> AdjacencyListener::open(Link const& bridge) {
    TRY(auto socket, bridge_socket(bridge, static_cast<std::uint16_t>(EtherType::arp)));
    return AdjacencyListener(std::move(socket));
}

bool AdjacencyListener::heard(std::uint64_t number) {
    std::array<std::uint8_t, frame_min> buffer{};
    for (int frames = 0; frames < frames_looked_at_max; ++frames) {
        sockaddr_ll from{};
        socklen_t size = sizeof from;
        auto const got = ::recvfrom(socket_.get(), buffer.data(), buffer.size(), 0,
                                    reinterpret_cast<sockaddr*>(&from), &size);
        if (got < 0) return false;  // there is no more, or the bridge was deleted
        // Ours, on its way out, when both bridges are one.
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        auto const bytes = std::min(static_cast<std::size_t>(got), buffer.size());
        if (adjacency_number(ByteView(buffer).first(bytes)) == number) return true;
    }
    return false;
}

}  // namespace netmove
