#include "sidecar/migration/guest_pause.hpp"

#include <algorithm>

#include "sidecar/migration/qemu_state.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

Result<> GuestPause::start_watchdog() {
    auto const& guest = context_.guest;
    TRY(watchdog_, Watchdog::start(guest.paths, guest.name, guest.client->socket_path()));
    return {};
}

bool GuestPause::note_stop(core::Clock::time_point at) {
    if (std::exchange(stopped_, true)) return false;
    context_.timeline.note_stop(at);
    realtime_.emplace();
    context_.peer.set_patience(limits::heartbeat_silence_paused(context_.downtime_limit()));
    return true;
}

void GuestPause::note_left_stopped() {
    stopped_ = false;
    realtime_.reset();
    context_.peer.set_patience(limits::heartbeat_silence);
    release_watchdog();
}

void GuestPause::note_running(core::Clock::time_point at) {
    note_left_stopped();
    context_.timeline.note_running(at);
}

Task<void> GuestPause::limit(core::Clock::time_point stopped_at, std::stop_token stop) {
    for (;;) {
        auto const left = stopped_at + context_.downtime_limit() - core::Clock::now();
        if (watchdog_ && is_limited()) {
            watchdog_->stopped(
                std::max(core::milliseconds(0),
                         std::chrono::ceil<core::milliseconds>(left) + limits::watchdog_margin));
        }
        limit_changed_.reset();
        auto const changed = co_await limit_changed_.wait(Deadline::after(left, stop));
        if (stop.stop_requested()) co_return;
        if (!changed) break;
        context_.peer.set_patience(limits::heartbeat_silence_paused(context_.downtime_limit()));
    }
    realtime_.reset();
    if (context_.timeline.stop_at() != stopped_at || !is_limited()) co_return;
    callbacks_.limit_exceeded(core::fail(Errc::timed_out,
                                         "the guest {} {} ms, which is --downtime-limit",
                                         context_.description.state == GuestState::running
                                             ? "was stopped for"
                                             : "does not run, and its last step took",
                                         context_.options.downtime_limit_ms)
                                  .error());
}

Task<void> GuestPause::ask_why_stopped(std::stop_token stop) {
    using machine::source::Qemu;
    auto const qemu =
        co_await qemu_state(*context_.guest.client, Deadline::after(limits::qmp_timeout, stop));
    if (!qemu || (*qemu != Qemu::stopped && *qemu != Qemu::stopped_migrating)) co_return;
    stopped_ = false;  // not by the migration: its limit does not apply
    release_watchdog();
    callbacks_.stopped_by_others(
        core::fail(Errc::refused,
                   "the guest was stopped from outside during the migration, and stays stopped on "
                   "the source: continue it, and migrate again")
            .error());
}

void GuestPause::renew_watchdog() {
    if (stopped_ && watchdog_)
        watchdog_->stopped(context_.downtime_limit() + limits::watchdog_margin);
}

void GuestPause::release_watchdog() {
    if (watchdog_) watchdog_->released();
}

Task<void> GuestPause::end() {
    if (watchdog_) co_await watchdog_->end(context_.guest.loop);
}

/// False if the guest runs again, if it was stopped from outside, or once COMMIT is about to be
/// recorded. In all three cases the watchdog was released too.
bool GuestPause::is_limited() const { return stopped_ && callbacks_.may_cancel(); }

}  // namespace sidecar
