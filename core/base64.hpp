// Base64 (RFC 4648, section 4), by GnuTLS: bytes that travel inside JSON.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.hpp"

namespace core {

[[nodiscard]] std::string to_base64(std::span<std::uint8_t const> bytes);
/// Fails with protocol on anything that is no base64.
Result<std::vector<std::uint8_t>> from_base64(std::string_view text);

}  // namespace core
