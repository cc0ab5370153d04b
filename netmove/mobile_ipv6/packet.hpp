// Whole IPv6 packets of Mobile IPv6: what is around a Mobility Header, and packets in packets. Pure
// code over bytes.
//
//   mobile node → home agent   IPv6, destination options (Home Address), Mobility Header
//   home agent → mobile node   IPv6, type 2 routing header, Mobility Header
//   data, both ways            IPv6, IPv6 or IPv4 of the guest (RFC 2473, RFC 5555 4.1)
//   over an IPv4 network       IPv4, UDP 4191, then IPv6 or IPv4 at once (RFC 5555 4.1)
//
// Invariant: whatever the bytes are, parsing stays inside them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/result.hpp"
#include "netmove/mobile_ipv6/message.hpp"

namespace netmove::mobile_ipv6 {

/// UDP port of the home agent and of the mobile node over IPv4 networks (RFC 5555 4.1).
constexpr std::uint16_t dual_stack_port = 4191;
/// Hop limit of the outer header, and of signalling.
constexpr std::uint8_t hop_limit = 64;

/// A message between a mobile node and its home agent, with the addresses of its packet.
struct SignallingPacket {
    Address source;  ///< Of the IPv6 header: the care-of address, or the home agent.
    Address destination;
    /// In the Home Address option (6.3), which a Binding Update carries unless it is sent from the
    /// home address itself.
    std::optional<Address> home_option;
    /// In the type 2 routing header (6.4): the last destination.
    std::optional<Address> routing_home;
    Message message;

    /// The mobile node's home address: that of the option or of the routing header; else `source`
    /// of a Binding Update and `destination` of any other message.
    [[nodiscard]] Address home_address() const;
    friend bool operator==(SignallingPacket const&, SignallingPacket const&) = default;
};

/// From the IPv6 header on. All addresses are IPv6.
Bytes encode(SignallingPacket const& packet);

/// Why a packet is not a SignallingPacket.
enum class NotSignalling : std::uint8_t {
    other,  ///< It carries no Mobility Header: not for us.
    malformed,  ///< It does, or ought to, and the bytes are wrong.
    bad_checksum,
};
/// Reads an IPv6 packet from its IPv6 header on. Hop-by-hop options are skipped; a fragment is
/// `malformed`: signalling fits any link. A routing header that is not type 2 with one segment left
/// is `malformed`.
std::expected<SignallingPacket, NotSignalling> parse_packet(ByteView bytes);

/// The outer header for a packet of `payload` bytes: 40 bytes. `inner_is_ipv4`: next header 4 in
/// place of 41. The traffic class is copied from the inner packet (RFC 2473 6.4).
std::array<std::uint8_t, 40> outer_header(Address const& source, Address const& destination,
                                          ByteView inner);

/// A packet that came in another one. `inner` points into the bytes that were parsed.
struct Decapsulated {
    Address source;  ///< Of the outer header.
    Address destination;
    ByteView inner;
    [[nodiscard]] bool inner_is_ipv4() const { return (inner[0] >> 4) == 4; }
};
/// Reads an outer IPv6 packet. None: it carries no IPv6 and no IPv4 packet, or it is a fragment.
std::optional<Decapsulated> decapsulate(ByteView bytes);

/// ICMPv6 Packet Too Big (RFC 4443 3.2) to the source of `offending`, an IPv6 packet from its header
/// on; or for an IPv4 packet ICMP "fragmentation needed" (RFC 1191). From `router`, of the packet's
/// family. As much of the packet as fits in 1280 bytes (IPv4: 576). None: it must not be answered
/// (it is itself an ICMP error, or its source is no host).
std::optional<Bytes> packet_too_big(Address const& router, ByteView offending, std::uint32_t mtu);

/// Cuts an outer packet, with its IPv6 header, into fragments of at most `mtu` bytes (RFC 8200 4.5).
/// One packet if it fits. `identification`: a number of its own for each packet.
std::vector<Bytes> fragment(ByteView packet, std::size_t mtu, std::uint32_t identification);

}  // namespace netmove::mobile_ipv6
