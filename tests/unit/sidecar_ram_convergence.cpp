// Whether RAM converges: guests of several kinds, simulated pass by pass as QEMU works.
#include <catch2/catch.hpp>

#include "sidecar/machine/ram_convergence.hpp"

#include <algorithm>

namespace sidecar_ram_convergence_cases {

using namespace sidecar::machine;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t mb = 1'000'000;

/// A guest that rewrites `working_set` at `dirty_rate`, over a link of `link_rate`.
struct Model {
    std::uint64_t ram = 200 * mb;
    std::uint64_t working_set = 0;
    std::uint64_t dirty_rate = 0;
    std::uint64_t link_rate = 0;
    /// While throttling is allowed, QEMU raises the throttle by this much each second pass.
    int throttle_step = 30;
};

struct End {
    RamVerdict verdict = RamVerdict::converging;
    milliseconds at{};
    bool throttled = false;  ///< At any time.
    bool stopped = false;  ///< QEMU could stop the guest within the downtime limit.
    RamArithmetic arithmetic;
};

/// Runs until QEMU can stop the guest, until the verdict, or for one hour.
End walk(Model const& model, RamConvergenceLimits const& limits) {
    RamConvergence convergence;
    RamSample sample{.passes = 1, .remaining_bytes = model.ram};
    End end;
    auto left = static_cast<double>(model.ram);
    double pass_s = 0;
    constexpr double look_s = 0.02;
    for (; sample.at < 1h; sample.at += 20ms) {
        double const sent = std::min(left, static_cast<double>(model.link_rate) * look_s);
        left -= sent;
        sample.transferred_bytes += static_cast<std::uint64_t>(sent);
        pass_s += look_s;
        if (left < 1) {
            double const rate =
                static_cast<double>(model.dirty_rate) * (100 - sample.cpu_throttle_percent) / 100;
            left = std::min(rate * pass_s, static_cast<double>(model.working_set));
            sample.dirty_bytes_per_second = static_cast<std::uint64_t>(left / pass_s);
            pass_s = 0;
            ++sample.passes;
            end.stopped = left * 1000 / static_cast<double>(model.link_rate) <=
                          static_cast<double>(limits.pause.count());
            if (end.stopped) break;
            if (end.throttled && sample.passes % 2 == 0) {
                sample.cpu_throttle_percent =
                    std::min(sample.cpu_throttle_percent + model.throttle_step,
                             RamConvergence::cpu_throttle_percent_max);
            }
        }
        sample.remaining_bytes = static_cast<std::uint64_t>(left);
        end.verdict = convergence.look(sample, limits);
        end.throttled |= end.verdict == RamVerdict::throttle;
        if (end.verdict == RamVerdict::give_up) break;
    }
    end.at = sample.at;
    end.arithmetic = convergence.arithmetic();
    return end;
}

constexpr RamConvergenceLimits by_default{270ms, 600s, true};

}  // namespace

TEST_CASE("RAM convergence: a guest that dirties less than the link takes is left alone",
          "[converge]") {
    auto const share = GENERATE(0, 20, 50, 80);
    INFO(share);
    auto const end = walk({.working_set = 100 * mb,
                           .dirty_rate = static_cast<std::uint64_t>(share) * mb,
                           .link_rate = 100 * mb},
                          by_default);
    CHECK(end.stopped);
    CHECK_FALSE(end.throttled);
    CHECK(end.verdict == RamVerdict::converging);
}

TEST_CASE("RAM convergence: a small working set is left alone, however fast it is dirtied",
          "[converge]") {
    auto const end =
        walk({.working_set = 20 * mb, .dirty_rate = 1000 * mb, .link_rate = 100 * mb}, by_default);
    CHECK(end.stopped);
    CHECK_FALSE(end.throttled);
}

TEST_CASE("RAM convergence: a guest that dirties faster than the link is slowed down, and moves",
          "[converge]") {
    auto const end =
        walk({.working_set = 100 * mb, .dirty_rate = 150 * mb, .link_rate = 100 * mb}, by_default);
    CHECK(end.throttled);
    CHECK(end.stopped);
    CHECK(end.arithmetic.cpu_throttle_percent >= 30);
    CHECK(end.at < 60s);
}

TEST_CASE("RAM convergence: slowed down as far as allowed it still does not converge: the verdict",
          "[converge]") {
    auto const end =
        walk({.working_set = 100 * mb, .dirty_rate = 8000 * mb, .link_rate = 50 * mb}, by_default);
    CHECK(end.verdict == RamVerdict::give_up);
    CHECK(end.throttled);
    CHECK(end.arithmetic.cpu_throttle_percent == RamConvergence::cpu_throttle_percent_max);
    CHECK_FALSE(end.arithmetic.converging);
    CHECK(end.arithmetic.predicted_pause.count() == Approx(2000).epsilon(0.1));
    CHECK(end.arithmetic.transfer_bytes_per_second == Approx(50 * mb).epsilon(0.05));
    CHECK(end.at < 120s);
}

TEST_CASE("RAM convergence: if it may not be slowed down the verdict comes early", "[converge]") {
    auto limits = by_default;
    limits.may_throttle = false;
    auto const end =
        walk({.working_set = 60 * mb, .dirty_rate = 80 * mb, .link_rate = 4 * mb}, limits);
    CHECK(end.verdict == RamVerdict::give_up);
    CHECK_FALSE(end.throttled);
    CHECK(end.at < 120s);
    CHECK(end.arithmetic.dirty_bytes == Approx(60 * mb).epsilon(0.05));
    CHECK(end.arithmetic.predicted_pause.count() == Approx(15000).epsilon(0.05));
}

TEST_CASE("RAM convergence: the limit ends it, whatever is still possible", "[converge]") {
    auto limits = by_default;
    limits.converge = 30s;
    auto const end =
        walk({.ram = 40 * mb, .working_set = 30 * mb, .dirty_rate = 80 * mb, .link_rate = 4 * mb},
             limits);
    CHECK(end.verdict == RamVerdict::give_up);
    CHECK(end.at == 30s);
    CHECK_FALSE(end.arithmetic.converging);
}

TEST_CASE("RAM convergence: a first pass that takes longer than the limit is not the guest's fault",
          "[converge]") {
    Model const large{
        .ram = 100'000 * mb, .working_set = 10 * mb, .dirty_rate = 10 * mb, .link_rate = 100 * mb};
    CHECK(walk(large, by_default).stopped);
    // A link that carries nothing is still given up.
    auto const end = walk({.ram = 100 * mb}, by_default);
    CHECK(end.verdict == RamVerdict::give_up);
    CHECK(end.at <= 600s);
}

TEST_CASE("RAM convergence: the throttle that is wanted follows the rates", "[converge]") {
    auto const wanted = [](std::uint64_t dirty, std::uint64_t link) {
        RamConvergence convergence;
        (void)convergence.look({.at = 0ms, .passes = 1}, by_default);
        (void)convergence.look(
            {.at = 1s, .passes = 2, .transferred_bytes = link, .dirty_bytes_per_second = dirty},
            by_default);
        return convergence.wanted_throttle_percent();
    };
    CHECK(wanted(100 * mb, 100 * mb) == 50);
    CHECK(wanted(60 * mb, 100 * mb) == RamConvergence::cpu_throttle_percent_min);
    CHECK(wanted(1000 * mb, 10 * mb) == RamConvergence::cpu_throttle_percent_max);
}

}  // namespace sidecar_ram_convergence_cases
