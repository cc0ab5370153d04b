#include "netmove/frame.hpp"

#include <algorithm>
#include <cassert>
#include <set>

#include "netmove/frame_fields.hpp"

namespace netmove {

namespace {

constexpr MacAddress broadcast_mac{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
constexpr std::uint16_t vlan_id_mask = 0x0fff;
constexpr std::uint8_t hop_by_hop = 0;
// More tags than a service tag and a customer tag no network of ours carries.
constexpr int vlan_tags_max = 2;

constexpr std::uint8_t mld2_report = 143;
constexpr std::uint8_t na_router = 0x80;
constexpr std::uint8_t na_solicited = 0x40;
constexpr std::uint8_t na_override = 0x20;
constexpr std::uint8_t option_target_link_layer = 2;

Bytes ethernet(MacAddress const& destination, MacAddress const& source, std::uint16_t vlan,
               EtherType type) {
    Bytes out;
    out.reserve(128);
    put(out, destination);
    put(out, source);
    if (vlan != 0) {
        put16(out, static_cast<unsigned>(EtherType::vlan));
        put16(out, vlan & vlan_id_mask);
    }
    put16(out, static_cast<unsigned>(type));
    return out;
}

void pad(Bytes& out) { out.resize(std::max(out.size(), frame_min)); }

struct ArpFields {
    unsigned operation;
    std::array<std::uint8_t, 4> sender_ip{};
    MacAddress target_mac;
    std::array<std::uint8_t, 4> target_ip{};
};

Bytes arp_frame(EtherType type, MacAddress const& mac, std::uint16_t vlan,
                ArpFields const& fields) {
    Bytes out = ethernet(broadcast_mac, mac, vlan, type);
    put16(out, 1);  // Ethernet
    put16(out, static_cast<unsigned>(EtherType::ipv4));
    put8(out, 6);
    put8(out, 4);
    put16(out, fields.operation);
    put(out, mac);
    put(out, ByteView(fields.sender_ip));
    put(out, fields.target_mac);
    put(out, ByteView(fields.target_ip));
    pad(out);
    return out;
}

/// 33:33 and the last four bytes of the group (RFC 2464 7).
MacAddress group_mac(Address const& group) {
    auto const bytes = group.bytes();
    return {{0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]}};
}

/// An IPv6 packet around `message`, whose checksum (its bytes 2 and 3) is filled in. `extension`
/// stands between the IPv6 header and the message.
Bytes icmpv6_frame(MacAddress const& mac, std::uint16_t vlan, Address const& source,
                   Address const& destination, ByteView extension, unsigned hop_limit,
                   Bytes message) {
    unsigned const sum = icmpv6_checksum(source, destination, message);
    message[2] = static_cast<std::uint8_t>(sum >> 8);
    message[3] = static_cast<std::uint8_t>(sum & 0xff);
    Bytes out = ethernet(group_mac(destination), mac, vlan, EtherType::ipv6);
    put8(out, 0x60);
    put8(out, 0);
    put16(out, 0);
    put16(out, static_cast<unsigned>(extension.size() + message.size()));
    put8(out, extension.empty() ? next_is_icmpv6 : hop_by_hop);
    put8(out, hop_limit);
    put(out, source.bytes());
    put(out, destination.bytes());
    put(out, extension);
    put(out, message);
    return out;
}

/// The frame, to one station.
Bytes sent_to(MacAddress const& station, Bytes frame) {
    std::ranges::copy(station.bytes, frame.begin());
    return frame;
}

constexpr std::uint8_t all_nodes[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
constexpr std::uint8_t all_routers[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
constexpr std::uint8_t all_mld2_routers[16] = {0xff, 2, 0, 0, 0, 0, 0, 0,
                                               0,    0, 0, 0, 0, 0, 0, 0x16};

bool is_initial_hop_limit(std::uint8_t hops) { return hops == 64 || hops == 128 || hops == 255; }

std::optional<Address> if_host(Address const& address) {
    if (!address.is_host()) return std::nullopt;
    return address;
}

Learned learn_arp(MacAddress const& mac, ByteView arp) {
    if (!is_arp_for_ipv4(arp) || !std::ranges::equal(arp.subspan(8, 6), mac.bytes)) return {};
    auto const sender = ipv4_at(arp, 14);
    unsigned const operation = get16(arp, 6);
    bool const claims = operation == 1 || (operation == 2 && sender == ipv4_at(arp, 24));
    if (!claims) return {};
    return {if_host(sender), std::nullopt};
}

/// False when the options name another station's MAC as the target's, or are malformed.
bool target_is_ours(MacAddress const& mac, ByteView options) {
    while (!options.empty()) {
        if (options.size() < 8 || options[1] == 0) return false;
        std::size_t const size = std::size_t{8} * options[1];
        if (size > options.size()) return false;
        if (options[0] == option_target_link_layer &&
            !std::ranges::equal(options.subspan(2, 6), mac.bytes)) {
            return false;
        }
        options = options.subspan(size);
    }
    return true;
}

Learned learn_discovery(MacAddress const& mac, Address const& source, ByteView message) {
    switch (message[0]) {
        case router_advertisement:
            if (message.size() < 16) return {};
            return {if_host(source), true};
        case router_solicitation:
        case neighbour_solicitation:
            return {if_host(source), std::nullopt};
        case neighbour_advert: {
            if (message.size() < 24 || !target_is_ours(mac, message.subspan(24))) return {};
            bool const router = (message[4] & na_router) != 0;
            // Without Override it may be a proxy's, or an anycast address (RFC 4861 7.2.7, 7.2.8).
            bool const own = (message[4] & na_override) != 0;
            return {if_host(own ? ipv6_at(message, 8) : source), router};
        }
        default:
            return {};
    }
}

Learned learn_ipv6(MacAddress const& mac, ByteView packet) {
    if (packet.size() < ipv6_header_size || packet[0] >> 4 != 6) return {};
    auto const source = ipv6_at(packet, 8);
    auto const payload_size =
        std::min<std::size_t>(get16(packet, 4), packet.size() - ipv6_header_size);
    auto const payload = packet.subspan(ipv6_header_size, payload_size);
    if (packet[6] == next_is_icmpv6 && payload.size() >= 8 && payload[0] >= router_solicitation &&
        payload[0] <= neighbour_advert) {
        // RFC 4861: a hop limit below 255 means that it came through a router; it must be ignored.
        if (packet[7] != 255 || payload[1] != 0) return {};
        return learn_discovery(mac, source, payload);
    }
    if (!is_initial_hop_limit(packet[7])) return {};
    return {if_host(source), std::nullopt};
}

Learned learn_ipv4(ByteView packet) {
    if (packet.size() < 20 || packet[0] >> 4 != 4 || (packet[0] & 0x0f) < 5) return {};
    if (!is_initial_hop_limit(packet[8])) return {};
    return {if_host(ipv4_at(packet, 12)), std::nullopt};
}

/// One VLAN's share of announcements().
void announce_vlan(std::vector<Bytes>& out, MacAddress const& mac,
                   std::span<GuestAddress const> addresses, std::uint16_t vlan, bool router,
                   ArpForm form) {
    out.push_back(rarp_announcement(mac, vlan));
    Address report_source = Address::ipv6(std::array<std::uint8_t, 16>{});
    std::set<Address> groups;
    for (auto const& [address, its_vlan] : addresses) {
        if (its_vlan != vlan) continue;
        if (address.is_ipv4()) {
            out.push_back(gratuitous_arp(mac, address, form, vlan));
            continue;
        }
        out.push_back(neighbour_advertisement(mac, address, router, vlan));
        groups.insert(solicited_node(address));
        if (address.is_link_local() && !report_source.is_link_local()) report_source = address;
    }
    std::vector<Address> const all(groups.begin(), groups.end());
    for (std::size_t at = 0; at < all.size(); at += report_groups_max) {
        auto const part = std::span(all).subspan(at, std::min(report_groups_max, all.size() - at));
        out.push_back(multicast_report(mac, report_source, part, vlan));
    }
}

}  // namespace

Bytes rarp_announcement(MacAddress const& mac, std::uint16_t vlan) {
    constexpr unsigned request_reverse = 3;
    return arp_frame(EtherType::rarp, mac, vlan, {request_reverse, {}, mac, {}});
}

Bytes address_question(MacAddress const& mac, Address const& address) {
    if (address.is_ipv4()) {
        ArpFields fields{1, {}, {}, {}};
        std::ranges::copy(address.bytes(), fields.target_ip.begin());
        return arp_frame(EtherType::arp, mac, 0, fields);
    }
    std::array<std::uint8_t, 16> const unspecified{};
    Bytes message{neighbour_solicitation, 0, 0, 0, 0, 0, 0, 0};
    put(message, address.bytes());
    return icmpv6_frame(mac, 0, Address::ipv6(std::span(unspecified)), solicited_node(address), {},
                        255, std::move(message));
}

bool claims_address(EthernetFrame const& frame, Address const& address) {
    auto const& payload = frame.payload;
    if (address.is_ipv4()) {
        return frame.ether_type == static_cast<unsigned>(EtherType::arp) &&
               payload.size() >= arp_size && get16(payload, 2) == 0x0800 &&
               ipv4_at(payload, 14) == address;
    }
    return frame.ether_type == static_cast<unsigned>(EtherType::ipv6) &&
           payload.size() >= ipv6_header_size + 24 && payload[6] == next_is_icmpv6 &&
           payload[7] == 255 && payload[ipv6_header_size] == neighbour_advert &&
           ipv6_at(payload, ipv6_header_size + 8) == address;
}

Bytes gratuitous_arp(MacAddress const& mac, Address const& ipv4, ArpForm form, std::uint16_t vlan) {
    assert(ipv4.is_ipv4());
    std::array<std::uint8_t, 4> ip{};
    std::ranges::copy(ipv4.bytes(), ip.begin());
    bool const request = form == ArpForm::request;
    return arp_frame(EtherType::arp, mac, vlan,
                     {request ? 1U : 2U, ip, request ? MacAddress{} : mac, ip});
}

Bytes neighbour_advertisement(MacAddress const& mac, Address const& ipv6, bool router,
                              std::uint16_t vlan) {
    assert(ipv6.is_ipv6());
    Bytes message{neighbour_advert, 0, 0, 0};
    put8(message, na_override | (router ? na_router : 0U));
    put8(message, 0);
    put16(message, 0);
    put(message, ipv6.bytes());
    put8(message, option_target_link_layer);
    put8(message, 1);  // length, in units of 8 bytes
    put(message, mac);
    return icmpv6_frame(mac, vlan, ipv6, Address::ipv6(all_nodes), {}, 255, std::move(message));
}

Bytes arp_answer(MacAddress const& mac, Address const& ipv4, MacAddress const& to,
                 Address const& to_ipv4) {
    assert(ipv4.is_ipv4() && to_ipv4.is_ipv4());
    ArpFields fields{2, {}, to, {}};
    std::ranges::copy(ipv4.bytes(), fields.sender_ip.begin());
    std::ranges::copy(to_ipv4.bytes(), fields.target_ip.begin());
    return sent_to(to, arp_frame(EtherType::arp, mac, 0, fields));
}

Bytes router_neighbour_answer(MacAddress const& mac, Address const& ipv6, MacAddress const& to,
                              Address const& to_ipv6) {
    assert(ipv6.is_ipv6() && to_ipv6.is_ipv6());
    Bytes message{neighbour_advert, 0, 0, 0, na_router | na_solicited | na_override, 0, 0, 0};
    put(message, ipv6.bytes());
    put8(message, option_target_link_layer);
    put8(message, 1);  // length, in units of 8 bytes
    put(message, mac);
    return sent_to(to, icmpv6_frame(mac, 0, ipv6, to_ipv6, {}, 255, std::move(message)));
}

Bytes proxy_advertisement(MacAddress const& mac, Address const& agent, Address const& target,
                          std::optional<NeighbourAsker> const& asker) {
    assert(agent.is_ipv6() && target.is_ipv6());
    Bytes message{neighbour_advert, 0, 0, 0, na_override, 0, 0, 0};
    if (asker) message[4] |= na_solicited;
    put(message, target.bytes());
    put8(message, option_target_link_layer);
    put8(message, 1);  // length, in units of 8 bytes
    put(message, mac);
    auto const to = asker ? asker->address : Address::ipv6(all_nodes);
    auto frame = icmpv6_frame(mac, 0, agent, to, {}, 255, std::move(message));
    return asker ? sent_to(asker->mac, std::move(frame)) : frame;
}

Bytes router_announcement(MacAddress const& mac, Address const& source, Bytes message) {
    assert(message.size() >= 16);
    message[2] = message[3] = 0;
    return icmpv6_frame(mac, 0, source, Address::ipv6(all_nodes), {}, 255, std::move(message));
}

Bytes router_question(MacAddress const& mac) {
    std::array<std::uint8_t, 16> const unspecified{};
    return icmpv6_frame(mac, 0, Address::ipv6(std::span(unspecified)), Address::ipv6(all_routers),
                        {}, 255, {router_solicitation, 0, 0, 0, 0, 0, 0, 0});
}

Bytes multicast_report(MacAddress const& mac, Address const& source,
                       std::span<Address const> groups, std::uint16_t vlan) {
    assert(groups.size() <= report_groups_max);
    constexpr std::uint8_t change_to_exclude = 4;  // no source excluded: a join
    Bytes message{mld2_report, 0, 0, 0, 0, 0};
    put16(message, static_cast<unsigned>(groups.size()));
    for (auto const& group : groups) {
        put8(message, change_to_exclude);
        put8(message, 0);
        put16(message, 0);
        put(message, group.bytes());
    }
    // Hop-by-hop header: router alert for MLD (RFC 2711), padded to eight bytes.
    constexpr std::uint8_t router_alert[] = {next_is_icmpv6, 0, 5, 2, 0, 0, 1, 0};
    return icmpv6_frame(mac, vlan, source, Address::ipv6(all_mld2_routers), router_alert, 1,
                        std::move(message));
}

std::vector<Bytes> announcements(MacAddress const& mac, std::span<GuestAddress const> addresses,
                                 bool router, ArpForm form) {
    std::vector<Bytes> out;
    std::set<std::uint16_t> vlans{0};
    for (auto const& entry : addresses) vlans.insert(entry.vlan);
    for (auto const vlan : vlans) announce_vlan(out, mac, addresses, vlan, router, form);
    return out;
}

Address solicited_node(Address const& ipv6) {
    assert(ipv6.is_ipv6());
    std::array<std::uint8_t, 16> group{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0};
    std::ranges::copy(ipv6.bytes().subspan(13), group.begin() + 13);
    return Address::ipv6(group);
}

std::uint16_t icmpv6_checksum(Address const& source, Address const& destination, ByteView message) {
    return upper_layer_checksum(source, destination, next_is_icmpv6, message);
}

std::optional<EthernetFrame> parse_ethernet(ByteView frame) {
    if (frame.size() < 14) return std::nullopt;
    EthernetFrame out;
    std::ranges::copy(frame.first(6), out.destination.bytes.begin());
    std::ranges::copy(frame.subspan(6, 6), out.source.bytes.begin());
    std::size_t at = 12;
    for (;;) {
        unsigned const type = get16(frame, at);
        at += 2;
        bool const tag = type == static_cast<unsigned>(EtherType::vlan) ||
                         type == static_cast<unsigned>(EtherType::service_vlan);
        if (!tag) {
            out.ether_type = static_cast<std::uint16_t>(type);
            out.payload = frame.subspan(at);
            return out;
        }
        if (out.tags == vlan_tags_max || frame.size() < at + 4) return std::nullopt;
        out.vlan = static_cast<std::uint16_t>(get16(frame, at) & vlan_id_mask);
        at += 2;
        ++out.tags;
    }
}

Learned learn(MacAddress const& mac, EthernetFrame const& frame) {
    // Under two tags it could not be announced: announcements carry one.
    if (frame.source != mac || frame.tags > 1) return {};
    switch (static_cast<EtherType>(frame.ether_type)) {
        case EtherType::arp:
            return learn_arp(mac, frame.payload);
        case EtherType::ipv4:
            return learn_ipv4(frame.payload);
        case EtherType::ipv6:
            return learn_ipv6(mac, frame.payload);
        default:
            return {};
    }
}

}  // namespace netmove
