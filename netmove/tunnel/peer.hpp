// The other end of a tunnel: its sessions, where it is, and whether it is there. Used by End.
//
//   candidate  a handshake that is under way, beside the session in use, and never in its place
//              before it has finished: at the end that connects with the handshake, at the end that
//              waits with the first record that only the new keys explain
//   current    what frames and pings are sent with
//   previous   the one before; still read for a moment, because the path may reorder
//
// An end that sends and hears nothing asks with a ping. Unanswered pings make the peer silent: no
// tap is read then, and the end that connects begins a new handshake.
//
// Invariant: the endpoint changes only with the newest authentic record of the current session, or
// with that session. An unauthenticated datagram causes at most one shorter one, or none.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "netmove/tunnel/parts.hpp"

namespace netmove::tunnel {

/// After this time without any word from the peer, an end that sends asks whether it is there.
constexpr core::milliseconds silence_limit{700};
/// Between the pings of one question. Long enough for the round trip of a satellite.
constexpr core::milliseconds ping_interval{300};
/// Unanswered pings that make the peer silent: it is found gone within silence_limit and three
/// intervals, 1.6 s; with a hint from a peer that began anew, within 0.9 s.
constexpr int pings_max = 3;
/// Between pings to a silent peer.
constexpr core::milliseconds silent_ping_interval{1'000};
/// The end that connects says something at least this often: NATs forget a mapping after 30 s and
/// more (RFC 4787 REQ-5 demands 2 minutes; many do less).
constexpr core::seconds keepalive_interval{20};
/// The session before is read for so long.
constexpr core::milliseconds previous_time{2'000};
/// From one handshake that failed to the next.
constexpr core::milliseconds retry_pause{500};
/// GnuTLS is asked to repeat a flight not more often than this.
constexpr core::milliseconds flight_check_interval{20};
/// Hints to a tunnel's peer, and pings because of hints: not more often than this.
constexpr core::milliseconds hint_interval{500};
/// New handshakes that an end accepts while another is under way: one per this time, because each
/// costs 0.2 ms of a core; and from another endpoint not before the last had its chance.
constexpr core::milliseconds candidate_interval{50};
constexpr core::milliseconds candidate_chance{2'000};
/// Records with one key before the end that connects makes a new one: 2^27 of 1,400 bytes are 2^34
/// blocks, where RFC 8446 5.5 has the limit of AES-GCM.
constexpr std::uint64_t records_per_key_max = std::uint64_t{1} << 27;

class PeerOwner {
public:
    /// A record of kind frames; `sender` names its session.
    virtual void received(ByteView plain, std::uint64_t sender) = 0;
    virtual void ponged(Ping const& pong) = 0;
    /// The peer has tested the path, and so many bytes pass.
    virtual void peer_tested(std::size_t datagram_max) = 0;
    /// What the owner found for the path; 0: nothing yet.
    [[nodiscard]] virtual std::size_t tested() const = 0;
    /// Peer::established() may have changed.
    virtual void changed() = 0;
    /// The peer is at another endpoint: the path is another. `test`: this end is to test it.
    virtual void moved(bool test) = 0;
    /// step() is to be called.
    virtual void wake() = 0;

protected:
    ~PeerOwner() = default;
};

class Peer {
public:
    Peer(Parts& parts, Key const& key, Role role, std::optional<Endpoint> endpoint,
         PeerOwner& owner);

    /// A datagram with this tunnel's id.
    void handle(Datagram const& datagram, Path const& from, core::Clock::time_point now);
    /// Does what is due. When it is to be called again at the latest.
    core::Clock::time_point step(core::Clock::time_point now);

    /// A session is there, and the peer is not silent.
    [[nodiscard]] bool established() const { return current_ != nullptr && !silent_; }
    [[nodiscard]] std::optional<Path> const& path() const { return path_; }
    /// Encrypts for the current session. False: there is none, or it cannot.
    bool seal(ByteView plain, RecordSink& sink);
    /// Something was sent to the peer now, from which an answer could be expected.
    void note_sent(core::Clock::time_point now);
    /// Sends a ping in a datagram of `size` bytes (0: the smallest). `tested`: what the peer is to
    /// take as the result of a test of the path; 0: nothing. 0 or errno.
    int send_ping(std::uint32_t token, std::size_t size, std::size_t tested);

    /// Why it is not established, for people.
    [[nodiscard]] std::string trouble() const;
    [[nodiscard]] std::uint64_t unauthenticated() const { return unauthenticated_; }
    [[nodiscard]] std::uint64_t replayed() const { return replayed_; }
    [[nodiscard]] std::uint64_t malformed() const { return malformed_; }
    void count_malformed() { ++malformed_; }
    [[nodiscard]] std::uint64_t handshakes() const { return handshakes_; }

private:
    using TimePoint = core::Clock::time_point;
    static constexpr TimePoint never = TimePoint::max();
    struct Session {
        std::unique_ptr<DtlsSession> dtls;
        Path path;
        std::uint64_t number = 0;  ///< Which of this tunnel, from 1 on.
        TimePoint since{};
        Bytes client_random;
    };
    class Sender;

    void handle_record(Datagram const& datagram, Path const& from, TimePoint now);
    void handle_hello(Datagram const& datagram, Path const& from, TimePoint now);
    void handle_handshake(Datagram const& datagram, Path const& from, TimePoint now);
    void handle_hint(Path const& from, TimePoint now);
    void authentic(Session& session, Path const& from);
    void dispatch(ByteView plain, Session const& session);
    void refuse(Datagram const& datagram, Path const& from, TimePoint now);
    void answer(ByteView plain);
    void begin_handshake(TimePoint now);
    void drive_candidate(ByteView record, TimePoint now);
    void promote(TimePoint now);
    void check_alive(TimePoint now);
    void ask(TimePoint now, std::size_t tested = 0);
    int send_control(ByteView plain);
    [[nodiscard]] TimePoint next_due(TimePoint now) const;

    Parts& parts_;
    Key const& key_;
    Role role_;
    PeerOwner& owner_;
    std::optional<Path> given_;  ///< Where it is said to be.
    std::optional<Path> path_;  ///< Where it is.
    std::optional<Session> candidate_;
    std::unique_ptr<Session> current_;
    std::unique_ptr<Session> previous_;
    TimePoint previous_until_ = never;
    std::uint64_t sessions_ = 0;
    std::uint64_t attempts_ = 0;
    TimePoint next_attempt_{};
    TimePoint next_candidate_{};
    TimePoint next_hint_{};

    bool silent_ = false;
    int pings_ = 0;  ///< Unanswered.
    TimePoint ping_due_ = never;
    TimePoint first_unanswered_ = never;  ///< When what the peer has not reacted to was sent.
    TimePoint last_sent_{};

    std::uint64_t handshake_messages_ = 0;  ///< Of the peer, since the last session.
    std::string last_failure_;
    std::uint64_t unauthenticated_ = 0;
    std::uint64_t replayed_ = 0;
    std::uint64_t malformed_ = 0;
    std::uint64_t handshakes_ = 0;
};

}  // namespace netmove::tunnel
