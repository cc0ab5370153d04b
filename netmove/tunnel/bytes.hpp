// Numbers in the bytes of the wire, big endian. Used by datagram.cpp and fragment.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "netmove/frame.hpp"

namespace netmove::tunnel {

/// The number in bytes [at, at + size), which must be there; `size` is at most 8.
inline std::uint64_t number_at(ByteView bytes, std::size_t at, std::size_t size) {
    std::uint64_t number = 0;
    for (auto const byte : bytes.subspan(at, size)) number = number << 8 | byte;
    return number;
}

}  // namespace netmove::tunnel
