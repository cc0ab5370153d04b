// The echo of `sidecar probe`, for the guest's operating system: needs no privilege. ProbeSessions
// decides what is answered (pure code), ProbeEcho serves it over UDP and TCP on the loop.
// Invariant: nothing that comes in is trusted; sessions, buffers and the time of an idle TCP
// session are bounded, and no sender gets more bytes than it sent.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "netmove/probe/account.hpp"

namespace netmove {

/// The numbered streams that an echo follows, by the numbers their probers chose.
class ProbeSessions {
public:
    /// UDP sessions at once, of 8 KiB each.
    static constexpr std::size_t sessions_max = 64;
    /// One that was silent so long may be forgotten for a new one.
    static constexpr std::uint64_t idle_ns = 10'000'000'000;

    /// The answer to a datagram that came at `received_ns`. None to what is no probe and no
    /// question, and none to a new session while there are sessions_max that are alive.
    std::optional<ProbeDatagram> answer(ProbeDatagram const& asked, std::uint64_t received_ns);
    /// The answer to that session could not be sent.
    void unsent(std::uint64_t session);
    /// Datagrams that the socket had no room for, since it was made.
    void overflowed(std::uint32_t count) { overflowed_ = count; }
    [[nodiscard]] std::size_t size() const { return sessions_.size(); }

private:
    struct Session {
        NumberTracker probes;
        std::uint64_t serial = 0;
        std::uint64_t last_ns = 0;
        std::uint32_t unsent = 0;
    };
    bool make_room(std::uint64_t now_ns);

    std::unordered_map<std::uint64_t, Session> sessions_;
    std::uint32_t overflowed_ = 0;
};

class ProbeEcho {
public:
    /// TCP sessions at once; a further one is closed at once.
    static constexpr std::size_t tcp_sessions_max = 64;
    /// What one TCP session may have on its way back; until that is gone nothing more is read.
    static constexpr std::size_t tcp_buffer_bytes = 65536;
    /// A TCP session is closed that sends nothing for so long: far longer than any outage that is
    /// to be measured.
    static constexpr core::seconds tcp_idle{600};

    /// `listen`: an IPv4 or IPv6 address; empty: every address of both families (of one, where the
    /// kernel has only that). Fails when a port is taken, and says which.
    static core::Result<std::unique_ptr<ProbeEcho>> open(core::Loop& loop,
                                                         std::string const& listen,
                                                         std::uint16_t port);
    /// Serves until `token` is triggered.
    core::Task<void> run(std::stop_token token);

    [[nodiscard]] std::uint64_t answered() const { return answered_; }
    [[nodiscard]] std::uint64_t ignored() const { return ignored_; }
    [[nodiscard]] std::uint64_t tcp_sessions() const { return tcp_sessions_; }

private:
    struct Server {
        int family;
        core::Fd udp;
        core::Fd tcp;
    };
    explicit ProbeEcho(core::Loop& loop) : loop_(loop) {}
    core::Result<> add(int family, std::string const& address, std::uint16_t port);
    core::Task<void> serve_udp(int fd, std::stop_token token);
    core::Task<void> serve_tcp(int fd, core::TaskGroup& scope, std::stop_token token);
    core::Task<void> serve_session(core::Fd socket, std::stop_token token);
    bool answer_one(int fd, std::span<std::byte> room);

    core::Loop& loop_;
    std::vector<Server> servers_;
    ProbeSessions sessions_;
    std::size_t tcp_open_ = 0;
    std::uint64_t answered_ = 0;
    std::uint64_t ignored_ = 0;
    std::uint64_t tcp_sessions_ = 0;
};

}  // namespace netmove
