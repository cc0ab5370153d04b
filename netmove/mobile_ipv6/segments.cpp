#include "netmove/mobile_ipv6/segments.hpp"

#include <algorithm>
#include <optional>

#include "netmove/mobile_ipv6/headers.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

namespace {

constexpr std::uint8_t next_is_tcp = 6;
constexpr std::size_t tcp_header_min = 20;
constexpr std::size_t tcp_flags_at = 13;
constexpr std::uint8_t tcp_fin = 0x01;
constexpr std::uint8_t tcp_push = 0x08;
constexpr std::uint8_t tcp_window_reduced = 0x80;
constexpr unsigned ipv4_fragment_bits = 0x3fff;  // more fragments, and the offset

struct TcpPacket {
    bool ipv4 = false;
    ByteView ip;
    ByteView tcp;
    ByteView data;
};

std::optional<TcpPacket> read_tcp(ByteView bytes) {
    auto const packet = ip_packet(bytes);
    if (!packet) return std::nullopt;
    TcpPacket made;
    made.ipv4 = (*packet)[0] >> 4 == 4;
    auto const next = (*packet)[made.ipv4 ? 9 : 6];
    bool const is_fragment = made.ipv4 && (get16(*packet, 6) & ipv4_fragment_bits) != 0;
    if (next != next_is_tcp || is_fragment) return std::nullopt;
    auto const ip_size =
        made.ipv4 ? std::size_t{(*packet)[0] & 0x0fU} * 4 : std::size_t{ipv6_header_size};
    made.ip = packet->first(ip_size);
    auto const rest = packet->subspan(ip_size);
    if (rest.size() < tcp_header_min) return std::nullopt;
    auto const tcp_size = std::size_t{rest[12]} / 16 * 4;
    if (tcp_size < tcp_header_min || tcp_size > rest.size()) return std::nullopt;
    made.tcp = rest.first(tcp_size);
    made.data = rest.subspan(tcp_size);
    return made;
}

void write16(Bytes& bytes, std::size_t at, unsigned value) {
    bytes[at] = static_cast<std::uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<std::uint8_t>(value & 0xff);
}

/// The `number`th segment, with the data from `at` on.
Bytes segment_of(TcpPacket const& whole, std::size_t at, std::size_t size, unsigned number) {
    bool const last = at + size == whole.data.size();
    Bytes out(whole.ip.begin(), whole.ip.end());
    put(out, whole.tcp);
    put(out, whole.data.subspan(at, size));
    auto const tcp_at = whole.ip.size();
    auto const sequence = get32(whole.tcp, 4) + static_cast<std::uint32_t>(at);
    write16(out, tcp_at + 4, sequence >> 16);
    write16(out, tcp_at + 6, sequence & 0xffff);
    auto& flags = out[tcp_at + tcp_flags_at];
    if (!last) flags &= static_cast<std::uint8_t>(~(tcp_fin | tcp_push));
    if (number > 0) flags &= static_cast<std::uint8_t>(~tcp_window_reduced);
    if (whole.ipv4) {
        write16(out, 2, static_cast<unsigned>(out.size()));
        write16(out, 4, (get16(whole.ip, 4) + number) & 0xffff);
        write16(out, 10, 0);
        write16(out, 10, internet_checksum(ByteView(out).first(tcp_at)));
    } else {
        write16(out, 4, static_cast<unsigned>(out.size() - tcp_at));
    }
    auto const source = whole.ipv4 ? ipv4_at(out, 12) : ipv6_at(out, 8);
    auto const destination = whole.ipv4 ? ipv4_at(out, 16) : ipv6_at(out, 24);
    write16(out, tcp_at + 16, 0);
    write16(out, tcp_at + 16,
            upper_layer_checksum(source, destination, next_is_tcp, ByteView(out).subspan(tcp_at)));
    return out;
}

}  // namespace

std::vector<Bytes> tcp_segments(ByteView packet, std::size_t most) {
    auto const whole = read_tcp(packet);
    if (!whole || whole->ip.size() + whole->tcp.size() >= most) return {};
    auto const room = most - whole->ip.size() - whole->tcp.size();
    std::vector<Bytes> segments;
    for (std::size_t at = 0; at < whole->data.size(); at += room) {
        auto const size = std::min(room, whole->data.size() - at);
        segments.push_back(segment_of(*whole, at, size, static_cast<unsigned>(segments.size())));
    }
    return segments;
}

}  // namespace netmove::mobile_ipv6
