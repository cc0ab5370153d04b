#include "netmove/tunnel/datagram.hpp"

#include <algorithm>

#include "netmove/tunnel/bytes.hpp"

namespace netmove::tunnel {

namespace {

// Types of records (RFC 5246 6.2.1) and of handshake messages (7.4).
constexpr std::uint8_t type_change_cipher_spec = 20;
constexpr std::uint8_t type_handshake = 22;
constexpr std::uint8_t type_application = 23;
constexpr std::uint8_t message_client_hello = 1;
// Type, length, message number, offset and length of the fragment (RFC 6347 4.2.2).
constexpr std::size_t handshake_header_size = 12;
constexpr std::size_t version_size = 2;
constexpr std::uint8_t hint_type = 0;

/// The client's random of a ClientHello in one fragment; empty: it is no such.
ByteView client_random_of(ByteView record) {
    constexpr std::size_t at = record_header_size + handshake_header_size + version_size;
    if (record.size() < at + client_random_size) return {};
    auto const message = record.subspan(record_header_size);
    bool const whole = number_at(message, 1, 3) == number_at(message, 9, 3) &&
                       number_at(message, 6, 3) == 0 &&
                       number_at(message, 9, 3) == message.size() - handshake_header_size;
    if (message[0] != message_client_hello || !whole) return {};
    return record.subspan(at, client_random_size);
}

}  // namespace

std::optional<Datagram> parse_datagram(ByteView bytes) {
    if (bytes.size() < hint_size) return std::nullopt;
    Datagram datagram;
    datagram.id = number_at(bytes, 0, id_size);
    auto const record = bytes.subspan(id_size);
    datagram.record = record;
    if (bytes.size() == hint_size && record[0] == hint_type) {
        datagram.kind = DatagramKind::hint;
        return datagram;
    }
    if (record.size() < record_header_size) return std::nullopt;
    auto const version = number_at(record, 1, 2);
    if (version != 0xfeff && version != 0xfefd) return std::nullopt;  // DTLS 1.0 or 1.2
    auto const epoch = number_at(record, 3, 2);
    auto const length = number_at(record, 11, 2);
    bool const one_record = length == record.size() - record_header_size;
    switch (record[0]) {
        case type_application:
            if (epoch == 0 || !one_record) return std::nullopt;
            datagram.sequence = number_at(record, 5, 6);
            return datagram;
        case type_handshake:
        case type_change_cipher_spec: {
            datagram.kind = DatagramKind::handshake;
            if (record[0] != type_handshake || epoch != 0 || !one_record) return datagram;
            datagram.client_random = client_random_of(record);
            if (!datagram.client_random.empty()) datagram.kind = DatagramKind::client_hello;
            return datagram;
        }
        default:
            return std::nullopt;
    }
}

std::array<std::uint8_t, id_size> id_bytes(std::uint64_t id) {
    std::array<std::uint8_t, id_size> out{};
    for (std::size_t i = 0; i < id_size; ++i) {
        out[i] = static_cast<std::uint8_t>(id >> (8 * (id_size - 1 - i)));
    }
    return out;
}

std::array<std::uint8_t, hint_size> hint_bytes(std::uint64_t id) {
    std::array<std::uint8_t, hint_size> out{};
    std::ranges::copy(id_bytes(id), out.begin());
    out[id_size] = hint_type;
    return out;
}

}  // namespace netmove::tunnel
