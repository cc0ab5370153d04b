// How End tests its path (RFC 8899): pings of many sizes at once, and the largest that was answered
// with the same size is what passes in both directions.
#include <algorithm>
#include <cerrno>

#include "core/log.hpp"
#include "netmove/tunnel/end.hpp"

namespace netmove::tunnel {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

// MTUs that links and tunnels have, largest first: jumbo frames, Ethernet under VXLAN, Ethernet,
// PPPoE, GRE, VXLAN, WireGuard, LTE, IPv6's minimum.
constexpr std::size_t usual_mtus[] = {9000, 8000, 6000, 4352, 3000, 2000, 1600, 1570,
                                      1550, 1500, 1492, 1476, 1450, 1430, 1420, 1400,
                                      1380, 1360, 1340, 1320, 1300, 1280};
// Sizes between the largest that passed and the next that did not are tried in one more round.
constexpr std::size_t refined_sizes = 12;
// A size counts as too large after this many unanswered pings.
constexpr int tries_max = 3;
// How long an answer is waited for: three round trips, within these.
constexpr core::milliseconds answer_wait_min{100};
constexpr core::milliseconds answer_wait_max{1'000};
// The first ping is repeated so often until there is an answer.
constexpr core::milliseconds first_ping_interval{250};
// A test of its own accord, and the pause after one that failed.
constexpr core::seconds background_limit{10};
constexpr core::seconds background_pause{5};
// While frames flow, what passes now is tested again (RFC 8899 5.1.1, PMTU_RAISE_TIMER).
constexpr core::seconds raise_interval{600};

}  // namespace

Task<void> End::test_in_background(std::stop_token stop) {
    if (!co_await parts_.path_tests.acquire(Deadline::never(stop))) co_return;
    auto const tested = co_await test_path(Deadline::after(background_limit, stop));
    parts_.path_tests.release();
    if (!tested && !stop.stop_requested()) {
        core::log::warning("tunnel={:016x} {}", key_.id, tested.error().sentence());
        // Stopped: the flag is of no use to anyone.
        (void)co_await core::sleep_for(parts_.loop, background_pause, stop);
        test_due_ = true;
        wake();
    }
}

Task<Result<PathTest>> End::test_path(Deadline deadline) {
    core::CallGate::Hold const hold(calls_);
    CO_TRY_VOID(co_await testing_.acquire(deadline));
    auto result = co_await measure(deadline);
    probes_.clear();
    if (result) {
        set_datagram_max(result->datagram_max);
        tested_ = result->datagram_max;
        path_test_ = *result;
        tested_at_ = Clock::now();
        co_await tell_peer(deadline);
    }
    testing_.release();
    co_return result;
}

Task<Result<PathTest>> End::measure(Deadline deadline) {
    PathTest test;
    CO_TRY(auto const round_trip, co_await find_round_trip(deadline));
    CO_TRY(auto least, co_await largest_of({datagram_min}, deadline));
    if (least == 0) {
        co_return fail(Errc::refused,
                       "datagrams of {} bytes do not pass between this host and {}: its MTU must "
                       "be 1,280 or more",
                       datagram_min, peer_.path()->peer.text());
    }
    std::vector<std::size_t> sizes;
    for (auto const mtu : usual_mtus) sizes.push_back(mtu - header_size(*peer_.path()));
    std::erase_if(sizes, [](auto size) { return size <= datagram_min || size > datagram_limit; });
    CO_TRY(auto best, co_await largest_of(sizes, deadline));
    best = std::max(best, least);
    std::size_t above = best;
    for (auto const size : sizes) {
        if (size > best) above = size;
    }
    std::vector<std::size_t> between;
    for (std::size_t i = 1; i <= refined_sizes; ++i) {
        auto const size = best + (above - best) * i / (refined_sizes + 1);
        if (size > best && (between.empty() || between.back() != size)) between.push_back(size);
    }
    if (!between.empty()) {
        CO_TRY(auto const refined, co_await largest_of(std::move(between), deadline));
        best = std::max(best, refined);
    }
    test.round_trip = std::chrono::duration_cast<std::chrono::nanoseconds>(round_trip);
    test.datagram_max = best;
    co_return test;
}

void End::send_probe(std::size_t size, std::size_t tested) {
    auto const token = next_token_++;
    if (peer_.send_ping(token, size, tested) == EMSGSIZE)
        return;  // longer than the interface's MTU
    probes_.push_back({token, size, Clock::now(), {}});
}

Clock::time_point End::confirm_path(Clock::time_point now) {
    if (confirm_due_ > now) return confirm_due_;
    confirm_due_ = Clock::time_point::max();
    bool const over = confirm_tries_ == confirm_tries_max;
    bool const large = tested_ > datagram_min && peer_.established();
    if (!large || over) confirm_tries_ = 0;
    if (!large) return confirm_due_;
    if (now - tested_at_ >= raise_interval && testing_.free() != 0) {
        tested_at_ = now;
        test_due_ = true;
    }
    if (over) {
        core::log::info("tunnel={:016x} datagrams of {} bytes no longer pass", key_.id, tested_);
        moved(true);
        return confirm_due_;
    }
    if (confirm_tries_++ == 0) confirm_from_ = next_token_;
    if (peer_.send_ping(next_token_++, tested_, 0) == EMSGSIZE) {
        moved(true);
        return confirm_due_;
    }
    return confirm_due_ = now + confirm_retry;
}

void End::ponged(Ping const& pong) {
    if (confirm_tries_ != 0 && pong.token - confirm_from_ < std::uint32_t{confirm_tries_max}) {
        confirm_tries_ = 0;
        confirm_due_ = Clock::time_point::max();
    }
    for (auto& probe : probes_) {
        if (probe.token != pong.token || probe.round_trip) continue;
        probe.round_trip = Clock::now() - probe.sent;
        pong_.set();
    }
}

std::size_t End::largest_answered() const {
    std::size_t largest = 0;
    for (auto const& probe : probes_) {
        if (probe.round_trip) largest = std::max(largest, probe.size);
    }
    return largest;
}

bool End::all_answered() const {
    return std::ranges::all_of(probes_, [](auto const& one) { return one.round_trip.has_value(); });
}

Task<Result<Clock::duration>> End::find_round_trip(Deadline deadline) {
    probes_.clear();
    while (!stopping_) {
        pong_.reset();
        send_probe(0);
        auto const waited = co_await pong_.wait(deadline.sooner(first_ping_interval));
        for (auto const& probe : probes_) {
            if (probe.round_trip) co_return *probe.round_trip;
        }
        if (waited || !(deadline.passed() || deadline.stopped())) continue;
        if (deadline.stopped()) break;
        co_return fail(Errc::timed_out, "the path of the tunnel {:016x} cannot be tested: {}",
                       key_.id,
                       peer_.established() ? "its pings are not answered" : peer_.trouble());
    }
    co_return fail(Errc::cancelled, "the tunnel was removed");
}

/// 0: none passes.
Task<Result<std::size_t>> End::largest_of(std::vector<std::size_t> sizes, Deadline deadline) {
    Clock::duration wait = answer_wait_max;
    for (auto const& probe : probes_) {
        if (probe.round_trip) wait = std::min(wait, 3 * *probe.round_trip);
    }
    wait = std::max<Clock::duration>(wait, answer_wait_min);
    probes_.clear();
    std::size_t largest = 0;
    for (int attempt = 0; attempt < tries_max && !stopping_; ++attempt) {
        std::erase_if(sizes, [&](auto size) { return size <= largest; });
        if (sizes.empty()) break;
        for (auto const size : sizes) send_probe(size);
        auto const until = deadline.sooner(wait);
        while (!stopping_ && !all_answered()) {
            pong_.reset();
            if (!co_await pong_.wait(until)) break;
        }
        largest = largest_answered();
        if (deadline.stopped()) co_return fail(Errc::cancelled, "cancelled");
        if (deadline.passed()) {
            co_return fail(Errc::timed_out, "the path of the tunnel {:016x} was not tested in time",
                           key_.id);
        }
    }
    if (stopping_) co_return fail(Errc::cancelled, "the tunnel was removed");
    co_return largest;
}

/// Gives the peer what was found; the ping that does it is repeated until it is answered.
Task<void> End::tell_peer(Deadline deadline) {
    probes_.clear();
    for (int attempt = 0; attempt < tries_max && !stopping_; ++attempt) {
        pong_.reset();
        send_probe(0, tested_);
        if (co_await pong_.wait(deadline.sooner(first_ping_interval))) break;
        if (deadline.passed() || deadline.stopped()) break;
    }
    probes_.clear();
}

}  // namespace netmove::tunnel
