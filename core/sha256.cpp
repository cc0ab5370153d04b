#include "core/sha256.hpp"

#include <fmt/format.h>
#include <gnutls/crypto.h>

#include <array>
#include <cstdlib>

#include "core/gnutls.hpp"

namespace core {

Sha256::Sha256() {
    use_gnutls();
    gnutls_hash_hd_t state = nullptr;
    // Fails only without memory, or where a policy forbids SHA-256: then there is no TLS either.
    if (gnutls_hash_init(&state, GNUTLS_DIG_SHA256) < 0) std::abort();
    state_ = state;
}

Sha256::~Sha256() { gnutls_hash_deinit(static_cast<gnutls_hash_hd_t>(state_), nullptr); }

void Sha256::add(std::span<std::byte const> bytes) {
    if (gnutls_hash(static_cast<gnutls_hash_hd_t>(state_), bytes.data(), bytes.size()) < 0) {
        std::abort();
    }
}

std::string Sha256::text() {
    std::array<unsigned char, 32> digest{};
    gnutls_hash_output(static_cast<gnutls_hash_hd_t>(state_), digest.data());
    std::string hex;
    for (auto const byte : digest) hex += fmt::format("{:02x}", byte);
    return hex;
}

}  // namespace core
