// The headers of an IPv6 packet, one after the other (RFC 8200 4). For the .cpp files of this
// folder only. Invariant: reading stays inside the packet.
#pragma once

#include <optional>

#include "netmove/frame_fields.hpp"

namespace netmove::mobile_ipv6 {

/// What follows a header, by its number there.
enum NextHeader : std::uint8_t {
    next_is_hop_by_hop = 0,
    next_is_icmpv4 = 1,
    next_is_ipv4 = 4,
    next_is_udp = 17,
    next_is_ipv6 = 41,
    next_is_routing = 43,
    next_is_fragment = 44,
    next_is_destination_options = 60,
};

inline constexpr std::size_t ipv4_header_size = 20;  ///< Without options.
inline constexpr std::size_t udp_header_size = 8;
inline constexpr std::size_t fragment_header_size = 8;
/// The largest number in an IPv6 header's payload length, or in an IPv4 header's total length.
inline constexpr std::size_t length_field_max = 0xffff;

struct ExtensionHeader {
    std::uint8_t type = 0;  ///< hop_by_hop, routing or destination_options
    bool is_first = false;  ///< It follows the IPv6 header.
    ByteView bytes;  ///< A multiple of 8.
};

/// Reads extension headers up to the first header of another kind.
class HeaderReader {
public:
    /// `packet`: a whole IPv6 packet, as ip_packet() gives it. It must outlive the reader.
    explicit HeaderReader(ByteView packet) : packet_(packet) {}

    /// The next extension header. None: rest() begins with another header, or is_cut_off().
    std::optional<ExtensionHeader> take() {
        auto const type = next_header();
        if (type != next_is_hop_by_hop && type != next_is_routing &&
            type != next_is_destination_options) {
            return std::nullopt;
        }
        auto const bytes = rest();
        cut_off_ = bytes.size() < 8 || bytes.size() < 8 * (std::size_t{bytes[1]} + 1);
        if (cut_off_) return std::nullopt;
        bool const is_first = at_ == ipv6_header_size;
        std::size_t const size = 8 * (std::size_t{bytes[1]} + 1);
        next_at_ = at_;
        at_ += size;
        return ExtensionHeader{type, is_first, bytes.first(size)};
    }
    /// Whether the header with which rest() begins is an extension header that is not whole.
    [[nodiscard]] bool is_cut_off() const { return cut_off_; }
    /// Where in the packet next_header() lies.
    [[nodiscard]] std::size_t next_header_at() const { return next_at_; }
    [[nodiscard]] std::uint8_t next_header() const { return packet_[next_at_]; }
    [[nodiscard]] ByteView rest() const { return packet_.subspan(at_); }
    /// Bytes before rest().
    [[nodiscard]] std::size_t size() const { return at_; }

private:
    ByteView packet_;
    std::size_t next_at_ = 6;
    std::size_t at_ = ipv6_header_size;
    bool cut_off_ = false;
};

/// What the extension headers of a packet say about a home address.
struct HomeAddresses {
    std::optional<Address> option{};  ///< Of the Home Address option (RFC 6275 6.3).
    std::optional<Address> routing{};  ///< Of the type 2 routing header (6.4).
};
/// Takes all extension headers (packet.cpp). None: one is malformed, or asks that the packet be
/// dropped.
std::optional<HomeAddresses> read_extensions(HeaderReader& reader);

}  // namespace netmove::mobile_ipv6
