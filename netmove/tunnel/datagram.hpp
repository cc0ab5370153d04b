// The outside of a datagram of a tunnel: what anybody on the network can write and read. Used by
// Hub and by a fuzzer; pure code. Invariant: whatever the bytes are, parsing stays inside them and
// trusts none.
//
//    0 id of the tunnel (8 bytes, big endian)    8 one DTLS 1.2 record (RFC 6347 4.1), or a hint
//
// A record begins with its type, version (2 bytes), epoch (2), sequence number (6) and length (2).
// A hint is one zero byte, which is no type of a record: "I cannot read your record; ask me". It is
// not authenticated and only makes the other end send a ping.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "netmove/frame.hpp"

namespace netmove::tunnel {

constexpr std::size_t id_size = 8;
/// Type, version, epoch, sequence number, length.
constexpr std::size_t record_header_size = 13;
/// What DTLS 1.2 with AES-GCM adds to a plain text: header, explicit nonce, tag (RFC 5288 3).
constexpr std::size_t record_overhead = record_header_size + 8 + 16;
/// From the plain text of a record to its datagram.
constexpr std::size_t datagram_overhead = id_size + record_overhead;
constexpr std::size_t hint_size = id_size + 1;
constexpr std::size_t client_random_size = 32;

/// UDP payload that each path carries: IPv6's minimum MTU of 1,280 less its headers is 1,232.
constexpr std::size_t datagram_min = 1'200;
/// The largest tried: Ethernet's jumbo frames of 9,000 bytes, less IPv4's and UDP's headers.
constexpr std::size_t datagram_limit = 8'972;

enum class DatagramKind : std::uint8_t {
    application,  ///< One encrypted record of application data.
    client_hello,  ///< Begins a handshake, or is repeated.
    handshake,  ///< Another message of a handshake, clear or encrypted.
    hint,
};

struct Datagram {
    std::uint64_t id = 0;
    DatagramKind kind = DatagramKind::application;
    std::uint64_t sequence = 0;  ///< Of `application`: its record's number (48 bits).
    ByteView record;  ///< All after the id.
    ByteView client_random;  ///< Of `client_hello`: tells a new one from a repeated one.
};

/// None unless it is one of these four. Alerts are none: they would end a handshake, and those of
/// handshakes are not authenticated.
std::optional<Datagram> parse_datagram(ByteView bytes);

std::array<std::uint8_t, id_size> id_bytes(std::uint64_t id);
std::array<std::uint8_t, hint_size> hint_bytes(std::uint64_t id);

}  // namespace netmove::tunnel
