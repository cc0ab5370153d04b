// MigrationTimeline: the events of a migration and their times: its phases, the stop of the guest,
// the parts of the downtime, the steps of convergence. The source's driver and its parts note them,
// MigrationReport reports them. All times are of the loop's clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "core/json.hpp"
#include "sidecar/machine/source.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

/// Milliseconds with their fraction.
inline double ms_between(core::Clock::time_point from, core::Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

/// For the report: milliseconds with three digits of their fraction.
double rounded(double ms);

class MigrationTimeline {
public:
    using TimePoint = core::Clock::time_point;
    struct PhaseTime {
        std::string name;
        TimePoint start;
        TimePoint end;  ///< For the last phase: its start.
    };

    /// A phase begins, and the previous one ends.
    void note_phase(machine::source::Phase phase, TimePoint at);
    /// The migration stopped the guest.
    void note_stop(TimePoint at) { stop_at_ = at; }
    /// The guest runs again on the source. The first time this is the end of its downtime.
    void note_running(TimePoint at);
    /// The destination answered COMMIT at `at`; `resume_to_answer_ms` after the guest's RESUME
    /// there, by its own clock. This is the end of the downtime. No effect before note_stop().
    void note_commit_answer(TimePoint at, double resume_to_answer_ms, double rtt_ms);
    /// QEMU's MIGRATION event: `status` is a part of the downtime, if the guest is stopped.
    void note_qemu_status(std::string const& status, TimePoint at);
    void note_ram_completed(TimePoint at) { ram_completed_at_ = at; }
    /// Notes the current time as a part of the downtime by that name; no effect before note_stop().
    void mark(std::string const& name);
    /// The measurements of the last delta of the disks.
    void note_final_copy(storage::MirrorReport const& disks);
    /// One verdict on the convergence of the disks; only the first limits::plan_steps_max are kept.
    void note_step(storage::ConvergenceReport const& now, std::optional<std::uint64_t> throttle);

    [[nodiscard]] TimePoint started() const { return started_; }
    [[nodiscard]] std::vector<PhaseTime> const& phases() const { return phases_; }
    /// When the last phase began. There always is one.
    [[nodiscard]] TimePoint phase_began() const { return phases_.back().start; }
    /// When the migration last stopped the guest; none: it never did.
    [[nodiscard]] std::optional<TimePoint> stop_at() const { return stop_at_; }
    [[nodiscard]] std::optional<TimePoint> ram_completed_at() const { return ram_completed_at_; }
    /// None: not known yet.
    [[nodiscard]] std::optional<double> downtime_ms() const { return downtime_ms_; }
    /// Parts of the downtime, {name: milliseconds after STOP}.
    [[nodiscard]] core::Json const& downtime_parts() const { return downtime_parts_; }
    /// [{at_ms, delta_bytes, ...}], see note_step().
    [[nodiscard]] core::Json const& steps() const { return steps_; }

private:
    TimePoint started_ = core::Clock::now();
    std::vector<PhaseTime> phases_;
    std::optional<TimePoint> stop_at_;
    std::optional<TimePoint> ram_completed_at_;
    std::optional<double> downtime_ms_;
    core::Json steps_ = core::Json::array();
    core::Json downtime_parts_ = core::Json::object();
};

}  // namespace sidecar
