#include "netmove/address.hpp"

#include <arpa/inet.h>

#include <algorithm>

namespace netmove {

namespace {

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

core::Result<MacAddress> MacAddress::parse(std::string_view text) {
    MacAddress mac;
    bool good = text.size() == 17;
    for (std::size_t i = 0; good && i < mac.bytes.size(); ++i) {
        int const high = hex_digit(text[3 * i]);
        int const low = hex_digit(text[3 * i + 1]);
        good = high >= 0 && low >= 0 && (i == 5 || text[3 * i + 2] == ':');
        if (good) mac.bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    if (!good) {
        return core::fail(core::Errc::invalid, "'{}' is no MAC address (like 52:54:00:12:34:56)",
                          text);
    }
    return mac;
}

std::string MacAddress::text() const {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2],
                       bytes[3], bytes[4], bytes[5]);
}

bool MacAddress::is_unicast() const { return (bytes[0] & 1) == 0 && *this != MacAddress{}; }

Address Address::ipv4(std::span<std::uint8_t const, 4> bytes) {
    Address address;
    std::ranges::copy(bytes, address.bytes_.begin());
    return address;
}

Address Address::ipv6(std::span<std::uint8_t const, 16> bytes) {
    Address address;
    address.family_ = Family::ipv6;
    std::ranges::copy(bytes, address.bytes_.begin());
    return address;
}

core::Result<Address> Address::parse(std::string_view text) {
    std::string const terminated(text);
    Address address;
    if (terminated.find('\0') == std::string::npos) {
        if (inet_pton(AF_INET, terminated.c_str(), address.bytes_.data()) == 1) return address;
        address.family_ = Family::ipv6;
        if (inet_pton(AF_INET6, terminated.c_str(), address.bytes_.data()) == 1) return address;
    }
    return core::fail(
        core::Errc::invalid,
        "'{}' is no IP address (like 192.0.2.10 or 2001:db8::10, without prefix length)", text);
}

std::string Address::text() const {
    char buffer[INET6_ADDRSTRLEN];
    inet_ntop(is_ipv4() ? AF_INET : AF_INET6, bytes_.data(), buffer, sizeof buffer);
    return buffer;
}

bool Address::is_link_local() const {
    if (is_ipv4()) return bytes_[0] == 169 && bytes_[1] == 254;
    return bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
}

bool Address::is_host() const {
    if (is_ipv4()) return bytes_[0] != 0 && bytes_[0] != 127 && bytes_[0] < 224;
    if (bytes_[0] == 0xff) return false;
    // ::/80 holds the unspecified, the loopback, the IPv4-compatible and the IPv4-mapped addresses.
    return std::any_of(bytes_.begin(), bytes_.begin() + 10, [](auto byte) { return byte != 0; });
}

}  // namespace netmove
