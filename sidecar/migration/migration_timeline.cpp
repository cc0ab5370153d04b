#include "sidecar/migration/migration_timeline.hpp"

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Json;

double rounded(double ms) {
    return static_cast<double>(static_cast<std::int64_t>(ms * 1000 + 0.5)) / 1000;
}

void MigrationTimeline::note_phase(machine::source::Phase phase, TimePoint at) {
    if (!phases_.empty()) phases_.back().end = at;
    phases_.push_back({std::string(machine::source::name(phase)), at, at});
}

void MigrationTimeline::note_running(TimePoint at) {
    if (stop_at_ && !downtime_ms_) downtime_ms_ = ms_between(*stop_at_, at);
}

void MigrationTimeline::note_commit_answer(TimePoint at, double resume_to_answer_ms,
                                           double rtt_ms) {
    if (!stop_at_) return;
    // Each term is measured on a single clock; half a round trip is the time that the answer
    // took to arrive.
    downtime_ms_ = ms_between(*stop_at_, at) - resume_to_answer_ms - rtt_ms / 2;
}

void MigrationTimeline::note_qemu_status(std::string const& status, TimePoint at) {
    if (stop_at_) downtime_parts_.set(status + "_ms", rounded(ms_between(*stop_at_, at)));
}

void MigrationTimeline::mark(std::string const& name) {
    if (stop_at_) downtime_parts_.set(name, ms_between(*stop_at_, core::Clock::now()));
}

void MigrationTimeline::note_final_copy(storage::MirrorReport const& disks) {
    downtime_parts_.set("final_status_ms", static_cast<std::int64_t>(disks.final_status.count()));
    downtime_parts_.set("final_copy_ms", static_cast<std::int64_t>(disks.final_copy.count()));
    downtime_parts_.set("final_flush_ms", static_cast<std::int64_t>(disks.final_flush.count()));
}

void MigrationTimeline::note_step(storage::ConvergenceReport const& now,
                                  std::optional<std::uint64_t> throttle) {
    if (steps_.size() >= limits::plan_steps_max) return;
    steps_.add(Json::object({{"at_ms", rounded(ms_between(started_, core::Clock::now()))},
                             {"delta_bytes", now.delta_bytes},
                             {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                             {"copy_bytes_per_second", now.rate_bytes_per_second},
                             {"predicted_downtime_ms", std::int64_t{now.predicted.count()}},
                             {"converged", now.converged},
                             {"throttle_bytes_per_second", throttle ? Json(*throttle) : Json()}}));
}

}  // namespace sidecar
