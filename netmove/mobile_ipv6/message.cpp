#include "netmove/mobile_ipv6/message.hpp"

#include <fmt/format.h>

#include <cassert>
#include <utility>

#include "netmove/mobile_ipv6/options.hpp"

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// Where the fields of the Mobility Header lie (RFC 6275 6.1.1), and how long it is with the fixed
// fields of each message.
constexpr std::size_t length_at = 1;
constexpr std::size_t type_at = 2;
constexpr std::size_t checksum_at = 4;
constexpr std::size_t mobility_header_min = 8;
constexpr std::size_t update_size = 12;
constexpr std::size_t acknowledgement_size = 12;
constexpr std::size_t error_size = 24;

constexpr std::uint8_t no_next_header = 59;

enum UpdateFlag : std::uint16_t {
    update_a = 0x8000,
    update_h = 0x4000,
    update_l = 0x2000,
    update_k = 0x1000,
    update_f = 0x0100,
    update_t = 0x0080,
};
enum AcknowledgementFlag : std::uint8_t {
    acknowledgement_k = 0x80,
    acknowledgement_t = 0x10,
};
constexpr std::uint8_t nat_f = 0x80;

/// Mobility options (RFC 6275 6.2, RFC 5555 3). Each has one length.
enum MobilityOption : std::uint8_t {
    refresh_advice_option = 2,
    alternate_care_of_option = 3,
    ipv4_home_option = 29,
    ipv4_acknowledgement_option = 30,
    nat_detection_option = 31,
    ipv4_care_of_option = 32,
};

// ---- writing ----------------------------------------------------------------------------------

void begin_option(Bytes& out, MobilityOption type, unsigned length, std::size_t multiple,
                  std::size_t remainder = 0) {
    pad_header(out, 0, multiple, remainder);
    put8(out, type);
    put8(out, length);
}

unsigned prefix_bits(int prefix_length) {
    assert(prefix_length >= 0 && prefix_length <= 32);
    return static_cast<unsigned>(prefix_length) << 2;
}

void put_ipv4(Bytes& out, Address const& address) {
    assert(address.is_ipv4());
    put(out, address.bytes());
}

void put_ipv6(Bytes& out, Address const& address) {
    assert(address.is_ipv6());
    put(out, address.bytes());
}

void write(Bytes& out, BindingRefreshRequest const&) { put16(out, 0); }

void write(Bytes& out, UnknownMessage const&) { put16(out, 0); }

void write(Bytes& out, BindingError const& error) {
    put8(out, error.status);
    put8(out, 0);
    put_ipv6(out, error.home_address);
}

void write(Bytes& out, BindingUpdate const& update) {
    unsigned const flags = (update.acknowledge ? update_a : 0U) |
                           (update.home_registration ? update_h : 0U) |
                           (update.link_local_compatible ? update_l : 0U) |
                           (update.key_management_mobility ? update_k : 0U) |
                           (update.force_udp ? update_f : 0U) | (update.tlv_header ? update_t : 0U);
    put16(out, update.sequence);
    put16(out, flags);
    put16(out, update.lifetime.count());
    if (update.alternate_care_of) {
        begin_option(out, alternate_care_of_option, 16, 8, 6);
        put_ipv6(out, *update.alternate_care_of);
    }
    if (auto const& home = update.ipv4_home) {
        begin_option(out, ipv4_home_option, 6, 4);
        put8(out, prefix_bits(home->prefix_length) | (home->prefix_requested ? 2U : 0U));
        put8(out, 0);
        put_ipv4(out, home->address);
    }
    if (update.ipv4_care_of) {
        begin_option(out, ipv4_care_of_option, 6, 4);
        put16(out, 0);
        put_ipv4(out, *update.ipv4_care_of);
    }
}

void write(Bytes& out, BindingAcknowledgement const& acknowledgement) {
    put8(out, std::to_underlying(acknowledgement.status));
    put8(out, (acknowledgement.key_management_mobility ? acknowledgement_k : 0U) |
                  (acknowledgement.tlv_header ? acknowledgement_t : 0U));
    put16(out, acknowledgement.sequence);
    put16(out, acknowledgement.lifetime.count());
    if (acknowledgement.refresh_advice) {
        begin_option(out, refresh_advice_option, 2, 2);
        put16(out, acknowledgement.refresh_advice->count());
    }
    if (auto const& home = acknowledgement.ipv4_home) {
        begin_option(out, ipv4_acknowledgement_option, 6, 4);
        put8(out, std::to_underlying(home->status));
        put8(out, prefix_bits(home->prefix_length));
        put_ipv4(out, home->address);
    }
    if (auto const& nat = acknowledgement.nat) {
        begin_option(out, nat_detection_option, 6, 4);
        put8(out, nat->force_udp ? nat_f : 0U);
        put8(out, 0);
        put32(out, nat->refresh_s);
    }
}

// ---- reading ----------------------------------------------------------------------------------

Result<> check_length(Option const& option, std::size_t length) {
    if (option.data.size() == length) return {};
    return fail(Errc::protocol, "mobility option {} has {} bytes, not {}", option.type,
                option.data.size(), length);
}

Result<int> read_prefix_length(Option const& option, unsigned field) {
    if (unsigned const length = field >> 2; length <= 32) return static_cast<int>(length);
    return fail(Errc::protocol, "mobility option {} has an IPv4 prefix of {} bits", option.type,
                field >> 2);
}

Result<LifetimeUnits> read_refresh_advice(Option const& option) {
    TRY_VOID(check_length(option, 2));
    return LifetimeUnits(static_cast<std::uint16_t>(get16(option.data, 0)));
}

Result<Address> read_alternate_care_of(Option const& option) {
    TRY_VOID(check_length(option, 16));
    return ipv6_at(option.data, 0);
}

Result<Address> read_ipv4_care_of(Option const& option) {
    TRY_VOID(check_length(option, 6));
    return ipv4_at(option.data, 2);
}

Result<Ipv4HomeAddress> read_ipv4_home(Option const& option) {
    TRY_VOID(check_length(option, 6));
    TRY(auto const prefix_length, read_prefix_length(option, option.data[0]));
    return Ipv4HomeAddress{ipv4_at(option.data, 2), prefix_length, (option.data[0] & 2) != 0};
}

Result<Ipv4Acknowledgement> read_ipv4_acknowledgement(Option const& option) {
    TRY_VOID(check_length(option, 6));
    TRY(auto const prefix_length, read_prefix_length(option, option.data[1]));
    return Ipv4Acknowledgement{Ipv4Status{option.data[0]}, prefix_length, ipv4_at(option.data, 2)};
}

Result<NatDetection> read_nat_detection(Option const& option) {
    TRY_VOID(check_length(option, 6));
    return NatDetection{(option.data[0] & nat_f) != 0, get32(option.data, 2)};
}

/// Of an option that is repeated the first counts.
template <class T>
Result<> keep_first(std::optional<T>& into, Result<T> read) {
    if (!read) return std::unexpected(std::move(read.error()));
    if (!into) into = *read;
    return {};
}

Result<> read_option(BindingUpdate& update, Option const& option) {
    switch (option.type) {
        case alternate_care_of_option:
            return keep_first(update.alternate_care_of, read_alternate_care_of(option));
        case ipv4_home_option:
            return keep_first(update.ipv4_home, read_ipv4_home(option));
        case ipv4_care_of_option:
            return keep_first(update.ipv4_care_of, read_ipv4_care_of(option));
        default:
            return {};
    }
}

Result<> read_option(BindingAcknowledgement& acknowledgement, Option const& option) {
    switch (option.type) {
        case refresh_advice_option:
            return keep_first(acknowledgement.refresh_advice, read_refresh_advice(option));
        case ipv4_acknowledgement_option:
            return keep_first(acknowledgement.ipv4_home, read_ipv4_acknowledgement(option));
        case nat_detection_option:
            return keep_first(acknowledgement.nat, read_nat_detection(option));
        default:
            return {};
    }
}

/// These have no option of their own that is read here.
Result<> read_option(BindingError&, Option const&) { return {}; }
Result<> read_option(BindingRefreshRequest&, Option const&) { return {}; }

template <class T>
Result<Message> with_options(T message, ByteView options) {
    OptionReader reader(options);
    while (auto const option = reader.next()) TRY_VOID(read_option(message, *option));
    if (reader.at_end()) return message;
    return fail(Errc::protocol, "the last mobility option is cut off");
}

Result<Message> read_update(ByteView header) {
    unsigned const flags = get16(header, 8);
    BindingUpdate update;
    update.sequence = static_cast<std::uint16_t>(get16(header, 6));
    update.acknowledge = (flags & update_a) != 0;
    update.home_registration = (flags & update_h) != 0;
    update.link_local_compatible = (flags & update_l) != 0;
    update.key_management_mobility = (flags & update_k) != 0;
    update.force_udp = (flags & update_f) != 0;
    update.tlv_header = (flags & update_t) != 0;
    update.lifetime = LifetimeUnits(static_cast<std::uint16_t>(get16(header, 10)));
    return with_options(update, header.subspan(update_size));
}

Result<Message> read_acknowledgement(ByteView header) {
    BindingAcknowledgement acknowledgement;
    acknowledgement.status = BindingStatus{header[6]};
    acknowledgement.key_management_mobility = (header[7] & acknowledgement_k) != 0;
    acknowledgement.tlv_header = (header[7] & acknowledgement_t) != 0;
    acknowledgement.sequence = static_cast<std::uint16_t>(get16(header, 8));
    acknowledgement.lifetime = LifetimeUnits(static_cast<std::uint16_t>(get16(header, 10)));
    return with_options(acknowledgement, header.subspan(acknowledgement_size));
}

std::size_t message_size_min(MessageType type) {
    switch (type) {
        case MessageType::binding_update:
            return update_size;
        case MessageType::binding_acknowledgement:
            return acknowledgement_size;
        case MessageType::binding_error:
            return error_size;
        case MessageType::binding_refresh_request:
            break;
    }
    return mobility_header_min;
}

/// The whole Mobility Header, without what follows it. None: it is cut off.
std::optional<ByteView> mobility_header(ByteView bytes) {
    if (bytes.size() < mobility_header_min) return std::nullopt;
    std::size_t const size = 8 * (std::size_t{bytes[length_at]} + 1);
    if (bytes.size() < size) return std::nullopt;
    return bytes.first(size);
}

struct StatusName {
    std::uint8_t status;
    std::string_view text;
};

constexpr StatusName binding_statuses[] = {
    {0, "accepted"},
    {1, "accepted, prefix discovery necessary"},
    {128, "reason unspecified"},
    {129, "administratively prohibited"},
    {130, "insufficient resources"},
    {131, "home registration not supported"},
    {132, "not home subnet"},
    {133, "not home agent for this mobile node"},
    {134, "duplicate address detection failed"},
    {135, "sequence number out of window"},
    {139, "registration type change disallowed"},
    {174, "invalid care-of address"},
};
constexpr StatusName ipv4_statuses[] = {
    {0, "accepted"},
    {128, "reason unspecified"},
    {129, "administratively prohibited"},
    {130, "incorrect IPv4 home address"},
    {131, "invalid IPv4 address"},
    {132, "dynamic IPv4 home address assignment not available"},
    {133, "prefix allocation unauthorized"},
};

std::string status_text(std::span<StatusName const> names, std::uint8_t status) {
    for (auto const& name : names) {
        if (name.status == status) return fmt::format("{} ({})", name.text, status);
    }
    return fmt::format("status {}", status);
}

}  // namespace

std::string text(BindingStatus status) {
    return status_text(binding_statuses, std::to_underlying(status));
}

std::string text(Ipv4Status status) {
    return status_text(ipv4_statuses, std::to_underlying(status));
}

Bytes encode(Message const& message, Address const& source, Address const& destination) {
    assert(source.is_ipv6() && destination.is_ipv6());
    auto const type = std::visit([](auto const& one) { return std::uint8_t(one.type); }, message);
    Bytes out{no_next_header, 0, type, 0, 0, 0};
    std::visit([&out](auto const& one) { write(out, one); }, message);
    pad_header(out, 0, 8);
    assert(out.size() <= mobility_header_max);
    out[length_at] = static_cast<std::uint8_t>(out.size() / 8 - 1);
    unsigned const sum = upper_layer_checksum(source, destination, next_is_mobility, out);
    out[checksum_at] = static_cast<std::uint8_t>(sum >> 8);
    out[checksum_at + 1] = static_cast<std::uint8_t>(sum & 0xff);
    return out;
}

bool is_checksum_wrong(ByteView bytes, Address const& source, Address const& destination) {
    auto const header = mobility_header(bytes);
    return header && upper_layer_checksum(source, destination, next_is_mobility, *header) != 0;
}

Result<Message> parse_message(ByteView bytes, Address const& source, Address const& destination) {
    auto const header = mobility_header(bytes);
    if (!header) {
        return fail(Errc::protocol, "the Mobility Header is cut off after {} bytes", bytes.size());
    }
    if (is_checksum_wrong(bytes, source, destination)) {
        return fail(Errc::protocol, "the Mobility Header's checksum is wrong");
    }
    if (bytes[0] != no_next_header) {
        return fail(Errc::protocol, "the Mobility Header is followed by next header {}", bytes[0]);
    }
    MessageType const type{bytes[type_at]};
    if (header->size() < message_size_min(type)) {
        return fail(Errc::protocol, "a Mobility Header of type {} has {} bytes, less than {}",
                    bytes[type_at], header->size(), message_size_min(type));
    }
    switch (type) {
        case MessageType::binding_refresh_request:
            return with_options(BindingRefreshRequest{}, header->subspan(mobility_header_min));
        case MessageType::binding_update:
            return read_update(*header);
        case MessageType::binding_acknowledgement:
            return read_acknowledgement(*header);
        case MessageType::binding_error:
            return with_options(BindingError{bytes[6], ipv6_at(bytes, 8)},
                                header->subspan(error_size));
    }
    return UnknownMessage{bytes[type_at]};
}

}  // namespace netmove::mobile_ipv6
