// Where the fields of ARP, IPv6 and neighbour discovery lie in a packet. For frame.cpp and
// home_gateway.cpp only. The caller has checked that the packet is long enough.
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
inline Address ipv4_at(ByteView bytes, std::size_t at) {
    return Address::ipv4(bytes.subspan(at).first<4>());
}
inline Address ipv6_at(ByteView bytes, std::size_t at) {
    return Address::ipv6(bytes.subspan(at).first<16>());
}

/// ARP for IPv4 over Ethernet.
inline bool is_arp_for_ipv4(ByteView arp) {
    return arp.size() >= arp_size && get16(arp, 0) == 1 && get16(arp, 2) == 0x0800 && arp[4] == 6 &&
           arp[5] == 4;
}

}  // namespace netmove
