#include "core/base64.hpp"

#include <gnutls/gnutls.h>

#include <cstdlib>

namespace core {

namespace {

/// A datum that GnuTLS allocated.
struct Datum : gnutls_datum_t {
    Datum() : gnutls_datum_t{nullptr, 0} {}
    ~Datum() { gnutls_free(data); }
    Datum(Datum const&) = delete;
    Datum& operator=(Datum const&) = delete;
};

gnutls_datum_t view(void const* bytes, std::size_t size) {
    return {static_cast<unsigned char*>(const_cast<void*>(bytes)), static_cast<unsigned>(size)};
}

}  // namespace

std::string to_base64(std::span<std::uint8_t const> bytes) {
    if (bytes.empty()) return {};
    auto const plain = view(bytes.data(), bytes.size());
    Datum text;
    if (gnutls_base64_encode2(&plain, &text) < 0) std::abort();  // out of memory
    return {reinterpret_cast<char const*>(text.data), text.size};
}

Result<std::vector<std::uint8_t>> from_base64(std::string_view text) {
    if (text.empty()) return std::vector<std::uint8_t>{};
    auto const encoded = view(text.data(), text.size());
    Datum bytes;
    if (gnutls_base64_decode2(&encoded, &bytes) < 0) {
        return fail(Errc::protocol, "{} characters that should be base64 are not", text.size());
    }
    return std::vector<std::uint8_t>(bytes.data, bytes.data + bytes.size);
}

}  // namespace core
