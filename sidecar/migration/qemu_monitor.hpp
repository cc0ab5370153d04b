// QemuMonitor: the source's connection to QEMU's monitor during a migration: QEMU's events, a lost
// connection and its reconnect, a QEMU that does not answer. Used by SourceMigration, which reports
// all of it to its machine.
//
// Invariant: from `lost` to `back` no event of QEMU is reported.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/sync.hpp"
#include "qmp/client.hpp"
#include "sidecar/machine/source.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class QemuMonitor {
public:
    /// What watch() reports. None of them may suspend or destroy the monitor.
    struct Callbacks {
        /// STOP, RESUME, MIGRATION or JOB_STATUS_CHANGE.
        std::function<void(qmp::Event const& event)> event;
        std::function<void()> lost;
        /// Connected again. `qemu`: what QEMU does now; `lost_at`: since when events were missed.
        std::function<void(machine::source::Qemu qemu, core::Clock::time_point lost_at)> back;
        /// QEMU was silent for limits::qmp_silence_max. At most once between `lost` and `back`.
        std::function<void()> silent;
    };

    QemuMonitor(SourceContext context, Callbacks callbacks)
        : context_(context), callbacks_(std::move(callbacks)), tasks_(context.guest.loop) {}

    /// After a restart of the sidecar, before watch(): what QEMU is doing. `gone` only if its
    /// process has ended. If QEMU does not answer for too long, it may have completed: the result
    /// is then `postmigrate`, for which the machine undoes the most.
    core::Task<machine::source::Qemu> look_after_restart();
    /// Watches until `stop` is triggered. Returns at once if there is no connection, because a
    /// restarted sidecar found that QEMU has ended.
    core::Task<void> watch(std::stop_token stop);
    /// The error for the operator if QEMU does not answer: timed_out.
    [[nodiscard]] core::Error silent_error() const;

private:
    core::Task<void> watch_events(std::stop_token stop);
    core::Task<bool> reconnect(std::stop_token stop);
    core::Task<bool> report_missed(std::stop_token stop);
    core::Task<void> watch_answers(std::stop_token stop);
    core::Task<void> limit_silence(unsigned loss, std::stop_token stop);

    SourceContext context_;
    Callbacks callbacks_;
    core::TaskGroup tasks_;  ///< Joined by watch().
    std::optional<core::Clock::time_point> lost_at_;  ///< Until the monitor is back.
    unsigned losses_ = 0;
};

}  // namespace sidecar
