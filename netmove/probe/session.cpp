#include "netmove/probe/stream.hpp"

#include <netinet/tcp.h>
#include <poll.h>

#include <array>
#include <cerrno>

#include "core/stream.hpp"

namespace netmove {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

constexpr core::seconds connect_limit{5};
// After a session ended, or could not be made.
constexpr core::milliseconds reconnect_pause{100};
// Lines still under way when no further one is sent.
constexpr core::milliseconds answers_patience{1000};
// What may wait to be sent; then no line is made until the other side takes some.
constexpr std::size_t waiting_bytes_max = 65536;
// Lines made before others have a turn.
constexpr int lines_per_turn_max = 64;

std::uint64_t retransmitted(int fd) {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0) return 0;
    return info.tcpi_total_retrans;
}

}  // namespace

ProbeSession::ProbeSession(core::Loop& loop, Address const& address, ProbeSettings const& settings)
    : loop_(loop),
      address_(socket_address(address, settings.port)),
      pace_(settings.period),
      progress_(loop) {}

Task<void> ProbeSession::run(std::stop_token token) {
    while (!token.stop_requested() && !concluding_) {
        co_await one_session(token);
        (void)co_await core::sleep_for(loop_, reconnect_pause, token);  // stopped: the loop ends
    }
}

Task<void> ProbeSession::one_session(std::stop_token token) {
    Fd socket(::socket(address_.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket || !co_await loop_.connect(socket.get(), address_.get(), address_.length,
                                           Deadline::after(connect_limit, token))) {
        if (!token.stop_requested()) ++figures_.failed;
        co_return;
    }
    int const on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ++figures_.sessions;
    waiting_ = probe_greeting;
    next_line_ = next_back_ = 0;
    greeted_ = false;
    core::TaskGroup scope(loop_);
    core::LinkedStop stop(token);
    scope.spawn(write_lines(socket.get(), stop.token()));
    auto const read = co_await read_lines(socket.get(), stop.token());
    if (!token.stop_requested() && !read) ++figures_.ended;
    stop.request_stop();
    co_await scope.join();
    figures_.retransmitted += retransmitted(socket.get());
}

Task<void> ProbeSession::write_lines(int fd, std::stop_token token) {
    core::Event never(loop_);
    while (!token.stop_requested()) {
        for (int turn = 0; turn < lines_per_turn_max && !concluding_; ++turn) {
            if (!pace_.take(Clock::now(), hiccups_)) break;
            if (waiting_.size() >= waiting_bytes_max) {
                ++figures_.held_back;
                continue;
            }
            waiting_ += probe_line(next_line_++);
            ++figures_.sent;
        }
        // The reader reports what fails here; its end ends this.
        (void)flush(fd);
        auto const at = concluding_ ? Clock::now() + reconnect_pause : pace_.next();
        (void)co_await never.wait(Deadline(at, token));
    }
}

Result<> ProbeSession::flush(int fd) {
    while (!waiting_.empty()) {
        auto const sent = ::send(fd, waiting_.data(), waiting_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return {};
        if (sent < 0) return fail_errno(errno, "cannot send");
        waiting_.erase(0, static_cast<std::size_t>(sent));
    }
    return {};
}

Task<Result<>> ProbeSession::read_lines(int fd, std::stop_token token) {
    std::array<char, 16384> room{};
    std::string text;
    while (true) {
        auto const got = co_await loop_.read(fd, std::as_writable_bytes(std::span(room)),
                                             Deadline::never(token));
        if (!got) co_return std::unexpected(got.error());
        if (*got == 0) co_return fail(Errc::closed, "the echo closed the session");
        figures_.stall.arrived(wall_ns());
        text.append(room.data(), static_cast<std::size_t>(*got));
        CO_TRY_VOID(take_lines(text));
        progress_.set();
    }
}

Result<> ProbeSession::take_lines(std::string& text) {
    std::size_t at = 0;
    while (true) {
        auto const size = greeted_ ? probe_line_bytes : probe_greeting.size();
        if (text.size() - at < size) break;
        auto const line = std::string_view(text).substr(at, size);
        at += size;
        if (!greeted_ && line == probe_greeting) {
            greeted_ = true;
            continue;
        }
        if (!greeted_ || parse_probe_line(line) != next_back_) {
            ++figures_.wrong;
            return fail(Errc::protocol, "line {} came back changed", next_back_);
        }
        ++next_back_;
        ++figures_.answered;
    }
    text.erase(0, at);
    return {};
}

Task<void> ProbeSession::conclude() {
    concluding_ = true;
    figures_.stall.arrived(wall_ns());
    auto const patience = Deadline::after(answers_patience);
    while (next_back_ < next_line_ && !patience.passed()) {
        progress_.reset();
        if (!co_await progress_.wait(patience)) break;
    }
}

}  // namespace netmove
