// The values of tunnel.hpp: endpoints, keys, statistics.
#include <charconv>

#include "core/tls.hpp"
#include "netmove/tunnel/tunnel.hpp"

namespace netmove::tunnel {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::size_t id_digits = 16;
constexpr std::size_t secret_bytes = 32;

bool is_hex(std::string_view text, std::size_t digits) {
    return text.size() == digits &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::unexpected<core::Error> bad_endpoint(std::string_view text) {
    return fail(Errc::invalid,
                "'{}' is no address with a port (like 192.0.2.1:{} or [2001:db8::1]:{})", text,
                default_port, default_port);
}

}  // namespace

std::string Endpoint::text() const {
    return fmt::format(fmt::runtime(address.is_ipv4() ? "{}:{}" : "[{}]:{}"), address.text(), port);
}

Result<Endpoint> Endpoint::parse(std::string_view text) {
    auto const colon = text.rfind(':');
    if (colon == std::string_view::npos || colon == 0) return bad_endpoint(text);
    auto host = text.substr(0, colon);
    auto const digits = text.substr(colon + 1);
    bool const brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (brackets) host = host.substr(1, host.size() - 2);
    auto const address = Address::parse(host);
    // An IPv6 address without brackets would swallow the port.
    if (!address || address->is_ipv4() == brackets) return bad_endpoint(text);
    Endpoint endpoint{*address, 0};
    auto const [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), endpoint.port);
    if (error != std::errc() || end != digits.data() + digits.size() || endpoint.port == 0) {
        return bad_endpoint(text);
    }
    return endpoint;
}

Key Key::generate() {
    Key key;
    auto const id = core::random_hex(id_digits / 2);
    std::from_chars(id.data(), id.data() + id.size(), key.id, 16);
    key.secret = core::random_hex(secret_bytes);
    return key;
}

Json Key::to_json() const {
    return Json::object({{"id", fmt::format("{:016x}", id)}, {"secret", secret}});
}

Result<Key> Key::from_json(Json const& json) {
    TRY(auto const id, json.text("id"));
    TRY(auto secret, json.text("secret"));
    if (!is_hex(id, id_digits)) {
        return fail(Errc::invalid, "'{}' is no id of a tunnel: {} lower-case hex digits", id,
                    id_digits);
    }
    if (!is_hex(secret, 2 * secret_bytes)) {
        return fail(Errc::invalid, "the secret of the tunnel {} is not {} bytes in lower-case hex",
                    id, secret_bytes);
    }
    Key key;
    std::from_chars(id.data(), id.data() + id.size(), key.id, 16);
    key.secret = std::move(secret);
    return key;
}

Json Statistics::to_json() const {
    auto out = Json::object({{"frames_sent", frames_sent},
                             {"frames_received", frames_received},
                             {"bytes_sent", bytes_sent},
                             {"bytes_received", bytes_received},
                             {"unauthenticated", unauthenticated},
                             {"replayed", replayed},
                             {"malformed", malformed},
                             {"incomplete", incomplete},
                             {"not_written", not_written},
                             {"handshakes", handshakes}});
    if (peer) out.set("peer", peer->text());
    if (path) {
        out.set("round_trip_ms",
                std::chrono::duration<double, std::milli>(path->round_trip).count());
        out.set("datagram_max", static_cast<std::uint64_t>(path->datagram_max));
    }
    return out;
}

}  // namespace netmove::tunnel
