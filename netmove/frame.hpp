// Frames, byte for byte: what a host announces in its guest's name, and what it learns from the
// guest's own frames. Pure code over bytes: no descriptor, no clock. Whatever the bytes are,
// parsing stays inside them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "netmove/address.hpp"

namespace netmove {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<std::uint8_t const>;

/// Shortest frame without its checksum (IEEE 802.3); shorter ones are padded with zeroes.
constexpr std::size_t frame_min = 60;

enum class EtherType : std::uint16_t {
    ipv4 = 0x0800,
    arp = 0x0806,
    rarp = 0x8035,
    vlan = 0x8100,
    ipv6 = 0x86dd,
    service_vlan = 0x88a8,
};

/// RARP request for its own address, as QEMU's announce_self sends it: teaches every switch the
/// MAC's new port, carries no IP address.
Bytes rarp_announcement(MacAddress const& mac, std::uint16_t vlan = 0);

/// A gratuitous ARP announces itself in one of two forms, and receivers differ in which they
/// honour.
enum class ArpForm : std::uint8_t {
    /// Broadcast request, sender = target address, target MAC zero: RFC 5227's ARP Announcement.
    /// Sent first: every receiver merges the sender of a request (RFC 826), and no receiver takes
    /// it for an answer.
    request,
    /// Broadcast reply, target MAC = sender MAC (RFC 5944 4.6 allows both): for those that ignore
    /// requests not for them. Repeats alternate between the two.
    reply,
};
Bytes gratuitous_arp(MacAddress const& mac, Address const& ipv4, ArpForm form,
                     std::uint16_t vlan = 0);

/// Unsolicited neighbour advertisement to all nodes: Override set, target link-layer address option
/// (RFC 4861 7.2.6). `router` must be what the guest itself says: a cleared flag removes it from
/// every host's default routers (7.2.5).
Bytes neighbour_advertisement(MacAddress const& mac, Address const& ipv6, bool router,
                              std::uint16_t vlan = 0);

/// Asks whether a station has `address`, without claiming it: an ARP probe (RFC 5227 2.1.1), or the
/// neighbour solicitation of duplicate address detection (RFC 4862 5.4.2).
Bytes address_question(MacAddress const& mac, Address const& address);

/// The answer of the station `mac` to the ARP request of another one for its address `ipv4`.
Bytes arp_answer(MacAddress const& mac, Address const& ipv4, MacAddress const& to,
                 Address const& to_ipv4);

/// The answer of the router `mac` to a neighbour solicitation for its address `ipv6` (RFC 4861
/// 7.2.4). `to_ipv6`: the source of the solicitation.
Bytes router_neighbour_answer(MacAddress const& mac, Address const& ipv6, MacAddress const& to,
                              Address const& to_ipv6);

/// The station that asked with a neighbour solicitation.
struct NeighbourAsker {
    MacAddress mac;
    Address address;
};
/// The advertisement of a home agent in the name of a node that is away from its home link (RFC
/// 6275 10.4.1): Override set, Router cleared, from the agent's own address `agent`. To the station
/// that asked; without one it is unsolicited, to all nodes.
Bytes proxy_advertisement(MacAddress const& mac, Address const& agent, Address const& target,
                          std::optional<NeighbourAsker> const& asker = {});

/// A router advertisement (RFC 4861 4.2) to all nodes. `message`: the ICMPv6 message; its checksum
/// is made.
Bytes router_announcement(MacAddress const& mac, Address const& source, Bytes message);

/// A router solicitation from the unspecified address: routers answer it to all nodes (6.2.6).
Bytes router_question(MacAddress const& mac);

/// Groups one multicast report carries: a frame of 1,500 bytes has room for 72.
constexpr std::size_t report_groups_max = 64;

/// MLDv2 report that joins these groups (RFC 3810 5.2), at most report_groups_max. `source`: a
/// link-local address of the station, or :: when it has none (RFC 3590).
Bytes multicast_report(MacAddress const& mac, Address const& source,
                       std::span<Address const> groups, std::uint16_t vlan = 0);

/// All that announces an interface, for each VLAN it uses, in this order: RARP, gratuitous ARP for
/// each IPv4 address, NA for each IPv6 address, and an MLD report for their solicited-node groups:
/// a bridge that snoops would otherwise send neighbour solicitations for the guest to its old port
/// until the next query, up to 125 s.
std::vector<Bytes> announcements(MacAddress const& mac, std::span<GuestAddress const> addresses,
                                 bool router, ArpForm form);

/// ff02::1:ffXX:XXXX of an IPv6 address (RFC 4291 2.7.1).
Address solicited_node(Address const& ipv6);

/// The Internet checksum of an ICMPv6 message under its pseudo-header (RFC 4443 2.3), with the
/// checksum field as it is in `message`; 0 when that field is right.
std::uint16_t icmpv6_checksum(Address const& source, Address const& destination, ByteView message);

struct EthernetFrame {
    MacAddress destination;
    MacAddress source;
    int tags = 0;  ///< VLAN tags, 0-2.
    std::uint16_t vlan = 0;  ///< Of the innermost tag; 0: untagged or priority-tagged.
    std::uint16_t ether_type = 0;
    ByteView payload;
};
/// None when it is shorter than its headers, or has more than two VLAN tags.
std::optional<EthernetFrame> parse_ethernet(ByteView frame);

/// Whether the frame says that its sender has `address`: an ARP packet from it, or an advertisement
/// of it.
bool claims_address(EthernetFrame const& frame, Address const& address);

/// What one frame proves about the station that sent it.
struct Learned {
    std::optional<Address> address;
    /// It spoke as a router (router advertisement, or NA with the R flag); it did not (NA without);
    /// none: unknown.
    std::optional<bool> router;
};

/// What a frame sent by the station `mac` says about its own addresses. Only what the station
/// claims as its own: sender of ARP requests and gratuitous ARP, source of ND messages, target of
/// its NA with Override; source of IPv4 and IPv6 packets only when their hop limit is an initial
/// one (64, 128, 255), because a guest that routes sends other stations' packets from its MAC.
/// Ignored: other stations' frames, those under two VLAN tags, ARP replies (they may be proxied),
/// probes from 0.0.0.0 and DAD from ::, addresses no station can have.
Learned learn(MacAddress const& mac, EthernetFrame const& frame);

}  // namespace netmove
