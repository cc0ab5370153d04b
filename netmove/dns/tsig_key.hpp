// netmove/dns/ changes the addresses that a guest's name has in the DNS: RFC 2136 (dynamic update),
// signed with TSIG (RFC 8945). It uses core/ and netmove/address.hpp, and nothing else uses ldns.
// sidecar/handover/ uses it.
//
// TsigKey: the key that a zone's primary server shares with this host, from a file in BIND's
// format.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/result.hpp"

namespace netmove::dns {

/// What ldns can compute and RFC 8945 (section 6) does not advise against. MD5 and SHA-1 are out
/// for the latter reason, SHA-384 for the former: ldns 1.8 misspells its name.
enum class TsigAlgorithm : std::uint8_t { hmac_sha256, hmac_sha512 };
/// "hmac-sha256", without the final dot.
std::string_view name(TsigAlgorithm algorithm);

struct TsigKey {
    std::string name;  ///< Absolute and in lower case, as "sidecar.".
    TsigAlgorithm algorithm = TsigAlgorithm::hmac_sha256;
    std::string secret;  ///< Base64. Never printed.
};

/// A name as this folder uses it: absolute (with the final dot), in lower case. `text` may omit the
/// dot. Only letters, digits, `-`, `_` and dots, which is what host names and names of keys consist
/// of. Fails with invalid, also if a label or the name is too long (RFC 1035, 2.3.4).
core::Result<std::string> absolute_name(std::string_view text);

/// One `key "NAME" { algorithm hmac-sha256; secret "BASE64"; };`, as tsig-keygen(8) prints it, with
/// comments of BIND's configuration files. Fails with refused.
core::Result<TsigKey> parse_tsig_key(std::string_view text);
/// Fails with refused, also if the file cannot be read, or if others than its owner can read it.
core::Result<TsigKey> read_tsig_key(std::string const& path);

/// A key file is a few lines.
constexpr std::size_t key_file_bytes_max = 4096;
/// 128 bits: fewer can be searched.
constexpr std::size_t secret_bytes_min = 16;
/// HMAC uses no more than a block of its hash; larger secrets are hashed first.
constexpr std::size_t secret_bytes_max = 512;

}  // namespace netmove::dns
