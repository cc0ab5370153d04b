// Whole packets of Mobile IPv6: what is around a Mobility Header, and packets in packets. Pure code
// over bytes.
//
//   mobile node → home agent   IPv6, destination options (Home Address), Mobility Header
//   home agent → mobile node   IPv6, type 2 routing header, Mobility Header
//   data, both ways            IPv6, then IPv6 or IPv4 of the guest (RFC 2473, RFC 5555 4.1)
//   over an IPv4 network       IPv4, or IPv4 and UDP 4191, then IPv6 or IPv4 at once (RFC 5555 4.1)
//
// Invariant: whatever the bytes are, parsing stays inside them. Views that are returned point into
// the bytes that were parsed.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <vector>

#include "netmove/mobile_ipv6/message.hpp"

namespace netmove::mobile_ipv6 {

/// UDP port of the home agent and of the mobile node over IPv4 networks (RFC 5555 4.1).
constexpr std::uint16_t dual_stack_port = 4191;
/// Hop limit of the outer header, and of signalling.
constexpr std::uint8_t hop_limit = 64;
/// Each IPv6 link carries packets of this size (RFC 8200 5).
constexpr std::size_t ipv6_mtu_min = 1'280;

// ---- signalling -------------------------------------------------------------------------------

/// A message between a mobile node and its home agent, with the addresses of its packet.
struct SignallingPacket {
    Address source;  ///< Of the IPv6 header: the care-of address, or the home agent.
    Address destination;
    /// In the Home Address option (6.3), which a Binding Update carries unless it is sent from the
    /// home address itself.
    std::optional<Address> home_option{};
    /// In the type 2 routing header (6.4): the last destination.
    std::optional<Address> routing_home{};
    Message message{};

    /// The mobile node's home address: that of the option or of the routing header; else `source`
    /// of a Binding Update and `destination` of any other message.
    [[nodiscard]] Address home_address() const;
    friend bool operator==(SignallingPacket const&, SignallingPacket const&) = default;
};

/// From the IPv6 header on. All addresses are IPv6. `source` is one host's. So are `home_option`,
/// `routing_home` and the home address of a Binding Update, which are not link-local either:
/// parse_packet() takes no others (9.3.1, 9.5.1, 11.3.3).
Bytes encode(SignallingPacket const& packet);

/// Why a packet is not a SignallingPacket.
enum class NotSignalling : std::uint8_t {
    other,  ///< It carries no Mobility Header: not for us.
    malformed,  ///< It does, or could, and the bytes are wrong.
    bad_checksum,
};
/// Reads an IPv6 packet from its IPv6 header on; bytes after its end are ignored. Hop-by-hop
/// options are skipped, and so are destination options that may be (RFC 8200 4.2). `malformed` are
/// also a fragment of a Mobility Header, because signalling fits any link; a routing header with
/// segments left that is not type 2; two Home Address options; a source, or a home address, that no
/// host has.
std::expected<SignallingPacket, NotSignalling> parse_packet(ByteView bytes);

// ---- packets in packets -----------------------------------------------------------------------

/// The IPv6 or IPv4 packet that `bytes` begin with, without what follows it. None: they begin with
/// neither, or it is cut off. This is also how the payload of a UDP datagram of dual_stack_port is
/// read: the packet begins there at once, with no header between (RFC 5555 4.1).
std::optional<ByteView> ip_packet(ByteView bytes);

/// The outer header for `inner`, an IPv6 or IPv4 packet of at most 65,535 bytes. The traffic class
/// is copied from it (RFC 2473 6.4), and with it its ECN field (RFC 6040 4.1).
std::array<std::uint8_t, 40> outer_header(Address const& source, Address const& destination,
                                          ByteView inner);

/// One end of a tunnel over an IPv4 network.
struct Ipv4End {
    Address address;  ///< IPv4.
    std::uint16_t port = 0;  ///< UDP; 0: there is no UDP header.
    friend bool operator==(Ipv4End const&, Ipv4End const&) = default;
};
/// The outer headers over an IPv4 network: IPv4 (20 bytes), and UDP (8 more) if both ends have a
/// port. Packets are not to be fragmented (DF). `inner` as for outer_header(); all together at most
/// 65,535 bytes.
Bytes outer_ipv4_header(Ipv4End const& source, Ipv4End const& destination, ByteView inner);

/// A packet that came in another one.
struct Decapsulated {
    Address source;  ///< Of the outer header: IPv6, or IPv4.
    Address destination;
    std::uint16_t udp_source = 0;  ///< 0: no UDP header.
    std::uint16_t udp_destination = 0;
    std::uint8_t traffic_class = 0;  ///< Of the outer header; see carry_congestion().
    ByteView inner{};  ///< A whole IPv6 or IPv4 packet.
    [[nodiscard]] bool inner_is_ipv4() const { return (inner[0] >> 4) == 4; }
};
/// Reads an outer packet, IPv6 or IPv4, from its header on. None: it carries no packet, or it is a
/// fragment, or the checksum of IPv4 or UDP is wrong. Only tests need it, to read what
/// outer_header() and outer_ipv4_header() make: the sockets of the home agent get packets without
/// their outer headers, and from the kernel whole.
std::optional<Decapsulated> decapsulate(ByteView bytes);

/// Where congestion was marked in the outer header, `inner` is marked too (RFC 6040 4.2); an IPv4
/// packet's checksum follows. False: `inner` must be dropped, because its sender does not know ECN.
[[nodiscard]] bool carry_congestion(std::uint8_t outer_traffic_class,
                                    std::span<std::uint8_t> inner);

/// ICMPv6 Packet Too Big (RFC 4443 3.2) to the source of `offending`, an IPv6 packet from its
/// header on; or for an IPv4 packet ICMP "fragmentation needed" (RFC 1191). From `router`, of the
/// packet's family. As much of the packet as fits in 1280 bytes (IPv4: 576). `mtu`: bytes; at least
/// 1280 is said (IPv4: 68). None: it must not be answered, because it is an ICMP error, its source
/// is no host, or, of IPv4, its destination is none, or it may be fragmented, or it is a later
/// fragment.
std::optional<Bytes> packet_too_big(Address const& router, ByteView offending, std::uint32_t mtu);

/// Cuts an outer packet, an outer_header() and its inner packet, into fragments of at most `mtu`
/// bytes, at least ipv6_mtu_min (RFC 8200 4.5). One packet as it is if it fits. `identification`: a
/// number of its own for each packet between the two addresses.
std::vector<Bytes> fragment(ByteView packet, std::size_t mtu, std::uint32_t identification);

}  // namespace netmove::mobile_ipv6
