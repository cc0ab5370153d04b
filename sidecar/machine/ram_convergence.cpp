#include "sidecar/machine/ram_convergence.hpp"

#include <algorithm>

namespace sidecar::machine {

using std::chrono::milliseconds;

RamVerdict RamConvergence::look(RamSample const& sample, RamConvergenceLimits const& limits) {
    note_rate(sample);
    if (sample.passes > arithmetic_.passes) note_pass(sample);
    arithmetic_.dirty_bytes_per_second = sample.dirty_bytes_per_second;
    bool const slower = sample.cpu_throttle_percent > arithmetic_.cpu_throttle_percent;
    arithmetic_.cpu_throttle_percent = sample.cpu_throttle_percent;
    // Each throttle step is judged by its own passes
    if (throttled_ && slower) begin_stagnation(sample);
    if (over_) return RamVerdict::give_up;

    bool const too_much = arithmetic_.predicted_pause > limits.pause;
    bool const exhausted = !limits.may_throttle ||
                           (throttled_ && sample.cpu_throttle_percent >= cpu_throttle_percent_max);
    over_ = late(sample, limits) || (too_much && exhausted && stagnant(sample, give_up_after));
    bool const stands = too_much && stagnant(sample, throttle_after);
    arithmetic_.converging = !over_ && !stands;
    if (over_) return RamVerdict::give_up;
    if (stands && limits.may_throttle && !throttled_) {
        throttled_ = true;
        begin_stagnation(sample);
    }
    return throttled_ ? RamVerdict::throttle : RamVerdict::converging;
}

void RamConvergence::note_rate(RamSample const& sample) {
    if (sample.passes < 2 && sample.transferred_bytes > transferred_bytes_) {
        first_pass_progress_at_ = sample.at;
    }
    transferred_bytes_ = sample.transferred_bytes;
    auto const span = sample.at - measured_.at;
    bool const pass_over = sample.passes > measured_.passes;
    // The rate of a long pass is known before it ends; that of a short pass only
    // together with others.
    if (span < rate_span_min || (!pass_over && span < rate_span_max)) return;
    auto const sent = sample.transferred_bytes - measured_.transferred_bytes;
    arithmetic_.transfer_bytes_per_second = sent * 1000 / static_cast<std::uint64_t>(span.count());
    measured_ = sample;
}

void RamConvergence::note_pass(RamSample const& sample) {
    auto const before = arithmetic_.dirty_bytes;
    arithmetic_.passes = sample.passes;
    if (sample.passes < 2) return;  // in the first pass all pages are dirty
    arithmetic_.dirty_bytes = sample.remaining_bytes;
    auto const rate = std::max<std::uint64_t>(1, arithmetic_.transfer_bytes_per_second);
    arithmetic_.predicted_pause =
        milliseconds(static_cast<std::int64_t>(sample.remaining_bytes * 1000 / rate));
    // The first pass took long, and so left much dirty: there is no earlier pass to compare with.
    bool const comparable = before > 0;
    bool const shrank = !comparable || sample.remaining_bytes <= before / 100 * shrink_percent;
    if (shrank) {
        begin_stagnation(sample);
    } else {
        ++stagnant_passes_;
    }
}

bool RamConvergence::late(RamSample const& sample, RamConvergenceLimits const& limits) const {
    // A long first pass does not show whether RAM converges: half of the limit remains after it.
    return sample.at >= std::max(limits.converge, first_pass_progress_at_ + limits.converge / 2);
}

bool RamConvergence::stagnant(RamSample const& sample, milliseconds least) const {
    return stagnant_passes_ >= stagnant_passes_max && sample.at - stagnant_since_ >= least;
}

void RamConvergence::begin_stagnation(RamSample const& sample) {
    stagnant_passes_ = 0;
    stagnant_since_ = sample.at;
}

int RamConvergence::wanted_throttle_percent() const {
    auto const dirty = std::max<std::uint64_t>(1, arithmetic_.dirty_bytes_per_second);
    auto const kept = static_cast<int>(
        std::min<std::uint64_t>(100, arithmetic_.transfer_bytes_per_second * 50 / dirty));
    return std::clamp(100 - kept, cpu_throttle_percent_min, cpu_throttle_percent_max);
}

}  // namespace sidecar::machine
