// What the source's driver reports to the machine about QEMU's monitor.
#include "core/log.hpp"
#include "qmp/migration.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Errc;
using machine::source::Event;
using machine::source::Phase;
using machine::source::Qemu;

/// QEMU's monitor, lost at `lost_at`, is connected again.
void SourceMigration::note_monitor_back(Qemu qemu, core::Clock::time_point lost_at) {
    bool const stopped =
        qemu == Qemu::stopping || qemu == Qemu::paused_pre_switchover || qemu == Qemu::postmigrate;
    if (stopped && ram_.started_at()) note_stop(lost_at);  // it has not run since then
    if (qemu == Qemu::running || qemu == Qemu::migrating) pause_.note_running(core::Clock::now());
    post(machine::source::qmp_back(qemu));
}

void SourceMigration::note_monitor_silent() {
    note_failure(monitor_.silent_error());
    post(machine::source::event(Event::Kind::qmp_silent_too_long));
}

/// Why the migration failed, if no action failed: what others did to the guest or to QEMU.
core::Error SourceMigration::reason_of(Event const& event) const {
    using Kind = Event::Kind;
    auto const* const guest = state_.guest_ran || event.kind == Kind::guest_resumed
                                  ? "the guest was continued by someone else"
                              : event.kind == Kind::guest_stopped_by_others
                                  ? "the guest was stopped by someone else"
                              : event.kind == Kind::qmp_back
                                  ? "QEMU's monitor was lost, and the migration has ended meanwhile"
                                  : nullptr;
    if (guest == nullptr) return core::fail(Errc::qemu_refused, "{}", describe(event)).error();
    return core::fail(Errc::qemu_refused, "{}, while its RAM was sent: migrate again", guest)
        .error();
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
    pause_.renew_watchdog();
    if (!silent && !long_since) return;
    if (silent) failure_ = monitor_.silent_error();
    core::log::error("guest={} migration_id={} the rollback waits: {}", guest_.name, migration_id_,
                     failure_ ? failure_->sentence() : "");
    decided_.set();
}

void SourceMigration::note_stop(core::Clock::time_point at) {
    if (!pause_.note_stop(at)) return;
    keep_converged_stop_.request_stop();
    watchers_.spawn(pause_.limit(at, watchers_stop_.get_token()));
}

/// In QEMU's own words.
core::Task<void> SourceMigration::ask_why_ram_failed() {
    auto const info = co_await qmp::query_migrate(
        *guest_.client, core::Deadline::after(limits::qmp_timeout, watchers_stop_.get_token()));
    if (info) add_to_failure("QEMU on the source says: ", info->error);
}

void SourceMigration::hear(qmp::Event const& event) {
    if (event.name == "STOP" && ram_.started_at()) {
        note_stop(event.received);
        watchers_.spawn(pause_.ask_why_stopped(watchers_stop_.get_token()));
        post(machine::source::event(Event::Kind::stop_seen));
    } else if (event.name == "STOP") {
        post(machine::source::event(Event::Kind::guest_stopped_by_others));
    } else if (event.name == "RESUME") {
        pause_.note_running(event.received);
        if (state_.phase == Phase::converging && description_.state != GuestState::running) {
            note_failure(core::fail(Errc::refused,
                                    "the guest was continued during the migration: migrate again")
                             .error());
        }
        post(machine::source::event(Event::Kind::guest_resumed));
    } else if (event.name == "JOB_STATUS_CHANGE") {
        auto const status = event.data["status"].text_or("");
        if (status != "concluded" && status != "null")
            disks_.note_block_job(event.data["id"].text_or("?"));
    } else if (event.name == "MIGRATION") {
        auto const status = event.data["status"].text_or("");
        core::log::debug("guest={} qemu migration={}", guest_.name, status);
        timeline_.note_qemu_status(status, event.received);
        if (status == "pre-switchover") {
            // A guest that did not run stops without a STOP.
            if (description_.state != GuestState::running) note_stop(event.received);
            post(machine::source::event(Event::Kind::pre_switchover_seen));
        }
        if (status == "completed") {
            timeline_.note_ram_completed(event.received);
            post(machine::source::event(Event::Kind::migration_completed));
        }
        if (status == "failed" || status == "cancelled") {
            if (status == "failed" && state_.phase != Phase::rolling_back) {
                note_failure(core::fail(Errc::qemu_refused, "QEMU's migration failed").error());
                watchers_.spawn(ask_why_ram_failed());
            }
            if (description_.state != GuestState::running) pause_.note_left_stopped();
            post(machine::source::event(Event::Kind::migration_failed));
        }
    }
}

}  // namespace sidecar
