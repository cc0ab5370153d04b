// Sequence numbers of Binding Updates (RFC 6275 9.5.1). Used by both machines, which must agree.
#pragma once

#include <cstdint>

namespace netmove::mobile_ipv6 {

/// Whether `sequence` is newer than `last`, modulo 2^16: it is one of the next 32,767 numbers (the
/// 32,768 before `last`, and `last` itself, are not).
[[nodiscard]] constexpr bool is_newer(std::uint16_t sequence, std::uint16_t last) {
    auto const ahead = static_cast<std::uint16_t>(sequence - last);
    return ahead != 0 && ahead < 0x8000;
}

}  // namespace netmove::mobile_ipv6
