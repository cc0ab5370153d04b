#include "netmove/probe/stream.hpp"

#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>

namespace netmove {

using core::Clock;
using core::Deadline;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

// A probe that is due for longer is not made up for: the machine slept, or was stopped.
constexpr core::seconds late_max{1};
// Sends and receives of one stream before the others have a turn.
constexpr int turn_max = 64;
// After the last probe answers are waited for until none came for so long, which is longer than
// any pause of a migration that works; a guest that is slower than its probes has some seconds of
// them in its queue.
constexpr core::milliseconds answers_silence{2000};
constexpr core::milliseconds answers_wait{15000};
// How often the echo is asked what it knows, and how often that is repeated at most.
constexpr core::milliseconds ask_interval{100};
constexpr int asks_max = 10;

std::uint64_t by_chance() {
    std::uint64_t number = 0;
    // Eight bytes are given whole or not at all; without any, the clock is chance enough.
    if (getrandom(&number, sizeof number, 0) != sizeof number) number = wall_ns();
    return number;
}

}  // namespace

bool ProbePace::take(Clock::time_point now, ProbeHiccups& hiccups) {
    if (next_ > now) return false;
    if (now - next_ > late_max) {
        auto const missed = (now - next_) / period_;
        hiccups.skipped += static_cast<std::uint64_t>(missed);
        next_ += missed * period_;
    }
    hiccups.late_max = std::max(hiccups.late_max, now - next_);
    next_ += period_;
    return true;
}

Result<std::unique_ptr<ProbeStream>> ProbeStream::open(core::Loop& loop, Address const& address,
                                                       ProbeSettings const& settings) {
    auto const to = socket_address(address, settings.port);
    TRY(auto socket, probe_udp_socket(to.family()));
    if (connect(socket.get(), to.get(), to.length) < 0) {
        return fail_errno(errno, "cannot reach {}", address.text());
    }
    return std::unique_ptr<ProbeStream>(new ProbeStream(loop, settings, std::move(socket)));
}

ProbeStream::ProbeStream(core::Loop& loop, ProbeSettings const& settings, Fd socket)
    : loop_(loop),
      settings_(settings),
      socket_(std::move(socket)),
      session_(by_chance()),
      pace_(settings.period),
      room_(settings.bytes),
      progress_(loop) {}

Task<void> ProbeStream::send(Deadline deadline) {
    core::Event never(loop_);
    while (!deadline.stopped() && !deadline.passed() && !account_.full()) {
        auto const until = std::min(pace_.next(), deadline.at());
        (void)co_await never.wait(
            Deadline(until, deadline.token()));  // ends by its time, or stopped
        if (deadline.stopped()) break;
        for (int turn = 0; turn < turn_max && !account_.full(); ++turn) {
            auto const now = Clock::now();
            if (now >= deadline.at() || !pace_.take(now, hiccups_)) break;
            send_one();
        }
    }
    account_.ended(wall_ns());
}

void ProbeStream::send_one() {
    ProbeDatagram probe;
    probe.session = session_;
    probe.number = account_.samples().size();
    probe.sent_ns = wall_ns();
    int const error = transmit(probe);
    if (error == EAGAIN || error == ENOBUFS) {
        ++hiccups_.unsent;
        return;
    }
    // What the network refused counts as sent: it is lost.
    if (error != 0) ++hiccups_.refused;
    (void)account_.sent(probe.sent_ns);
}

// 0 or errno. The kernel reports an ICMP error of an earlier probe here once; nothing is sent then.
int ProbeStream::transmit(ProbeDatagram const& datagram) {
    write_probe(datagram, room_);
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (::send(socket_.get(), room_.data(), room_.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return 0;
        }
        if (errno == EAGAIN || errno == ENOBUFS) return errno;
    }
    return errno;
}

Task<void> ProbeStream::receive(std::stop_token token) {
    // One byte more: a datagram that is longer than ours is seen to be.
    std::vector<std::byte> room(settings_.bytes + 1);
    while (!token.stop_requested()) {
        auto const ready = co_await loop_.poll(socket_.get(), POLLIN, Deadline::never(token));
        if (!ready) co_return;
        for (int turn = 0; turn < turn_max && take_one(room); ++turn) {
        }
    }
}

bool ProbeStream::take_one(std::span<std::byte> room) {
    Envelope envelope;
    auto const received = envelope.receive(socket_.get(), room);
    if (received.error == EAGAIN) return false;
    if (received.error != 0) {
        ++hiccups_.refused;
        return true;
    }
    if (received.overflowed) hiccups_.overflowed = *received.overflowed;
    auto const answer = parse_probe(room.first(received.bytes));
    if (!answer || answer->session != session_) return true;
    if (answer->kind == ProbeDatagram::Kind::answer) account_.answered(*answer, received.at_ns);
    if (answer->kind == ProbeDatagram::Kind::told) account_.told(answer->known);
    progress_.set();
    return true;
}

Task<void> ProbeStream::conclude() {
    auto const patience = Deadline::after(answers_wait);
    while (!account_.complete() && !patience.passed()) {
        progress_.reset();
        if (!co_await progress_.wait(patience.sooner(answers_silence))) break;
    }
    ProbeDatagram ask;
    ask.kind = ProbeDatagram::Kind::ask;
    ask.session = session_;
    for (int asked = 0; asked < asks_max && !account_.was_told(); ++asked) {
        if (transmit(ask) != 0) ++hiccups_.refused;
        auto const soon = Deadline::after(ask_interval);
        while (!account_.was_told() && !soon.passed()) {
            progress_.reset();
            if (!co_await progress_.wait(soon)) break;
        }
    }
}

}  // namespace netmove
