// Packets in packets: the parts of packet.hpp that are about data.
#include <algorithm>
#include <cassert>

#include "netmove/mobile_ipv6/headers.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

namespace {

// IPv4 header (RFC 791 3.1).
constexpr unsigned dont_fragment = 0x4000;
constexpr unsigned more_fragments = 0x2000;
constexpr unsigned fragment_offset_mask = 0x1fff;
constexpr std::size_t ipv4_checksum_at = 10;

constexpr std::uint8_t icmpv6_packet_too_big = 2;
/// Types below are errors; and a redirect is not answered either (RFC 4443 2.4 (e)).
constexpr std::uint8_t icmpv6_informational = 128;
constexpr std::uint8_t icmpv6_redirect = 137;
constexpr std::uint8_t icmpv4_unreachable = 3;
constexpr std::uint8_t icmpv4_fragmentation_needed = 4;
/// An ICMP error is no longer than this (RFC 1812 4.3.2.3).
constexpr std::size_t icmpv4_error_max = 576;
/// Each IPv4 link carries packets of this size (RFC 791).
constexpr std::uint32_t ipv4_mtu_min = 68;
constexpr std::size_t icmp_error_header_size = 8;

unsigned version_of(ByteView packet) { return packet[0] >> 4; }

std::size_t ipv4_header_length(ByteView packet) { return std::size_t{packet[0] & 0x0fU} * 4; }

std::uint8_t number_of(ByteView inner) {
    return version_of(inner) == 4 ? next_is_ipv4 : next_is_ipv6;
}

std::uint8_t traffic_class_of(ByteView packet) {
    if (version_of(packet) == 4) return packet[1];
    return static_cast<std::uint8_t>(packet[0] << 4 | packet[1] >> 4);
}

void set16(std::span<std::uint8_t> bytes, std::size_t at, unsigned value) {
    bytes[at] = static_cast<std::uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<std::uint8_t>(value & 0xff);
}

/// An IPv4 header without options, for `payload` bytes after it.
Bytes ipv4_header(Address const& source, Address const& destination, std::uint8_t protocol,
                  std::uint8_t service, std::size_t payload) {
    assert(source.is_ipv4() && destination.is_ipv4());
    assert(ipv4_header_size + payload <= length_field_max);
    Bytes out{0x45, service};
    put16(out, static_cast<unsigned>(ipv4_header_size + payload));
    put16(out, 0);  // identification: none is needed with DF (RFC 6864)
    put16(out, dont_fragment);
    put8(out, hop_limit);
    put8(out, protocol);
    put16(out, 0);
    put(out, source.bytes());
    put(out, destination.bytes());
    set16(out, ipv4_checksum_at, internet_checksum(out));
    return out;
}

std::optional<Decapsulated> with_inner(Decapsulated outer, std::uint8_t number, ByteView payload) {
    if (number != next_is_ipv4 && number != next_is_ipv6) return std::nullopt;
    auto const inner = ip_packet(payload);
    if (!inner || number_of(*inner) != number) return std::nullopt;
    outer.inner = *inner;
    return outer;
}

std::optional<Decapsulated> decapsulate_udp(Decapsulated outer, ByteView payload) {
    if (payload.size() < udp_header_size) return std::nullopt;
    std::size_t const size = get16(payload, 4);
    if (size < udp_header_size || size > payload.size()) return std::nullopt;
    auto const datagram = payload.first(size);
    // 0: the sender made no checksum (RFC 768).
    if (get16(datagram, 6) != 0 &&
        upper_layer_checksum(outer.source, outer.destination, next_is_udp, datagram) != 0) {
        return std::nullopt;
    }
    outer.udp_source = static_cast<std::uint16_t>(get16(datagram, 0));
    outer.udp_destination = static_cast<std::uint16_t>(get16(datagram, 2));
    if (outer.udp_source != dual_stack_port && outer.udp_destination != dual_stack_port) {
        return std::nullopt;
    }
    if (outer.udp_source == 0) return std::nullopt;  // it expects no answer (RFC 768)
    auto const inner = datagram.subspan(udp_header_size);
    if (inner.empty()) return std::nullopt;
    return with_inner(outer, number_of(inner), inner);
}

std::optional<Decapsulated> decapsulate_ipv4(ByteView packet) {
    auto const header = packet.first(ipv4_header_length(packet));
    bool const is_fragment = (get16(packet, 6) & (more_fragments | fragment_offset_mask)) != 0;
    if (is_fragment || internet_checksum(header) != 0) return std::nullopt;
    Decapsulated const outer{.source = ipv4_at(packet, 12),
                             .destination = ipv4_at(packet, 16),
                             .traffic_class = traffic_class_of(packet)};
    auto const payload = packet.subspan(header.size());
    if (packet[9] == next_is_udp) return decapsulate_udp(outer, payload);
    return with_inner(outer, packet[9], payload);
}

std::optional<Decapsulated> decapsulate_ipv6(ByteView packet) {
    HeaderReader reader(packet);
    // Such as the options of a tunnel, which may be ignored (RFC 2473 5.1).
    auto const homes = read_extensions(reader);
    if (!homes || homes->option || homes->routing) return std::nullopt;
    Decapsulated const outer{.source = ipv6_at(packet, 8),
                             .destination = ipv6_at(packet, 24),
                             .traffic_class = traffic_class_of(packet)};
    return with_inner(outer, reader.next_header(), reader.rest());
}

// ---- congestion (RFC 6040) --------------------------------------------------------------------

enum Ecn : std::uint8_t { not_ect = 0, ect_1 = 1, ect_0 = 2, congestion = 3 };
constexpr unsigned ecn_mask = 3;

void set_ecn(std::span<std::uint8_t> packet, Ecn ecn) {
    if (version_of(packet) == 6) {
        packet[1] = static_cast<std::uint8_t>((packet[1] & ~(ecn_mask << 4)) | unsigned{ecn} << 4);
        return;
    }
    // The checksum changes by what has changed (RFC 1624): a wrong one stays wrong.
    unsigned const before = get16(packet, 0);
    packet[1] = static_cast<std::uint8_t>((packet[1] & ~ecn_mask) | ecn);
    std::uint32_t sum =
        (~get16(packet, ipv4_checksum_at) & 0xffff) + (~before & 0xffff) + get16(packet, 0);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    set16(packet, ipv4_checksum_at, ~sum & 0xffff);
}

// ---- packet too big ---------------------------------------------------------------------------

/// Whether an IPv6 packet is an ICMPv6 error or a redirect, as far as can be seen.
bool is_icmpv6_error(ByteView packet) {
    HeaderReader reader(packet);
    while (reader.take()) {
    }
    auto rest = reader.rest();
    auto next = reader.next_header();
    if (next == next_is_fragment && rest.size() >= fragment_header_size) {
        next = rest[0];
        rest = rest.subspan(fragment_header_size);
    }
    if (next != next_is_icmpv6) return false;
    return rest.empty() || rest[0] < icmpv6_informational || rest[0] == icmpv6_redirect;
}

/// Whether an IPv4 packet that does not fit is answered (RFC 1812 4.3.2.7).
bool may_answer_ipv4(ByteView packet) {
    unsigned const flags = get16(packet, 6);
    if ((flags & dont_fragment) == 0 || (flags & fragment_offset_mask) != 0) return false;
    if (!ipv4_at(packet, 16).is_host()) return false;
    if (packet[9] != next_is_icmpv4) return true;
    auto const message = packet.subspan(ipv4_header_length(packet));
    // Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
    constexpr std::uint8_t errors[] = {3, 4, 5, 11, 12};
    return !message.empty() && std::ranges::find(errors, message[0]) == std::end(errors);
}

Bytes ipv6_too_big(Address const& router, ByteView offending, std::uint32_t mtu) {
    assert(router.is_ipv6());
    auto const source = ipv6_at(offending, 8);
    Bytes message{icmpv6_packet_too_big, 0, 0, 0};
    put32(message, std::max(mtu, static_cast<std::uint32_t>(ipv6_mtu_min)));
    constexpr auto room = ipv6_mtu_min - ipv6_header_size - icmp_error_header_size;
    put(message, offending.first(std::min(offending.size(), room)));
    set16(message, 2, upper_layer_checksum(router, source, next_is_icmpv6, message));
    Bytes out{0x60, 0, 0, 0};
    put16(out, static_cast<unsigned>(message.size()));
    put8(out, next_is_icmpv6);
    put8(out, hop_limit);
    put(out, router.bytes());
    put(out, source.bytes());
    put(out, message);
    return out;
}

Bytes ipv4_too_big(Address const& router, ByteView offending, std::uint32_t mtu) {
    Bytes message{icmpv4_unreachable, icmpv4_fragmentation_needed, 0, 0, 0, 0};
    put16(message, std::clamp(mtu, ipv4_mtu_min, static_cast<std::uint32_t>(length_field_max)));
    constexpr auto room = icmpv4_error_max - ipv4_header_size - icmp_error_header_size;
    put(message, offending.first(std::min(offending.size(), room)));
    set16(message, 2, internet_checksum(message));
    Bytes out = ipv4_header(router, ipv4_at(offending, 12), next_is_icmpv4, 0, message.size());
    put(out, message);
    return out;
}

}  // namespace

std::optional<ByteView> ip_packet(ByteView bytes) {
    if (bytes.empty()) return std::nullopt;
    std::size_t size = 0;
    if (version_of(bytes) == 6 && bytes.size() >= ipv6_header_size) {
        size = ipv6_header_size + get16(bytes, 4);
    } else if (version_of(bytes) == 4 && bytes.size() >= ipv4_header_size) {
        size = get16(bytes, 2);
        auto const header = ipv4_header_length(bytes);
        if (header < ipv4_header_size || size < header) return std::nullopt;
    }
    if (size == 0 || size > bytes.size()) return std::nullopt;
    return bytes.first(size);
}

std::array<std::uint8_t, 40> outer_header(Address const& source, Address const& destination,
                                          ByteView inner) {
    assert(source.is_ipv6() && destination.is_ipv6());
    assert(!inner.empty() && inner.size() <= length_field_max);
    auto const traffic_class = traffic_class_of(inner);
    std::array<std::uint8_t, ipv6_header_size> out{};
    out[0] = static_cast<std::uint8_t>(0x60 | traffic_class >> 4);
    out[1] = static_cast<std::uint8_t>(traffic_class << 4 & 0xf0);
    set16(out, 4, static_cast<unsigned>(inner.size()));
    out[6] = number_of(inner);
    out[7] = hop_limit;
    std::ranges::copy(source.bytes(), out.begin() + 8);
    std::ranges::copy(destination.bytes(), out.begin() + 24);
    return out;
}

Bytes outer_ipv4_header(Ipv4End const& source, Ipv4End const& destination, ByteView inner) {
    assert((source.port == 0) == (destination.port == 0));
    auto const service = traffic_class_of(inner);
    if (source.port == 0) {
        return ipv4_header(source.address, destination.address, number_of(inner), service,
                           inner.size());
    }
    auto const size = udp_header_size + inner.size();
    Bytes out = ipv4_header(source.address, destination.address, next_is_udp, service, size);
    Bytes udp;
    put16(udp, source.port);
    put16(udp, destination.port);
    put16(udp, static_cast<unsigned>(size));
    put16(udp, 0);
    // The pseudo-header and both parts, without a copy of the larger one.
    auto sum = checksum_sum(destination.address.bytes(), checksum_sum(source.address.bytes()));
    sum += next_is_udp + static_cast<std::uint32_t>(size);
    unsigned const checksum = internet_checksum(inner, checksum_sum(udp, sum));
    set16(udp, 6, checksum == 0 ? 0xffff : checksum);  // 0 would say: no checksum (RFC 768)
    put(out, udp);
    return out;
}

std::optional<Decapsulated> decapsulate(ByteView bytes) {
    auto const packet = ip_packet(bytes);
    if (!packet) return std::nullopt;
    return version_of(*packet) == 4 ? decapsulate_ipv4(*packet) : decapsulate_ipv6(*packet);
}

bool carry_congestion(std::uint8_t outer_traffic_class, std::span<std::uint8_t> inner) {
    unsigned const outer_ecn = outer_traffic_class & ecn_mask;
    unsigned const inner_ecn = traffic_class_of(inner) & ecn_mask;
    if (outer_ecn == congestion && inner_ecn == not_ect) return false;
    if (outer_ecn == congestion && inner_ecn != congestion) set_ecn(inner, congestion);
    if (outer_ecn == ect_1 && inner_ecn == ect_0) set_ecn(inner, ect_1);
    return true;
}

std::optional<Bytes> packet_too_big(Address const& router, ByteView offending, std::uint32_t mtu) {
    auto const packet = ip_packet(offending);
    if (!packet) return std::nullopt;
    if (version_of(*packet) == 4) {
        if (!ipv4_at(*packet, 12).is_host() || !may_answer_ipv4(*packet)) return std::nullopt;
        return ipv4_too_big(router, *packet, mtu);
    }
    if (!ipv6_at(*packet, 8).is_host() || is_icmpv6_error(*packet)) return std::nullopt;
    return ipv6_too_big(router, *packet, mtu);
}

std::vector<Bytes> fragment(ByteView packet, std::size_t mtu, std::uint32_t identification) {
    assert(packet.size() >= ipv6_header_size && mtu >= ipv6_mtu_min);
    assert(packet.size() <= ipv6_header_size + length_field_max);
    if (packet.size() <= mtu) return {Bytes(packet.begin(), packet.end())};
    auto const header = packet.first(ipv6_header_size);
    auto const payload = packet.subspan(ipv6_header_size);
    // All but the last carry a multiple of 8 bytes.
    std::size_t const room = (mtu - ipv6_header_size - fragment_header_size) & ~std::size_t{7};
    std::vector<Bytes> fragments;
    for (std::size_t at = 0; at < payload.size(); at += room) {
        auto const part = payload.subspan(at, std::min(room, payload.size() - at));
        bool const more = at + part.size() < payload.size();
        Bytes& out = fragments.emplace_back();
        out.reserve(ipv6_header_size + fragment_header_size + part.size());
        put(out, header);
        set16(out, 4, static_cast<unsigned>(fragment_header_size + part.size()));
        out[6] = next_is_fragment;
        put8(out, header[6]);
        put8(out, 0);
        put16(out, static_cast<unsigned>(at) | (more ? 1U : 0U));
        put32(out, identification);
        put(out, part);
    }
    return fragments;
}

}  // namespace netmove::mobile_ipv6
