// AddressHash: for tables by address. Used by the home agent's acting classes.
#pragma once

#include <cstring>

#include "netmove/address.hpp"

namespace netmove::mobile_ipv6 {

/// Addresses in these tables are from the operator's permissions, or care-of addresses of them: no
/// stranger can choose many that collide.
struct AddressHash {
    std::size_t operator()(Address const& address) const {
        constexpr std::uint64_t odd = 0x9e37'79b9'7f4a'7c15;  // 2^64 / golden ratio
        std::uint64_t halves[2]{};
        auto const bytes = address.bytes();
        std::memcpy(halves, bytes.data(), bytes.size());
        auto const mixed = (halves[0] * odd) ^ (halves[1] + (halves[0] >> 32U));
        return static_cast<std::size_t>((mixed * odd) ^ (mixed >> 29U));
    }
};

}  // namespace netmove::mobile_ipv6
