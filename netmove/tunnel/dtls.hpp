// DTLS 1.2 (RFC 6347) of one tunnel, by GnuTLS, over datagrams that are handed in and out: no
// socket, no wait. The key is a pre-shared one (RFC 4279, 5487: PSK with AES-128-GCM), the name in
// the handshake is the tunnel's id. Used by end.cpp.
//
// Invariant: a datagram that does not authenticate changes nothing in a session that has finished
// its handshake. Anything else than application data is not given to such a session at all.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/result.hpp"
#include "netmove/frame.hpp"
#include "netmove/tunnel/tunnel.hpp"

namespace netmove::tunnel {

/// An unanswered flight of the handshake is repeated after this time, then after twice that, and so
/// on: less than RFC 6347's second, as QUIC and others begin.
constexpr core::milliseconds flight_timeout{250};
/// A handshake that has not finished by then is given up; the end that connects begins another one.
constexpr core::milliseconds handshake_timeout{5'000};

/// Takes one datagram of DTLS to be sent.
class RecordSink {
public:
    virtual void record(ByteView record) = 0;

protected:
    ~RecordSink() = default;
};

/// What all sessions of one Hub share: GnuTLS's credentials, which ask a session for its key, and
/// the key of cookies.
class DtlsContext {
public:
    static core::Result<std::unique_ptr<DtlsContext>> create();
    ~DtlsContext();
    DtlsContext(DtlsContext const&) = delete;
    DtlsContext& operator=(DtlsContext const&) = delete;

private:
    friend class DtlsSession;
    DtlsContext() = default;
    struct Handles;
    std::unique_ptr<Handles> handles_;
};

class DtlsSession {
public:
    enum class Handshake : std::uint8_t {
        under_way,
        finished,
        failed,
    };
    enum class Opened : std::uint8_t {
        authentic,
        refused,  ///< Forged, of another session, or replayed.
    };

    /// The end that begins. The Key must outlive the session.
    static core::Result<std::unique_ptr<DtlsSession>> connect(DtlsContext& context, Key const& key);
    /// The end that waits. A ClientHello is answered with a cookie (RFC 6347 4.2.1), which is
    /// shorter, and makes no state. The session is made when a ClientHello shows the cookie for
    /// `client` (any bytes that name where it came from). None: the cookie was sent.
    static core::Result<std::unique_ptr<DtlsSession>> accept(DtlsContext& context, Key const& key,
                                                             std::string client, ByteView hello,
                                                             RecordSink& sink);
    ~DtlsSession();
    DtlsSession(DtlsSession const&) = delete;
    DtlsSession& operator=(DtlsSession const&) = delete;

    /// Goes on with the handshake: with a datagram that came in, or (empty) when retransmit_in()
    /// has passed. After it finished, the end that waits answers repeated messages of the other.
    Handshake handshake(ByteView record, RecordSink& sink);
    [[nodiscard]] bool finished() const { return finished_; }
    /// When handshake() is to be called again, if nothing arrives.
    [[nodiscard]] core::milliseconds retransmit_in() const;
    /// Why it failed, in GnuTLS's words; empty if it did not.
    [[nodiscard]] std::string const& failure() const { return failure_; }
    /// Whether the other end has answered anything in this handshake.
    [[nodiscard]] bool answered() const { return answered_; }

    /// Encrypts up to datagram_limit bytes into one record. False: the session cannot.
    bool seal(ByteView plain, RecordSink& sink);
    /// Decrypts one record of application data.
    Opened open(ByteView record);
    /// Frees the record that open() decrypted.
    void release();
    /// Of the last record that was authentic; valid until release().
    [[nodiscard]] ByteView plain() const { return plain_; }
    /// Whether it is the newest record of the session until now.
    [[nodiscard]] bool is_newest() const { return sequence_ == newest_; }
    /// Whether a record of this number has been opened, or is too old to know (RFC 6347 4.1.2.6).
    [[nodiscard]] bool seen(std::uint64_t sequence) const;
    /// Records sealed and opened with these keys.
    [[nodiscard]] std::uint64_t records() const { return records_; }

private:
    friend class DtlsContext;
    DtlsSession() = default;
    static core::Result<std::unique_ptr<DtlsSession>> make(DtlsContext& context, Key const& key,
                                                           Role role);
    core::Result<> set_up(DtlsContext& context, Role role);
    void note(std::uint64_t sequence);
    struct Callbacks;

    struct Handle;
    std::unique_ptr<Handle> handle_;
    Key const* key_ = nullptr;
    ByteView incoming_;  ///< What GnuTLS reads next.
    RecordSink* sink_ = nullptr;  ///< Where it writes.
    bool finished_ = false;
    bool answered_ = false;
    std::string failure_;
    ByteView plain_;
    std::uint64_t sequence_ = 0;
    std::uint64_t newest_ = 0;
    std::uint64_t window_ = 0;  ///< Bit n: newest_ - n was opened.
    std::uint64_t records_ = 0;
};

}  // namespace netmove::tunnel
