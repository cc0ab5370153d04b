// What `sidecar probe` and its echo say to each other: UDP datagrams and lines of a TCP session.
// Used by the probe, by the echo, by the test guest (images/witness/probe.cpp, written apart from
// it) and by a fuzzer. Invariant: an answer is never longer than the datagram it answers, and no
// answer is answered, so that an echo can be used neither to amplify nor to make a loop.
//
// A datagram, all numbers big endian; what is not the sender's to fill is zero:
//
//    0 magic "SCPROBE1"    8 kind (1 byte), 7 zeroes    16 session     24 number     32 sent_ns
//   40 serial             48 received_ns               56 seen        64 duplicated 72 reordered
//   80 longest_gap_ns     88 overflowed (4 bytes)      92 unsent (4 bytes)          96 zeroes
//
// A TCP session: the client's line "SCPROBE1", then its numbers from 0 on, each 16 hexadecimal
// digits and a line feed; everything comes back as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace netmove {

/// Both the UDP and the TCP port of an echo.
inline constexpr std::uint16_t probe_port = 4798;
/// Bytes of a datagram up to where only zeroes follow: the smallest that there are.
inline constexpr std::size_t probe_bytes_min = 96;
/// The largest: what IPv6 and UDP headers leave of 65535 bytes.
inline constexpr std::size_t probe_bytes_max = 65535 - 48;
/// The first line of a TCP session.
inline constexpr std::string_view probe_greeting = "SCPROBE1\n";
/// Bytes of each line after it.
inline constexpr std::size_t probe_line_bytes = 17;

struct ProbeDatagram {
    enum class Kind : std::uint8_t {
        probe = 1,   ///< Numbered; is answered.
        answer = 2,  ///< The same number and time, and what the echo knows by then.
        ask = 3,     ///< What does the echo know? Belongs to no numbering.
        told = 4     ///< The answer to that.
    };
    /// What came to the echo in this session, up to this datagram and with it.
    struct Known {
        std::uint64_t seen = 0;            ///< Different probes.
        std::uint64_t duplicated = 0;
        std::uint64_t reordered = 0;
        std::uint64_t longest_gap_ns = 0;  ///< Between two arrivals, by the echo's clock.
        std::uint32_t overflowed = 0;  ///< Datagrams for which its socket had no room, of anybody.
        std::uint32_t unsent = 0;  ///< Answers that its kernel did not take, of this session.
        bool operator==(Known const&) const = default;
    };
    Kind kind = Kind::probe;
    std::uint64_t session = 0;  ///< Chosen by chance by the prober.
    std::uint64_t number = 0;  ///< 0, 1, ...: 64 bits do not wrap around.
    std::uint64_t sent_ns = 0;  ///< CLOCK_REALTIME of the prober.
    std::uint64_t serial = 0;  ///< Of the answer: 1, 2, ... in this session.
    std::uint64_t received_ns = 0;  ///< CLOCK_REALTIME of the echo, when the probe came in.
    Known known;
    bool operator==(ProbeDatagram const&) const = default;
};

/// Nothing unless it is one of ours, whole.
std::optional<ProbeDatagram> parse_probe(std::span<std::byte const> bytes);
/// Fills all of `room`, whose size is at least probe_bytes_min.
void write_probe(ProbeDatagram const& datagram, std::span<std::byte> room);

/// "00000000000000ff\n"
std::string probe_line(std::uint64_t number);
/// Nothing unless `line` is such a line, whole.
std::optional<std::uint64_t> parse_probe_line(std::string_view line);

}  // namespace netmove
