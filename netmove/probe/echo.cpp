#include "netmove/probe/echo.hpp"

#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "netmove/probe/socket.hpp"

namespace netmove {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

// Datagrams that one socket answers before the others have a turn.
constexpr int datagrams_in_turn_max = 64;
constexpr int listen_backlog = 16;

}  // namespace

std::optional<ProbeDatagram> ProbeSessions::answer(ProbeDatagram const& asked,
                                                   std::uint64_t received_ns) {
    using Kind = ProbeDatagram::Kind;
    if (asked.kind != Kind::probe && asked.kind != Kind::ask) return {};
    auto found = sessions_.find(asked.session);
    if (found == sessions_.end()) {
        // A question about an unknown session gets no answer.
        if (asked.kind == Kind::ask || !make_room(received_ns)) return {};
        found = sessions_.emplace(asked.session, Session{}).first;
    }
    auto& session = found->second;
    session.last_ns = received_ns;
    auto made = asked;
    made.kind = Kind::told;
    made.received_ns = received_ns;
    if (asked.kind == Kind::probe) {
        using Seen = NumberTracker::Seen;
        if (session.probes.arrived(asked.number, received_ns) == Seen::too_late) return {};
        made.kind = Kind::answer;
        made.serial = ++session.serial;
    }
    made.known = {session.probes.seen(),
                  session.probes.duplicated(),
                  session.probes.reordered(),
                  session.probes.gap().longest_ns,
                  overflowed_,
                  session.unsent};
    return made;
}

void ProbeSessions::unsent(std::uint64_t session) {
    auto const found = sessions_.find(session);
    if (found != sessions_.end()) ++found->second.unsent;
}

bool ProbeSessions::make_room(std::uint64_t now_ns) {
    if (sessions_.size() < sessions_max) return true;
    auto const oldest = std::ranges::min_element(
        sessions_, {}, [](auto const& entry) { return entry.second.last_ns; });
    if (oldest->second.last_ns + idle_ns > now_ns) return false;
    sessions_.erase(oldest);
    return true;
}

Result<std::unique_ptr<ProbeEcho>> ProbeEcho::open(core::Loop& loop, std::string const& listen,
                                                   std::uint16_t port) {
    std::unique_ptr<ProbeEcho> echo(new ProbeEcho(loop));
    if (!listen.empty()) {
        TRY(auto const address, Address::parse(listen));
        TRY_VOID(echo->add(address.is_ipv4() ? AF_INET : AF_INET6, listen, port));
        return echo;
    }
    auto const ipv4 = echo->add(AF_INET, "", port);
    auto const ipv6 = echo->add(AF_INET6, "", port);
    // A kernel without one of the families still has the other.
    auto const missing = [](Result<> const& added) {
        return !added && (added.error().os == EAFNOSUPPORT || added.error().os == EADDRNOTAVAIL);
    };
    if (!ipv4 && (!missing(ipv4) || !ipv6)) return std::unexpected(ipv4.error());
    if (!ipv6 && !missing(ipv6)) return std::unexpected(ipv6.error());
    return echo;
}

Result<> ProbeEcho::add(int family, std::string const& address, std::uint16_t port) {
    auto at = any_address(family, port);
    if (!address.empty()) {
        TRY(auto const parsed, Address::parse(address));
        at = socket_address(parsed, port);
    }
    auto const where = fmt::format("{} port {}",
                                   !address.empty()    ? address
                                   : family == AF_INET ? "every IPv4 address"
                                                       : "every IPv6 address",
                                   port);
    Server server{family, {}, {}};
    TRY(server.udp, probe_udp_socket(family));
    int const on = 1;
    server.tcp.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!server.tcp) return fail_errno(errno, "cannot make a TCP socket");
    setsockopt(server.tcp.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6) {
        setsockopt(server.tcp.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    if (bind(server.udp.get(), at.get(), at.length) < 0) {
        return fail_errno(errno, "cannot take UDP {}", where);
    }
    if (bind(server.tcp.get(), at.get(), at.length) < 0 ||
        listen(server.tcp.get(), listen_backlog) < 0) {
        return fail_errno(errno, "cannot take TCP {}", where);
    }
    servers_.push_back(std::move(server));
    return {};
}

Task<void> ProbeEcho::run(std::stop_token token) {
    core::TaskGroup scope(loop_);
    for (auto const& server : servers_) {
        scope.spawn(serve_udp(server.udp.get(), token));
        scope.spawn(serve_tcp(server.tcp.get(), scope, token));
    }
    co_await scope.join();
}

Task<void> ProbeEcho::serve_udp(int fd, std::stop_token token) {
    std::vector<std::byte> room(probe_bytes_max);
    while (!token.stop_requested()) {
        auto const ready = co_await loop_.poll(fd, POLLIN, Deadline::never(token));
        if (!ready) co_return;
        for (int turn = 0; turn < datagrams_in_turn_max && answer_one(fd, room); ++turn) {
        }
    }
}

// False: nothing more is there.
bool ProbeEcho::answer_one(int fd, std::span<std::byte> room) {
    Envelope envelope;
    auto const received = envelope.receive(fd, room);
    if (received.error == EAGAIN) return false;
    if (received.error != 0) return true;  // an ICMP error of an earlier answer: told once
    if (received.overflowed) sessions_.overflowed(*received.overflowed);
    auto const bytes = room.first(received.bytes);
    auto const asked = parse_probe(bytes);
    auto const answer = asked ? sessions_.answer(*asked, received.at_ns) : std::nullopt;
    if (!answer) {
        ++ignored_;
        return true;
    }
    write_probe(*answer, bytes);
    if (envelope.answer(fd, bytes) != 0) {
        sessions_.unsent(answer->session);
    } else {
        ++answered_;
    }
    return true;
}

Task<void> ProbeEcho::serve_tcp(int fd, core::TaskGroup& scope, std::stop_token token) {
    while (!token.stop_requested()) {
        auto const accepted = co_await loop_.accept(fd, Deadline::never(token));
        if (!accepted) {
            if (accepted.error().code == Errc::cancelled) co_return;
            core::log::warning("probe echo: {}", accepted.error().sentence());
            // Descriptors are short: not at once again.
            if (!co_await core::sleep_for(loop_, core::milliseconds{100}, token)) co_return;
            continue;
        }
        Fd socket(*accepted);
        if (tcp_open_ >= tcp_sessions_max) continue;
        ++tcp_open_;
        ++tcp_sessions_;
        scope.spawn(serve_session(std::move(socket), token));
    }
}

Task<void> ProbeEcho::serve_session(Fd socket, std::stop_token token) {
    int const on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto const stream = core::plain_stream(loop_, std::move(socket), "the prober");
    std::vector<std::byte> buffer(tcp_buffer_bytes);
    auto const bytes = std::as_bytes(std::span(probe_greeting));
    auto const greeting = std::span(buffer).first(bytes.size());
    bool ours = static_cast<bool>(
        co_await core::read_exactly(*stream, greeting, Deadline::after(tcp_idle, token)));
    ours = ours && std::ranges::equal(greeting, bytes);
    auto back = std::span<std::byte const>(greeting);
    while (ours) {
        if (!co_await stream->write_all(back, Deadline::after(tcp_idle, token))) break;
        auto const got = co_await stream->read_some(buffer, Deadline::after(tcp_idle, token));
        if (!got) break;
        back = std::span(buffer).first(*got);
    }
    --tcp_open_;
}

}  // namespace netmove
