#include "netmove/mobile_ipv6/packet.hpp"

#include <cassert>

#include "netmove/mobile_ipv6/headers.hpp"
#include "netmove/mobile_ipv6/options.hpp"

namespace netmove::mobile_ipv6 {

namespace {

/// Home Address option (RFC 6275 6.3), aligned 8n+6.
constexpr std::uint8_t home_address_option = 0xc9;
/// The routing header that carries a home address (6.4).
constexpr std::uint8_t home_routing_type = 2;
constexpr std::size_t home_routing_size = 24;

bool is_home_address(Address const& address) {
    return address.is_host() && !address.is_link_local();
}

Bytes home_routing_header(Address const& home, std::uint8_t next) {
    assert(is_home_address(home));
    Bytes out{next, home_routing_size / 8 - 1, home_routing_type, 1, 0, 0, 0, 0};
    put(out, home.bytes());
    return out;
}

Bytes home_options_header(Address const& home, std::uint8_t next) {
    assert(is_home_address(home));
    Bytes out{next, 0};
    pad_header(out, 0, 8, 6);
    put8(out, home_address_option);
    put8(out, 16);
    put(out, home.bytes());
    out[1] = static_cast<std::uint8_t>(out.size() / 8 - 1);
    return out;
}

/// Whether a node that does not know the option goes on with the packet (RFC 8200 4.2).
bool may_be_skipped(Option const& option) { return option.type >> 6 == 0; }

bool read_options(ExtensionHeader const& header, std::optional<Address>& home) {
    OptionReader reader(header.bytes.subspan(2));
    while (auto const option = reader.next()) {
        bool const is_home = header.type == next_is_destination_options &&
                             option->type == home_address_option && option->data.size() == 16;
        if (!is_home && !may_be_skipped(*option)) return false;
        if (!is_home) continue;
        if (home || !is_home_address(ipv6_at(option->data, 0))) return false;
        home = ipv6_at(option->data, 0);
    }
    return reader.at_end();
}

bool read_routing(ByteView header, std::optional<Address>& home) {
    constexpr std::size_t routing_type_at = 2;
    constexpr std::size_t segments_left_at = 3;
    if (header[routing_type_at] != home_routing_type) return header[segments_left_at] == 0;
    if (header.size() != home_routing_size || header[segments_left_at] != 1 || home) return false;
    home = ipv6_at(header, 8);
    return is_home_address(*home);
}

}  // namespace

std::optional<HomeAddresses> read_extensions(HeaderReader& reader) {
    HomeAddresses homes;
    while (auto const header = reader.take()) {
        if (header->type == next_is_hop_by_hop && !header->is_first) return std::nullopt;
        bool const good = header->type == next_is_routing
                              ? read_routing(header->bytes, homes.routing)
                              : read_options(*header, homes.option);
        if (!good) return std::nullopt;
    }
    if (reader.is_cut_off()) return std::nullopt;
    return homes;
}

Address SignallingPacket::home_address() const {
    if (home_option) return *home_option;
    if (routing_home) return *routing_home;
    return std::holds_alternative<BindingUpdate>(message) ? source : destination;
}

Bytes encode(SignallingPacket const& packet) {
    assert(packet.source.is_ipv6() && packet.destination.is_ipv6());
    // From the last header to the first: each says what follows it.
    Bytes content = encode(packet.message, packet.home_option.value_or(packet.source),
                           packet.routing_home.value_or(packet.destination));
    std::uint8_t next = next_is_mobility;
    auto const prepend = [&](Bytes header, std::uint8_t its_number) {
        put(header, content);
        content = std::move(header);
        next = its_number;
    };
    if (packet.home_option) {
        prepend(home_options_header(*packet.home_option, next), next_is_destination_options);
    }
    if (packet.routing_home) {
        prepend(home_routing_header(*packet.routing_home, next), next_is_routing);
    }
    Bytes out{0x60, 0, 0, 0};
    put16(out, static_cast<unsigned>(content.size()));
    put8(out, next);
    put8(out, hop_limit);
    put(out, packet.source.bytes());
    put(out, packet.destination.bytes());
    put(out, content);
    return out;
}

std::expected<SignallingPacket, NotSignalling> parse_packet(ByteView bytes) {
    if (bytes.empty() || bytes[0] >> 4 != 6) return std::unexpected(NotSignalling::other);
    auto const whole = ip_packet(bytes);
    if (!whole) return std::unexpected(NotSignalling::malformed);
    HeaderReader reader(*whole);
    auto const homes = read_extensions(reader);
    if (!homes) return std::unexpected(NotSignalling::malformed);
    auto const rest = reader.rest();
    if (reader.next_header() == next_is_fragment && !rest.empty() && rest[0] == next_is_mobility) {
        return std::unexpected(NotSignalling::malformed);
    }
    if (reader.next_header() != next_is_mobility) return std::unexpected(NotSignalling::other);
    SignallingPacket packet{ipv6_at(*whole, 8), ipv6_at(*whole, 24), homes->option, homes->routing};
    if (!packet.source.is_host()) return std::unexpected(NotSignalling::malformed);
    auto const source = packet.home_option.value_or(packet.source);
    auto const destination = packet.routing_home.value_or(packet.destination);
    auto message = parse_message(rest, source, destination);
    if (!message) {
        bool const wrong = is_checksum_wrong(rest, source, destination);
        return std::unexpected(wrong ? NotSignalling::bad_checksum : NotSignalling::malformed);
    }
    packet.message = *std::move(message);
    return packet;
}

}  // namespace netmove::mobile_ipv6
