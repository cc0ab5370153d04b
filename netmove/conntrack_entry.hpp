// What a host's connection tracking knows of one connection, as a value that travels: a stateful
// filter lets an established session pass, and NAT translates it, only where this is known. The
// kernel's side is conntrack.hpp; here is what a peer may say, which is trusted in nothing.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "netmove/address.hpp"

namespace netmove {

/// Entries of one guest that travel at most: what two peer messages a second carry in a minute, and
/// a quarter of the table a kernel makes by default. More are counted and told.
constexpr std::size_t conntrack_entries_max = 65'536;
/// Entries in one message between sidecars: at conntrack_entry_bytes_max each, half a message.
constexpr std::size_t conntrack_batch_max = 512;
/// The longest JSON text of one entry: two IPv6 tuples, labels and a helper are 400 bytes.
constexpr std::size_t conntrack_entry_bytes_max = 1024;

/// Which connection it is: the kernel finds an entry by this.
struct ConntrackKey {
    Address source;  ///< Of the first packet, as the one who sent it wrote it.
    Address destination;
    std::uint8_t protocol = 0;  ///< IPPROTO_*, see conntrack_carries().
    /// ICMP and ICMPv6: the identifier, in both.
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    std::uint8_t icmp_type = 0;
    std::uint8_t icmp_code = 0;
    std::uint16_t zone = 0;
    /// In which direction the zone counts; only one where that direction alone has it.
    enum class ZoneOf : std::uint8_t { both, original, reply } zone_of = ZoneOf::both;

    auto operator<=>(ConntrackKey const&) const = default;

    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol, naming the member.
    static core::Result<ConntrackKey> from_json(core::Json const& json);
};

/// A protocol whose state is carried: TCP, UDP, UDP-Lite, SCTP, ICMP, ICMPv6.
[[nodiscard]] bool conntrack_carries(std::uint8_t protocol);

struct ConntrackEntry {
    ConntrackKey key;
    // Of the answers: the one who answers, and the one they go to. They differ from the turned key
    // where the host translates addresses.
    Address reply_source;
    Address reply_destination;
    std::uint16_t reply_source_port = 0;
    std::uint16_t reply_destination_port = 0;

    std::uint32_t status = 0;  ///< IPS_*, of them what conntrack_status_mask lets through.
    std::uint32_t timeout_s = 0;
    std::uint32_t mark = 0;
    std::uint8_t state = 0;  ///< The kernel's, of TCP and SCTP.
    std::array<std::uint8_t, 2> tcp_flags{};  ///< IP_CT_TCP_FLAG_*: original, reply.
    std::array<std::uint8_t, 2> tcp_scale{};  ///< Window scale.
    std::array<std::uint32_t, 2> sctp_tags{};
    std::string helper;
    std::vector<std::uint8_t> labels;  ///< 16 bytes, or none.
    /// Where a helper changes lengths: correction position, offset before and after, both ways.
    std::array<std::uint32_t, 6> sequence{};
    /// An address it is translated to belongs to the source host itself: if only that host has it,
    /// nothing would answer.
    bool translated_to_host = false;

    [[nodiscard]] bool source_translated() const;
    [[nodiscard]] bool destination_translated() const;
    /// One of `addresses` is an end of it: who began it, or who answers. (What only passes by such
    /// an address, because the host turns it elsewhere, is a session of the host's.)
    [[nodiscard]] bool is_of(std::span<Address const> addresses) const;
    /// The same but for what passes by itself.
    [[nodiscard]] bool same_but_for_time(ConntrackEntry const& other) const;
    bool operator==(ConntrackEntry const&) const = default;

    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol, naming the member, on anything missing, out of range, or of an entry
    /// that is of none of `addresses`.
    static core::Result<ConntrackEntry> from_json(core::Json const& json,
                                                  std::span<Address const> addresses);
};

/// Of an entry's status: answered, assured, confirmed, timeout fixed. The rest is the kernel's own.
constexpr std::uint32_t conntrack_status_mask = 1U << 1 | 1U << 2 | 1U << 3 | 1U << 10;
/// A connection that the host neither sees answered nor keeps for long may ask for so long,
/// seconds: five days is what the kernel gives an established TCP connection; operators give
/// months.
constexpr std::uint32_t conntrack_timeout_max_s = 366U * 24 * 3600;

}  // namespace netmove
