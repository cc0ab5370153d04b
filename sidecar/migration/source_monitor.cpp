// What the source's driver reports to the machine about QEMU's monitor, and the limit of
// the guest's pause.
#include "core/log.hpp"
#include "sidecar/migration/qemu_state.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Task;
using machine::source::Event;
using machine::source::Phase;
using machine::source::Qemu;

/// QEMU's monitor, lost at `lost_at`, is connected again.
void SourceMigration::note_monitor_back(Qemu qemu, core::Clock::time_point lost_at) {
    bool const stopped =
        qemu == Qemu::stopping || qemu == Qemu::paused_pre_switchover || qemu == Qemu::postmigrate;
    if (stopped && ram_.started_at()) note_stop(lost_at);  // it has not run since then
    if (qemu == Qemu::running || qemu == Qemu::migrating) note_running(core::Clock::now());
    post(machine::source::qmp_back(qemu));
}

void SourceMigration::note_monitor_silent() {
    note_failure(monitor_.silent_error());
    post(machine::source::event(Event::Kind::qmp_silent_too_long));
}

/// The caller of `migrate` does not wait for a QEMU that may never answer.
void SourceMigration::tell_of_a_long_rollback() {
    if (state_.phase != Phase::rolling_back || decided_.is_set()) return;
    using machine::source::Resource;
    bool const guest_waits = state_.resources.contains(Resource::ram);
    bool const silent =
        state_.qmp_silent && guest_waits && !state_.resources.contains(Resource::destination);
    bool const long_since =
        core::Clock::now() - timeline_.phase_began() > limits::rollback_patience;
    // The sidecar is alive and keeps trying: its watchdog does not need to kill it.
    if (guest_stopped_ && watchdog_) {
        watchdog_->stopped(context_.downtime_limit() + limits::watchdog_margin);
    }
    if (!silent && !long_since) return;
    if (silent) failure_ = monitor_.silent_error();
    core::log::error("guest={} migration_id={} the rollback waits: {}", guest_.name, migration_id_,
                     failure_ ? failure_->sentence() : "");
    decided_.set();
}

void SourceMigration::note_stop(core::Clock::time_point at) {
    if (std::exchange(guest_stopped_, true)) return;
    timeline_.note_stop(at);
    realtime_.emplace();
    keep_converged_stop_.request_stop();
    peer_.set_patience(limits::heartbeat_silence_paused(context_.downtime_limit()));
    watchers_.spawn(limit_pause(at));
}

void SourceMigration::note_running(core::Clock::time_point at) {
    guest_stopped_ = false;
    realtime_.reset();
    peer_.set_patience(limits::heartbeat_silence);
    if (watchdog_) watchdog_->released();
    timeline_.note_running(at);
}

void SourceMigration::hear(qmp::Event const& event) {
    if (event.name == "STOP" && ram_.started_at()) {
        note_stop(event.received);
        watchers_.spawn(ask_why_stopped());
        post(machine::source::event(Event::Kind::stop_seen));
    } else if (event.name == "STOP") {
        post(machine::source::event(Event::Kind::guest_stopped_by_others));
    } else if (event.name == "RESUME") {
        note_running(event.received);
        post(machine::source::event(Event::Kind::guest_resumed));
    } else if (event.name == "JOB_STATUS_CHANGE") {
        auto const status = event.data["status"].text_or("");
        if (status != "concluded" && status != "null")
            disks_.note_block_job(event.data["id"].text_or("?"));
    } else if (event.name == "MIGRATION") {
        auto const status = event.data["status"].text_or("");
        core::log::debug("guest={} qemu migration={}", guest_.name, status);
        timeline_.note_qemu_status(status, event.received);
        if (status == "pre-switchover")
            post(machine::source::event(Event::Kind::pre_switchover_seen));
        if (status == "completed") {
            timeline_.note_ram_completed(event.received);
            post(machine::source::event(Event::Kind::migration_completed));
        }
        if (status == "failed" || status == "cancelled") {
            if (status == "failed" && state_.phase != Phase::rolling_back) {
                note_failure(core::fail(Errc::qemu_refused, "QEMU's migration failed").error());
            }
            post(machine::source::event(Event::Kind::migration_failed));
        }
    }
}

/// Ends the pause at its limit, which `set` may change meanwhile.
Task<void> SourceMigration::limit_pause(core::Clock::time_point stopped_at) {
    auto const token = watchers_stop_.get_token();
    for (;;) {
        auto const left = stopped_at + context_.downtime_limit() - core::Clock::now();
        if (watchdog_ && pause_is_limited()) {
            watchdog_->stopped(
                std::max(core::milliseconds(0),
                         std::chrono::ceil<core::milliseconds>(left) + limits::watchdog_margin));
        }
        downtime_limit_changed_.reset();
        auto const changed = co_await downtime_limit_changed_.wait(Deadline::after(left, token));
        if (token.stop_requested()) co_return;
        if (!changed) break;
        peer_.set_patience(limits::heartbeat_silence_paused(context_.downtime_limit()));
    }
    realtime_.reset();
    if (timeline_.stop_at() != stopped_at || !pause_is_limited()) co_return;
    note_failure(core::fail(Errc::timed_out,
                            "the guest was stopped for {} ms, which is --downtime-limit",
                            options_.downtime_limit_ms)
                     .error());
    post(machine::source::event(Event::Kind::downtime_limit_exceeded));
}

/// False if the guest runs again, if it was stopped from outside, or once COMMIT is about to be
/// recorded. In all three cases the watchdog was released too.
bool SourceMigration::pause_is_limited() const {
    return guest_stopped_ && machine::source::may_cancel(state_);
}

/// STOP comes from the migration or from outside (an operator, an I/O error). In the second case
/// the guest must not run at the destination either.
Task<void> SourceMigration::ask_why_stopped() {
    auto const qemu = co_await qemu_state(
        *guest_.client, Deadline::after(limits::qmp_timeout, watchers_stop_.get_token()));
    if (!qemu || *qemu != Qemu::stopped) co_return;
    guest_stopped_ = false;  // not stopped by us: our limit does not apply
    if (watchdog_) watchdog_->released();
    note_failure(core::fail(Errc::refused,
                            "another stopped the guest while it migrated, and it stays stopped on "
                            "the source: continue it, and migrate again")
                     .error());
    post(machine::source::event(Event::Kind::guest_stopped_by_others));
}

}  // namespace sidecar
