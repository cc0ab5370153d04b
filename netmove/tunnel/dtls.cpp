#include "netmove/tunnel/dtls.hpp"

#include <gnutls/dtls.h>
#include <gnutls/gnutls.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/gnutls.hpp"
#include "netmove/tunnel/datagram.hpp"

namespace netmove::tunnel {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// PSK without an ephemeral exchange: GnuTLS 3.7 has one together with AES-GCM only over finite
// fields, which takes 9 ms of a core at each end and would hold up all frames. The secret is
// random, of one tunnel, and came over TLS 1.3, which has one.
constexpr char const* priority =
    "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-GCM:-COMP-ALL:+COMP-NULL";
// Messages of a handshake fit into any path.
constexpr unsigned handshake_mtu = datagram_min - id_size;
constexpr unsigned data_mtu = datagram_limit;
// Messages in one datagram; more in a row are not ours.
constexpr int messages_max = 16;

std::unexpected<core::Error> dtls_error(std::string_view what, int error) {
    return fail(Errc::invalid, "{}: {}", what, gnutls_strerror(error));
}

std::string identity(Key const& key) { return fmt::format("{:016x}", key.id); }

int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/// The secret in memory that GnuTLS frees.
bool give_secret(Key const& key, gnutls_datum_t* out) {
    auto const size = key.secret.size() / 2;
    out->data = static_cast<unsigned char*>(gnutls_malloc(size));
    if (out->data == nullptr) return false;
    out->size = static_cast<unsigned>(size);
    for (std::size_t i = 0; i < size; ++i) {
        out->data[i] = static_cast<unsigned char>(digit(key.secret[2 * i]) * 16 +
                                                  digit(key.secret[2 * i + 1]));
    }
    return true;
}

}  // namespace

struct DtlsContext::Handles {
    gnutls_psk_client_credentials_t client = nullptr;
    gnutls_psk_server_credentials_t server = nullptr;
    gnutls_priority_t priorities = nullptr;
    gnutls_datum_t cookie_key{};
    ~Handles() {
        if (client != nullptr) gnutls_psk_free_client_credentials(client);
        if (server != nullptr) gnutls_psk_free_server_credentials(server);
        if (priorities != nullptr) gnutls_priority_deinit(priorities);
        gnutls_free(cookie_key.data);
    }
};

struct DtlsSession::Handle {
    gnutls_session_t session = nullptr;
    gnutls_packet_t packet = nullptr;  ///< Holds plain_.
    ~Handle() {
        if (packet != nullptr) gnutls_packet_deinit(packet);
        if (session != nullptr) gnutls_deinit(session);
    }
};

/// What GnuTLS calls. The session's own pointer is the DtlsSession.
struct DtlsSession::Callbacks {
    static DtlsSession& of(gnutls_transport_ptr_t self) { return *static_cast<DtlsSession*>(self); }

    static ssize_t push(gnutls_transport_ptr_t self, void const* data, std::size_t size) {
        auto* const sink = of(self).sink_;
        if (sink != nullptr) sink->record({static_cast<std::uint8_t const*>(data), size});
        return static_cast<ssize_t>(size);
    }
    static ssize_t pull(gnutls_transport_ptr_t self, void* room, std::size_t size) {
        auto& session = of(self);
        if (session.incoming_.empty() || session.incoming_.size() > size) {
            session.incoming_ = {};
            gnutls_transport_set_errno(session.handle_->session, EAGAIN);
            return -1;
        }
        auto const bytes = std::exchange(session.incoming_, {});
        std::memcpy(room, bytes.data(), bytes.size());
        return static_cast<ssize_t>(bytes.size());
    }
    /// Never waits.
    static int pull_timeout(gnutls_transport_ptr_t self, unsigned) {
        return of(self).incoming_.empty() ? 0 : 1;
    }
    static int client_key(gnutls_session_t session, char** name, gnutls_datum_t* secret) {
        auto const& key = *of(gnutls_session_get_ptr(session)).key_;
        *name = gnutls_strdup(identity(key).c_str());
        return *name != nullptr && give_secret(key, secret) ? 0 : -1;
    }
    static int server_key(gnutls_session_t session, char const* name, gnutls_datum_t* secret) {
        auto const& key = *of(gnutls_session_get_ptr(session)).key_;
        return identity(key) == name && give_secret(key, secret) ? 0 : -1;
    }
    static ssize_t push_cookie(gnutls_transport_ptr_t sink, void const* data, std::size_t size) {
        static_cast<RecordSink*>(sink)->record({static_cast<std::uint8_t const*>(data), size});
        return static_cast<ssize_t>(size);
    }
};

DtlsContext::~DtlsContext() = default;

Result<std::unique_ptr<DtlsContext>> DtlsContext::create() {
    core::use_gnutls();
    std::unique_ptr<DtlsContext> made(new DtlsContext);
    made->handles_ = std::make_unique<Handles>();
    auto& handles = *made->handles_;
    int error = gnutls_psk_allocate_client_credentials(&handles.client);
    if (error == 0) error = gnutls_psk_allocate_server_credentials(&handles.server);
    if (error == 0) error = gnutls_key_generate(&handles.cookie_key, GNUTLS_COOKIE_KEY_SIZE);
    if (error == 0) error = gnutls_priority_init(&handles.priorities, priority, nullptr);
    if (error < 0) {
        return dtls_error("DTLS 1.2 with a pre-shared key and AES-GCM is not allowed on this host",
                          error);
    }
    gnutls_psk_set_client_credentials_function(handles.client, DtlsSession::Callbacks::client_key);
    gnutls_psk_set_server_credentials_function(handles.server, DtlsSession::Callbacks::server_key);
    return made;
}

DtlsSession::~DtlsSession() = default;

Result<std::unique_ptr<DtlsSession>> DtlsSession::make(DtlsContext& context, Key const& key,
                                                       Role role) {
    std::unique_ptr<DtlsSession> made(new DtlsSession);
    made->key_ = &key;
    made->handle_ = std::make_unique<Handle>();
    TRY_VOID(made->set_up(context, role));
    return made;
}

Result<> DtlsSession::set_up(DtlsContext& context, Role role) {
    auto& handles = *context.handles_;
    bool const server = role == Role::listens;
    int error =
        gnutls_init(&handle_->session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_DATAGRAM |
                                           GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS);
    if (error < 0) return dtls_error("cannot make a DTLS session", error);
    auto* const session = handle_->session;
    error = gnutls_priority_set(session, handles.priorities);
    if (error == 0 && server)
        error = gnutls_credentials_set(session, GNUTLS_CRD_PSK, handles.server);
    if (error == 0 && !server)
        error = gnutls_credentials_set(session, GNUTLS_CRD_PSK, handles.client);
    if (error < 0) return dtls_error("cannot prepare a DTLS session", error);
    gnutls_session_set_ptr(session, this);
    gnutls_transport_set_ptr(session, this);
    gnutls_transport_set_push_function(session, Callbacks::push);
    gnutls_transport_set_pull_function(session, Callbacks::pull);
    gnutls_transport_set_pull_timeout_function(session, Callbacks::pull_timeout);
    gnutls_dtls_set_timeouts(session, static_cast<unsigned>(flight_timeout.count()),
                             static_cast<unsigned>(handshake_timeout.count()));
    gnutls_dtls_set_mtu(session, handshake_mtu);
    return {};
}

Result<std::unique_ptr<DtlsSession>> DtlsSession::connect(DtlsContext& context, Key const& key) {
    return make(context, key, Role::connects);
}

Result<std::unique_ptr<DtlsSession>> DtlsSession::accept(DtlsContext& context, Key const& key,
                                                         std::string client, ByteView hello,
                                                         RecordSink& sink) {
    auto* const cookie_key = &context.handles_->cookie_key;
    Bytes message(hello.begin(), hello.end());  // GnuTLS takes it as writable
    gnutls_dtls_prestate_st prestate{};
    if (gnutls_dtls_cookie_verify(cookie_key, client.data(), client.size(), message.data(),
                                  message.size(), &prestate) < 0) {
        (void)gnutls_dtls_cookie_send(cookie_key, client.data(), client.size(), &prestate, &sink,
                                      Callbacks::push_cookie);
        return std::unique_ptr<DtlsSession>();
    }
    TRY(auto made, make(context, key, Role::listens));
    gnutls_dtls_prestate_set(made->handle_->session, &prestate);
    (void)made->handshake(hello, sink);  // its outcome is kept
    return made;
}

DtlsSession::Handshake DtlsSession::handshake(ByteView record, RecordSink& sink) {
    if (!failure_.empty()) return Handshake::failed;
    incoming_ = record;
    sink_ = &sink;
    if (finished_) {
        // A repeated message of the peer: GnuTLS sends its last flight again.
        char room[1];
        (void)gnutls_record_recv(handle_->session, room, sizeof room);
    } else {
        answered_ = answered_ || !record.empty();
        int error = GNUTLS_E_AGAIN;
        for (int message = 0; message < messages_max; ++message) {
            error = gnutls_handshake(handle_->session);
            bool const again = error < 0 && gnutls_error_is_fatal(error) == 0;
            if (!again || incoming_.empty()) break;
        }
        if (error == GNUTLS_E_SUCCESS) {
            finished_ = true;
            gnutls_dtls_set_mtu(handle_->session, data_mtu);
        } else if (gnutls_error_is_fatal(error) != 0) {
            failure_ = gnutls_strerror(error);
        }
    }
    sink_ = nullptr;
    incoming_ = {};
    if (!failure_.empty()) return Handshake::failed;
    return finished_ ? Handshake::finished : Handshake::under_way;
}

core::milliseconds DtlsSession::retransmit_in() const {
    return core::milliseconds{gnutls_dtls_get_timeout(handle_->session)};
}

bool DtlsSession::seal(ByteView plain, RecordSink& sink) {
    sink_ = &sink;
    auto const sent = gnutls_record_send(handle_->session, plain.data(), plain.size());
    sink_ = nullptr;
    ++records_;
    return sent == static_cast<ssize_t>(plain.size());
}

void DtlsSession::release() {
    if (handle_->packet != nullptr) gnutls_packet_deinit(std::exchange(handle_->packet, nullptr));
    plain_ = {};
}

DtlsSession::Opened DtlsSession::open(ByteView record) {
    release();
    incoming_ = record;
    auto const got = gnutls_record_recv_packet(handle_->session, &handle_->packet);
    incoming_ = {};
    if (got <= 0 || handle_->packet == nullptr) {
        handle_->packet = nullptr;
        return Opened::refused;
    }
    gnutls_datum_t plain{};
    std::array<unsigned char, 8> number{};  // epoch (2), sequence (6)
    gnutls_packet_get(handle_->packet, &plain, number.data());
    plain_ = {plain.data, plain.size};
    sequence_ = 0;
    for (std::size_t i = 2; i < number.size(); ++i) sequence_ = sequence_ << 8 | number[i];
    note(sequence_);
    ++records_;
    return Opened::authentic;
}

void DtlsSession::note(std::uint64_t sequence) {
    if (sequence > newest_) {
        auto const ahead = sequence - newest_;
        window_ = ahead < 64 ? window_ << ahead : 0;
        newest_ = sequence;
    }
    auto const behind = newest_ - sequence;
    if (behind < 64) window_ |= std::uint64_t{1} << behind;
}

bool DtlsSession::seen(std::uint64_t sequence) const {
    if (sequence > newest_) return false;
    auto const behind = newest_ - sequence;
    return behind >= 64 || (window_ >> behind & 1) != 0;
}

}  // namespace netmove::tunnel
