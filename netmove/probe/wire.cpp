#include "netmove/probe/wire.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstring>

namespace netmove {

namespace {

constexpr std::string_view magic = "SCPROBE1";
constexpr std::size_t at_kind = 8;
constexpr std::size_t at_session = 16;
constexpr std::size_t at_number = 24;
constexpr std::size_t at_sent = 32;
constexpr std::size_t at_serial = 40;
constexpr std::size_t at_received = 48;
constexpr std::size_t at_seen = 56;
constexpr std::size_t at_duplicated = 64;
constexpr std::size_t at_reordered = 72;
constexpr std::size_t at_gap = 80;
constexpr std::size_t at_overflowed = 88;
constexpr std::size_t at_unsent = 92;

std::uint64_t number_at(std::span<std::byte const> bytes, std::size_t at, std::size_t size = 8) {
    std::uint64_t value = 0;
    for (auto const byte : bytes.subspan(at, size)) {
        value = value << 8 | static_cast<std::uint64_t>(byte);
    }
    return value;
}

void put(std::span<std::byte> room, std::size_t at, std::uint64_t value, std::size_t size = 8) {
    for (std::size_t i = size; i-- > 0; value >>= 8) room[at + i] = std::byte(value & 0xff);
}

}  // namespace

std::optional<ProbeDatagram> parse_probe(std::span<std::byte const> bytes) {
    if (bytes.size() < probe_bytes_min || bytes.size() > probe_bytes_max) return {};
    if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) return {};
    auto const kind = static_cast<std::uint8_t>(bytes[at_kind]);
    if (kind < 1 || kind > 4) return {};
    ProbeDatagram made;
    made.kind = static_cast<ProbeDatagram::Kind>(kind);
    made.session = number_at(bytes, at_session);
    made.number = number_at(bytes, at_number);
    made.sent_ns = number_at(bytes, at_sent);
    made.serial = number_at(bytes, at_serial);
    made.received_ns = number_at(bytes, at_received);
    made.known.seen = number_at(bytes, at_seen);
    made.known.duplicated = number_at(bytes, at_duplicated);
    made.known.reordered = number_at(bytes, at_reordered);
    made.known.longest_gap_ns = number_at(bytes, at_gap);
    made.known.overflowed = static_cast<std::uint32_t>(number_at(bytes, at_overflowed, 4));
    made.known.unsent = static_cast<std::uint32_t>(number_at(bytes, at_unsent, 4));
    return made;
}

void write_probe(ProbeDatagram const& datagram, std::span<std::byte> room) {
    assert(room.size() >= probe_bytes_min);
    std::ranges::fill(room, std::byte{0});
    std::memcpy(room.data(), magic.data(), magic.size());
    room[at_kind] = std::byte(datagram.kind);
    put(room, at_session, datagram.session);
    put(room, at_number, datagram.number);
    put(room, at_sent, datagram.sent_ns);
    put(room, at_serial, datagram.serial);
    put(room, at_received, datagram.received_ns);
    put(room, at_seen, datagram.known.seen);
    put(room, at_duplicated, datagram.known.duplicated);
    put(room, at_reordered, datagram.known.reordered);
    put(room, at_gap, datagram.known.longest_gap_ns);
    put(room, at_overflowed, datagram.known.overflowed, 4);
    put(room, at_unsent, datagram.known.unsent, 4);
}

std::string probe_line(std::uint64_t number) { return fmt::format("{:016x}\n", number); }

std::optional<std::uint64_t> parse_probe_line(std::string_view line) {
    if (line.size() != probe_line_bytes || line.back() != '\n') return {};
    std::uint64_t number = 0;
    auto const* const end = line.data() + line.size() - 1;
    auto const [stopped, error] = std::from_chars(line.data(), end, number, 16);
    if (error != std::errc() || stopped != end) return {};
    return number;
}

}  // namespace netmove
