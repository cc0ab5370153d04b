// Where the fields of ARP, IPv6 and neighbour discovery lie in a packet, numbers in network order,
// and the Internet checksum. For frame.cpp, home_gateway.cpp and mobile_ipv6/ only. The caller has
// checked that what it reads is there.
#pragma once

#include "netmove/frame.hpp"

namespace netmove {

inline constexpr std::uint8_t next_is_icmpv6 = 58;
inline constexpr std::size_t ipv6_header_size = 40;
/// ARP for IPv4 over Ethernet (RFC 826).
inline constexpr std::size_t arp_size = 28;

/// ICMPv6 types of neighbour discovery (RFC 4861 4).
enum DiscoveryType : std::uint8_t {
    router_solicitation = 133,
    router_advertisement = 134,
    neighbour_solicitation = 135,
    neighbour_advert = 136,
};

inline unsigned get16(ByteView bytes, std::size_t at) {
    return static_cast<unsigned>(bytes[at]) << 8 | bytes[at + 1];
}
inline std::uint32_t get32(ByteView bytes, std::size_t at) {
    return std::uint32_t{get16(bytes, at)} << 16 | get16(bytes, at + 2);
}
inline Address ipv4_at(ByteView bytes, std::size_t at) {
    return Address::ipv4(bytes.subspan(at).first<4>());
}
inline Address ipv6_at(ByteView bytes, std::size_t at) {
    return Address::ipv6(bytes.subspan(at).first<16>());
}

inline void put8(Bytes& out, unsigned value) { out.push_back(static_cast<std::uint8_t>(value)); }
inline void put16(Bytes& out, unsigned value) {
    put8(out, value >> 8 & 0xff);
    put8(out, value & 0xff);
}
inline void put32(Bytes& out, std::uint32_t value) {
    put16(out, value >> 16);
    put16(out, value & 0xffff);
}
inline void put(Bytes& out, ByteView bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }
inline void put(Bytes& out, MacAddress const& mac) { put(out, ByteView(mac.bytes)); }

/// The sum under the Internet checksum (RFC 1071), not folded, so of at most 128 KiB. Only the last
/// part of what is summed may have an odd number of bytes.
inline std::uint32_t checksum_sum(ByteView bytes, std::uint32_t sum = 0) {
    for (std::size_t i = 0; i < bytes.size(); i += 2) {
        sum += std::uint32_t{bytes[i]} << 8;
        if (i + 1 < bytes.size()) sum += bytes[i + 1];
    }
    return sum;
}
/// The Internet checksum of `bytes`, with its field as it is in them; 0 when that field is right.
inline std::uint16_t internet_checksum(ByteView bytes, std::uint32_t sum = 0) {
    sum = checksum_sum(bytes, sum);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum & 0xffff);
}
/// The same of a message of the protocol `next` under its pseudo-header (RFC 8200 8.1, RFC 768).
inline std::uint16_t upper_layer_checksum(Address const& source, Address const& destination,
                                          std::uint8_t next, ByteView message) {
    auto const addresses = checksum_sum(destination.bytes(), checksum_sum(source.bytes()));
    return internet_checksum(message,
                             addresses + next + static_cast<std::uint32_t>(message.size()));
}

/// ARP for IPv4 over Ethernet.
inline bool is_arp_for_ipv4(ByteView arp) {
    return arp.size() >= arp_size && get16(arp, 0) == 1 && get16(arp, 2) == 0x0800 && arp[4] == 6 &&
           arp[5] == 4;
}

}  // namespace netmove
