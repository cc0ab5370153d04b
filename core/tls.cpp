#include "core/tls.hpp"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "core/gnutls.hpp"

namespace core {

namespace {

// TLS 1.3 and nothing older; with PSK an ephemeral exchange as well, so that a stolen key opens no
// old record.
// AES first, which processors do themselves: of NORMAL's ciphers it is the last that a key of 256
// bits can be used with.
constexpr char const* priority_psk =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK:-CIPHER-ALL:+AES-128-GCM:"
    "+CHACHA20-POLY1305";
constexpr char const* priority_x509 = "NORMAL:-VERS-ALL:+VERS-TLS1.3";

/// Bytes that are received, and alerts that are passed over, before others have their turn: a peer
/// that sends as fast as we read must not keep the loop.
constexpr std::size_t bytes_in_a_row_max = 256 * 1024;
constexpr int alerts_max = 16;

std::unexpected<Error> tls_error(Errc code, std::string_view what, int error) {
    return fail(code, "{}: {}", what, gnutls_strerror(error));
}

Result<> refuse_if_readable_by_others(std::string const& path) {
    struct stat file{};
    if (stat(path.c_str(), &file) < 0)
        return fail_errno(errno, "cannot read the key file {}", path);
    if ((file.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return fail(Errc::refused, "the key file {} can be read by others: run `chmod 600 {}`",
                    path, path);
    }
    return {};
}

}  // namespace

struct TlsCredentials::Handles {
    gnutls_psk_client_credentials_t psk_client = nullptr;
    gnutls_psk_server_credentials_t psk_server = nullptr;
    gnutls_certificate_credentials_t certificate = nullptr;
    ~Handles() {
        if (psk_client != nullptr) gnutls_psk_free_client_credentials(psk_client);
        if (psk_server != nullptr) gnutls_psk_free_server_credentials(psk_server);
        if (certificate != nullptr) gnutls_certificate_free_credentials(certificate);
    }
};

TlsCredentials::~TlsCredentials() = default;

Result<std::shared_ptr<TlsCredentials>> TlsCredentials::load(TlsConfig const& config, Side side) {
    std::shared_ptr<TlsCredentials> made(new TlsCredentials);
    made->handles_ = std::make_unique<Handles>();
    made->mode_ = config.mode;
    if (config.mode != TlsConfig::Mode::plaintext) use_gnutls();
    switch (config.mode) {
        case TlsConfig::Mode::plaintext:
            break;
        case TlsConfig::Mode::psk:
            TRY_VOID(made->load_psk(config.path, side));
            break;
        case TlsConfig::Mode::x509:
            TRY_VOID(made->load_x509(config.path, side));
            break;
    }
    return made;
}

Result<> TlsCredentials::load_psk(std::string const& path, Side side) {
    TRY_VOID(refuse_if_readable_by_others(path));
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line) && (line.empty() || line.front() == '#')) {
    }
    auto const colon = line.find(':');
    constexpr std::size_t hex_digits_min = 32;  // 128 bits: less can be searched
    if (colon == std::string::npos || colon == 0 || line.size() - colon - 1 < hex_digits_min ||
        line.find_first_not_of("0123456789abcdefABCDEF", colon + 1) != std::string::npos) {
        return fail(
            Errc::invalid,
            "{} is not a key file: it needs a line NAME:HEXKEY with at least {} hex digits, as "
            "`psktool -u migration -p FILE` makes it",
            path, hex_digits_min);
    }
    if (side == Side::server) {
        gnutls_psk_allocate_server_credentials(&handles_->psk_server);
        int const error =
            gnutls_psk_set_server_credentials_file(handles_->psk_server, path.c_str());
        if (error < 0)
            return tls_error(Errc::invalid, fmt::format("cannot use the key file {}", path), error);
        return {};
    }
    gnutls_psk_allocate_client_credentials(&handles_->psk_client);
    std::string hex = line.substr(colon + 1);
    gnutls_datum_t const key{reinterpret_cast<unsigned char*>(hex.data()),
                             static_cast<unsigned>(hex.size())};
    int const error = gnutls_psk_set_client_credentials(
        handles_->psk_client, line.substr(0, colon).c_str(), &key, GNUTLS_PSK_KEY_HEX);
    if (error < 0)
        return tls_error(Errc::invalid, fmt::format("cannot use the key in {}", path), error);
    return {};
}

Result<> TlsCredentials::load_x509(std::string const& directory, Side side) {
    std::string const name = side == Side::server ? "server" : "client";
    auto const certificate = fmt::format("{}/{}-cert.pem", directory, name);
    auto const key = fmt::format("{}/{}-key.pem", directory, name);
    auto const authority = fmt::format("{}/ca-cert.pem", directory);
    TRY_VOID(refuse_if_readable_by_others(key));
    gnutls_certificate_allocate_credentials(&handles_->certificate);
    int error = gnutls_certificate_set_x509_trust_file(handles_->certificate, authority.c_str(),
                                                       GNUTLS_X509_FMT_PEM);
    if (error <= 0) {
        return fail(Errc::invalid, "no certificate authority could be read from {}", authority);
    }
    error = gnutls_certificate_set_x509_key_file(handles_->certificate, certificate.c_str(),
                                                 key.c_str(), GNUTLS_X509_FMT_PEM);
    if (error < 0) {
        return tls_error(Errc::invalid, fmt::format("cannot use {} with {}", certificate, key),
                         error);
    }
    return {};
}

class TlsStream : public Stream {
public:
    TlsStream(Loop& loop, Fd socket, std::shared_ptr<TlsCredentials> credentials)
        : loop_(loop),
          socket_(std::move(socket)),
          credentials_(std::move(credentials)),
          peer_(peer_name(socket_.get())) {}
    ~TlsStream() override {
        if (session_ == nullptr) return;
        gnutls_bye(session_,
                   GNUTLS_SHUT_WR);  // best effort, never waits: the socket is non-blocking
        gnutls_deinit(session_);
    }

    Task<Result<>> handshake(TlsCredentials::Side side, std::string host_name, Deadline deadline) {
        CO_TRY_VOID(set_up(side, host_name));
        for (int passed_over = 0;; ++passed_over) {
            int const error = gnutls_handshake(session_);
            if (error == GNUTLS_E_SUCCESS) break;
            if (gnutls_error_is_fatal(error) != 0) {
                gnutls_alert_send_appropriate(session_,
                                              error);  // the alert says why; best effort
                co_return handshake_failed(error);
            }
            if (error == GNUTLS_E_AGAIN) {
                --passed_over;
                CO_TRY_VOID(co_await ready(deadline));
            } else if (passed_over >= alerts_max) {
                co_return handshake_failed(error);
            }
        }
        // TLS 1.3 reports a refused key or certificate to a client only after its own handshake has
        // ended; the first read then fails with the alert. Nothing was sent that such a server
        // could have used.
        co_return Result<>{};
    }

    Task<Result<std::size_t>> read_some(std::span<std::byte> buffer, Deadline deadline) override {
        if (in_a_row_ >= bytes_in_a_row_max) {
            in_a_row_ = 0;
            co_await loop_.next_turn();
        }
        for (int passed_over = 0;; ++passed_over) {
            auto const got = gnutls_record_recv(session_, buffer.data(), buffer.size());
            if (got > 0) {
                in_a_row_ += static_cast<std::size_t>(got);
                co_return static_cast<std::size_t>(got);
            }
            if (got == 0) co_return fail(Errc::closed, "{} closed the connection", peer_);
            auto const error = static_cast<int>(got);
            if (error == GNUTLS_E_AGAIN) {
                in_a_row_ = 0;
                --passed_over;
                CO_TRY_VOID(co_await ready(deadline));
            } else if (gnutls_error_is_fatal(error) != 0 || passed_over >= alerts_max) {
                co_return lost(error);
            }
        }
    }

    Task<Result<>> write_all(std::span<std::byte const> bytes, Deadline deadline) override {
        for (int passed_over = 0; !bytes.empty(); ++passed_over) {
            auto const sent = gnutls_record_send(session_, bytes.data(), bytes.size());
            if (sent > 0) {
                passed_over = 0;
                bytes = bytes.subspan(static_cast<std::size_t>(sent));
                continue;
            }
            auto const error = static_cast<int>(sent);
            if (error == GNUTLS_E_AGAIN) {
                passed_over = 0;
                CO_TRY_VOID(co_await loop_.poll(socket_.get(), POLLOUT, deadline));
            } else if (gnutls_error_is_fatal(error) != 0 || passed_over >= alerts_max) {
                co_return lost(error);
            }
        }
        co_return Result<>{};
    }
    [[nodiscard]] std::string peer() const override { return peer_; }

private:
    Result<> set_up(TlsCredentials::Side side, std::string const& host_name) {
        bool const server = side == TlsCredentials::Side::server;
        gnutls_init(&session_,
                    (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
        auto const& handles = *credentials_->handles_;
        bool const psk = credentials_->mode_ == TlsConfig::Mode::psk;
        int error =
            gnutls_priority_set_direct(session_, psk ? priority_psk : priority_x509, nullptr);
        if (error < 0)
            return tls_error(Errc::invalid, "TLS 1.3 is not allowed on this host", error);
        if (psk && server) {
            error = gnutls_credentials_set(session_, GNUTLS_CRD_PSK, handles.psk_server);
        } else if (psk) {
            error = gnutls_credentials_set(session_, GNUTLS_CRD_PSK, handles.psk_client);
        } else {
            error = gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, handles.certificate);
            if (server) gnutls_certificate_server_set_request(session_, GNUTLS_CERT_REQUIRE);
            gnutls_session_set_verify_cert(session_, server ? nullptr : host_name.c_str(), 0);
        }
        if (error < 0) return tls_error(Errc::invalid, "the credentials cannot be used", error);
        gnutls_transport_set_int(session_, socket_.get());
        return {};
    }

    Task<Result<>> ready(Deadline deadline) {
        short const events = gnutls_record_get_direction(session_) != 0 ? POLLOUT : POLLIN;
        CO_TRY_VOID(co_await loop_.poll(socket_.get(), events, deadline));
        co_return Result<>{};
    }

    std::unexpected<Error> handshake_failed(int error) {
        if (error == GNUTLS_E_PREMATURE_TERMINATION || error == GNUTLS_E_SESSION_EOF ||
            error == GNUTLS_E_PULL_ERROR) {
            return fail(
                Errc::refused,
                "{} ended the TLS handshake: wrong key or certificate, or it does not speak TLS",
                peer_);
        }
        if (error == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
            gnutls_datum_t text{};
            unsigned const status = gnutls_session_get_verify_cert_status(session_);
            gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
            auto result = fail(Errc::refused, "the certificate of {} is not trusted: {}", peer_,
                               reinterpret_cast<char const*>(text.data));
            gnutls_free(text.data);
            return result;
        }
        return lost(error);
    }

    std::unexpected<Error> lost(int error) {
        if (error == GNUTLS_E_FATAL_ALERT_RECEIVED) {
            return fail(Errc::refused, "{} refused our key or certificate (TLS alert: {})", peer_,
                        gnutls_alert_get_name(gnutls_alert_get(session_)));
        }
        if (error == GNUTLS_E_PREMATURE_TERMINATION || error == GNUTLS_E_SESSION_EOF ||
            error == GNUTLS_E_PULL_ERROR || error == GNUTLS_E_PUSH_ERROR) {
            return fail(Errc::closed, "the connection to {} was lost", peer_);
        }
        if (error == GNUTLS_E_DECRYPTION_FAILED || error == GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER) {
            return fail(Errc::refused, "{} has a different key", peer_);
        }
        return tls_error(Errc::protocol, fmt::format("TLS with {} failed", peer_), error);
    }

    Loop& loop_;
    Fd socket_;
    std::shared_ptr<TlsCredentials> credentials_;
    std::string peer_;
    gnutls_session_t session_ = nullptr;
    std::size_t in_a_row_ = 0;  ///< Bytes received since the loop had its last turn.

public:
    /// Plaintext credentials: give the socket back untouched.
    Fd take_socket() { return std::move(socket_); }
    [[nodiscard]] bool plaintext() const {
        return credentials_->mode_ == TlsConfig::Mode::plaintext;
    }
};

Task<Result<std::unique_ptr<Stream>>> secure(Loop& loop, Fd socket,
                                             std::shared_ptr<TlsCredentials> credentials,
                                             TlsCredentials::Side side, std::string host_name,
                                             Deadline deadline) {
    auto stream = std::make_unique<TlsStream>(loop, std::move(socket), std::move(credentials));
    if (stream->plaintext()) {
        auto const peer = stream->peer();
        co_return plain_stream(loop, stream->take_socket(), peer);
    }
    CO_TRY_VOID(co_await stream->handshake(side, std::move(host_name), deadline));
    co_return std::unique_ptr<Stream>(std::move(stream));
}

/// What the kernel gives in one piece (getrandom(2)).
constexpr std::size_t random_bytes_max = 256;

std::string random_hex(std::size_t bytes) {
    std::string raw(bytes, '\0');
    assert(bytes <= random_bytes_max);
    // Fails only before the kernel has begun to give random numbers, for which it waits.
    if (::getrandom(raw.data(), raw.size(), 0) != static_cast<ssize_t>(bytes)) std::abort();
    std::string hex;
    for (char const byte : raw) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return hex;
}

}  // namespace core
