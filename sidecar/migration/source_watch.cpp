// What the source's driver watches while a migration is under way (QEMU's process, the peer,
// time). QEMU's monitor is watched in source_monitor.cpp.
#include "core/log.hpp"
#include "qmp/launch.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Errc;
using core::Task;
using machine::source::Event;
using machine::source::Phase;

namespace {

// The interval at which progress is reported and slow conditions are checked.
constexpr std::chrono::milliseconds tick_interval{200};

}  // namespace

Task<void> SourceMigration::watch_process() {
    if (qemu_gone_) co_return;
    auto const ended = co_await core::wait_exit(loop_, guest_.process,
                                                core::Deadline::never(watchers_stop_.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    qemu_gone_ = true;
    if (guest_.client) guest_.client->expect_reconnect(false);
    if (state_.phase != Phase::settling) {
        auto const log = guest_.paths.run(guest_.name) + "/qemu.log";
        note_failure(core::fail(Errc::closed, "on the source {}",
                                qmp::how_qemu_ended(ended.value_or(0), log))
                         .error());
    }
    post(machine::source::event(Event::Kind::qemu_gone));
}

void SourceMigration::ram_not_converging() {
    note_failure(report_.ram_not_converging());
    post(machine::source::event(Event::Kind::ram_not_converging));
}

bool SourceMigration::peer_silent() const {
    return peer_lost_at_ &&
           core::Clock::now() - *peer_lost_at_ > std::chrono::seconds(options_.link_timeout_s);
}

/// The copied data is kept, and the guest's bitmaps record its writes; the caller of `migrate`
/// gets this error.
void SourceMigration::note_suspension() {
    failure_ = report_.suspended();
    core::log::warning("guest={} migration_id={} {}", guest_.name, migration_id_,
                       failure_->sentence());
    ++suspensions_;
    watchers_.spawn(limit_suspension());
    decided_.set();
}

Task<void> SourceMigration::limit_suspension() {
    auto const which = suspensions_;
    if (!co_await core::sleep_for(loop_, limits::suspended_patience, watchers_stop_.get_token()))
        co_return;
    if (which == suspensions_) post(machine::source::event(Event::Kind::suspended_too_long));
}

void SourceMigration::write_copy_record() {
    if (state_.phase == Phase::copying) disks_.write_copy_record();
}

void SourceMigration::peer_changed(bool up) {
    peer_lost_at_ = up ? std::nullopt : std::optional(core::Clock::now());
    silence_told_ = false;
    post(machine::source::event(up ? Event::Kind::peer_back : Event::Kind::peer_lost));
}

Task<void> SourceMigration::tick() {
    while (co_await core::sleep_for(loop_, tick_interval, watchers_stop_.get_token())) {
        if (peer_silent() && !std::exchange(silence_told_, true)) {
            // A suspended copy is reported by enter().
            if (state_.phase != Phase::copying) {
                note_failure(core::fail(Errc::timed_out, "the destination was unreachable for {} s",
                                        options_.link_timeout_s)
                                 .error());
            }
            post(machine::source::event(Event::Kind::peer_silent_too_long));
        }
        tell_of_a_long_rollback();
        if (in_doubt_since_ && machine::source::commit_may_count(state_) &&
            core::Clock::now() - *in_doubt_since_ > limits::doubt_patience && !decided_.is_set()) {
            core::log::error(
                "guest={} migration_id={} in doubt: COMMIT is neither answered nor void; the guest "
                "stays paused",
                guest_.name, migration_id_);
            decided_.set();
        }
        report_.update_fraction();
        write_copy_record();
        if (sink_) sink_(report_.progress(peer_lost_at_.has_value()));
    }
}

}  // namespace sidecar
