// Bytes and addresses of the tests of netmove/mobile_ipv6/: written as the RFCs draw them. Used by
// the unit tests and by the test with other decoders. Invariant: nothing here uses the code under
// test, so a vector is as it was written by hand.
#pragma once

#include <string>
#include <string_view>

#include "netmove/frame_fields.hpp"

namespace mobile {

using netmove::Address;
using netmove::Bytes;
using netmove::ByteView;

inline Address ip(std::string_view text) { return Address::parse(text).value(); }

/// "ffff 0806" -> bytes
inline Bytes bytes(std::string_view hex) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string nibbles(hex);
    std::erase(nibbles, ' ');
    Bytes out;
    for (std::size_t i = 0; i + 1 < nibbles.size(); i += 2) {
        out.push_back(
            static_cast<std::uint8_t>(digits.find(nibbles[i]) * 16 + digits.find(nibbles[i + 1])));
    }
    return out;
}

inline Bytes operator+(Bytes left, Bytes const& right) {
    netmove::put(left, right);
    return left;
}

/// A Mobility Header as it is written here, with its length and its checksum filled in.
inline Bytes sealed(Bytes header, Address const& source, Address const& destination) {
    constexpr std::uint8_t mobility = 135;
    header[1] = static_cast<std::uint8_t>(header.size() / 8 - 1);
    header[4] = header[5] = 0;
    auto const sum = netmove::upper_layer_checksum(source, destination, mobility, header);
    header[4] = static_cast<std::uint8_t>(sum >> 8);
    header[5] = static_cast<std::uint8_t>(sum & 0xff);
    return header;
}

}  // namespace mobile
