#include "tests/bench/flood.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/stream.hpp"
#include "tests/bench/capture.hpp"

namespace bench {

namespace {

/// How often the end is checked while nothing arrives.
constexpr int look_ms = 20;
/// The time between two marks.
constexpr double mark_ms = 1;
/// Bytes of the pattern: not a multiple of any size at which a network cuts.
constexpr std::size_t period = 65521;
constexpr std::size_t chunk = 32768;

}  // namespace

Flood::Flood(lab::Lab const& net, std::string const& address)
    : socket_(lab::connect_in(net.client_netns(), address, port)) {
    if (!socket_) throw lab::Failure("no echo server answers at " + address);
    // Twice the period, so that a chunk from any position is contiguous.
    pattern_.resize(2 * period);
    for (std::size_t i = 0; i < pattern_.size(); ++i) {
        pattern_[i] = static_cast<char>((i % period) * 0x9e3779b1U >> 24);
    }
    marks_.push_back({wall_ms(), 0});
    thread_ = std::thread([this] { run(); });
}

Flood::~Flood() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
}

void Flood::finish() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
    if (!wrong_.empty()) throw lab::Failure("a bulk stream: " + wrong_);
}

std::string Flood::local_port() const {
    auto const port_of = core::local_port(socket_.get());
    if (!port_of) throw lab::Failure(port_of.error().sentence());
    return std::to_string(*port_of);
}

void Flood::run() {
    while (!over_ && wrong_.empty()) {
        pollfd ready{socket_.get(), POLLIN | POLLOUT, 0};
        if (::poll(&ready, 1, look_ms) < 1) continue;
        if ((ready.revents & (POLLIN | POLLERR | POLLHUP)) != 0 && !take()) return;
        if ((ready.revents & POLLOUT) != 0 && !give()) return;
    }
}

bool Flood::take() {
    std::array<char, chunk> room;
    auto const got = recv(socket_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) {
        wrong_ = got == 0 ? "the guest closed it" : std::strerror(errno);
        return false;
    }
    auto const size = static_cast<std::size_t>(got);
    if (std::memcmp(room.data(), pattern_.data() + received_ % period, size) != 0) {
        wrong_ = fmt::format("other bytes than were sent, behind {}", received_);
        return false;
    }
    received_ += size;
    double const now = wall_ms();
    if (now - marks_.back().at_ms >= mark_ms) {
        marks_.push_back({now, received_});
    } else {
        marks_.back().bytes = received_;
    }
    return true;
}

bool Flood::give() {
    auto const sent =
        send(socket_.get(), pattern_.data() + sent_ % period, chunk, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) sent_ += static_cast<std::uint64_t>(sent);
    if (sent >= 0 || errno == EAGAIN) return true;
    wrong_ = std::strerror(errno);
    return false;
}

double Flood::bytes_at(double at_ms) const {
    auto const next = std::ranges::upper_bound(marks_, at_ms, {}, &Mark::at_ms);
    return next == marks_.begin() ? 0 : static_cast<double>(std::prev(next)->bytes);
}

double Flood::bytes_per_second(double from_ms, double span_ms) const {
    return (bytes_at(from_ms + span_ms) - bytes_at(from_ms)) / span_ms * 1000;
}

double Flood::longest_silence_ms(double before_ms) const {
    double longest = 0;
    double last = marks_.front().at_ms;
    for (auto const& mark : marks_) {
        longest = std::max(longest, std::min(mark.at_ms, before_ms) - last);
        if (mark.at_ms >= before_ms) break;
        last = mark.at_ms;
    }
    return std::max(longest, before_ms - marks_.back().at_ms);
}

double Flood::reached_after_ms(double from_ms, double wanted, double window_ms) const {
    double const last = marks_.back().at_ms - window_ms;
    for (double at = from_ms; at <= last; at += mark_ms) {
        if (bytes_per_second(at, window_ms) >= wanted) return at - from_ms;
    }
    return -1;
}

}  // namespace bench
