// netmove/ moves a guest's presence on the network from one host to another. It uses core/ only.
//
// MAC and IP addresses as values: parsed from text, compared, printed in the one canonical form.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/result.hpp"

namespace netmove {

/// An Ethernet address.
struct MacAddress {
    std::array<std::uint8_t, 6> bytes{};

    /// "52:54:00:12:34:56", upper or lower case.
    static core::Result<MacAddress> parse(std::string_view text);
    [[nodiscard]] std::string text() const;
    /// One station's: neither a group (multicast, broadcast) nor all zeroes.
    [[nodiscard]] bool is_unicast() const;
    auto operator<=>(MacAddress const&) const = default;
};

/// An IPv4 or IPv6 address, without prefix length or scope.
class Address {
public:
    enum class Family : std::uint8_t { ipv4, ipv6 };

    Address() = default;  ///< 0.0.0.0
    static Address ipv4(std::span<std::uint8_t const, 4> bytes);
    static Address ipv6(std::span<std::uint8_t const, 16> bytes);
    /// "192.0.2.1" or "2001:db8::1". No prefix length, no scope, no surrounding space.
    static core::Result<Address> parse(std::string_view text);

    [[nodiscard]] Family family() const { return family_; }
    [[nodiscard]] bool is_ipv4() const { return family_ == Family::ipv4; }
    [[nodiscard]] bool is_ipv6() const { return family_ == Family::ipv6; }
    /// 4 or 16 bytes, network order.
    [[nodiscard]] std::span<std::uint8_t const> bytes() const {
        return std::span(bytes_).first(is_ipv4() ? 4U : 16U);
    }
    /// RFC 5952 form for IPv6.
    [[nodiscard]] std::string text() const;
    [[nodiscard]] bool is_link_local() const;  ///< 169.254/16, fe80::/10
    /// Can be one station's address: not unspecified, loopback, multicast, broadcast, mapped or
    /// reserved.
    [[nodiscard]] bool is_host() const;
    auto operator<=>(Address const&) const = default;

private:
    Family family_ = Family::ipv4;
    std::array<std::uint8_t, 16> bytes_{};
};

/// One address of the guest, and the VLAN it uses it in (when its interface is a trunk).
struct GuestAddress {
    Address address;
    std::uint16_t vlan = 0;  ///< 802.1Q VLAN id, 1-4094; 0: untagged.
    auto operator<=>(GuestAddress const&) const = default;
};

}  // namespace netmove
