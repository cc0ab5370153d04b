#include "sidecar/migration/qemu_monitor.hpp"

#include "core/log.hpp"
#include "sidecar/migration/qemu_state.hpp"
#include "sidecar/migration/reconnect_monitor.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Task;
using machine::source::Qemu;

Task<Qemu> QemuMonitor::look_after_restart() {
    auto const begun = core::Clock::now();
    while (context_.guest.client && context_.guest.process.running()) {
        auto const qemu =
            co_await qemu_state(*context_.guest.client, core::Deadline::after(limits::qmp_timeout));
        if (qemu) co_return *qemu;
        core::log::warning("guest={} QEMU's state is unknown: {}", context_.guest.name,
                           qemu.error().sentence());
        if (core::Clock::now() - begun > limits::qmp_silence_max) co_return Qemu::postmigrate;
        (void)co_await core::sleep_for(context_.guest.loop, limits::retry_pause_min);
        (void)co_await context_.guest.reconnect(core::Deadline::after(limits::qmp_timeout));
    }
    co_return Qemu::gone;
}

Task<void> QemuMonitor::watch(std::stop_token stop) {
    if (!context_.guest.client) co_return;
    co_await watch_events(stop);
    co_await tasks_.join();
}

Task<void> QemuMonitor::watch_events(std::stop_token stop) {
    auto const subscribe = [this] {
        return context_.guest.client->subscribe(
            {"STOP", "RESUME", "MIGRATION", "JOB_STATUS_CHANGE"});
    };
    context_.guest.client->expect_reconnect(true);
    tasks_.spawn(watch_answers(stop));
    auto events = subscribe();
    for (;;) {
        auto const event = co_await events.next(Deadline::never(stop));
        if (event) {
            callbacks_.event(*event);
            continue;
        }
        if (event.error().code == Errc::cancelled || context_.qemu_gone) break;
        core::log::warning("guest={} migration_id={} QEMU's monitor is lost: {}",
                           context_.guest.name, context_.migration_id, event.error().what);
        lost_at_ = core::Clock::now();
        ++losses_;
        callbacks_.lost();
        tasks_.spawn(limit_silence(losses_, stop));
        if (!co_await reconnect(stop)) break;
        events = subscribe();
        while (!co_await report_missed(stop)) {
            if (!co_await reconnect(stop)) break;
            events = subscribe();
        }
    }
    context_.guest.client->expect_reconnect(false);
}

/// Reconnects until it succeeds. Returns false if QEMU or the migration has ended.
Task<bool> QemuMonitor::reconnect(std::stop_token stop) {
    return reconnect_monitor(
        context_.guest.loop, *context_.guest.client,
        [this] { return !context_.qemu_gone && context_.guest.process.running(); },
        [this](core::Error const& error) {
            core::log::debug("guest={} {}", context_.guest.name, error.sentence());
        },
        stop);
}

/// Reports what QEMU does now, after a reconnect. Returns false if QEMU does not answer: the
/// connection is then closed.
Task<bool> QemuMonitor::report_missed(std::stop_token stop) {
    auto const qemu =
        co_await qemu_state(*context_.guest.client, Deadline::after(limits::qmp_timeout, stop));
    if (!qemu) {
        context_.guest.client->cut(qemu.error().what);
        co_return stop.stop_requested();
    }
    core::log::info("guest={} migration_id={} QEMU's monitor is back: {}", context_.guest.name,
                    context_.migration_id, machine::source::name(*qemu));
    callbacks_.back(*qemu, *std::exchange(lost_at_, std::nullopt));
    co_return true;
}

/// A QEMU that hangs keeps its connections open and does not answer.
Task<void> QemuMonitor::watch_answers(std::stop_token stop) {
    while (co_await core::sleep_for(context_.guest.loop, limits::qmp_look_interval, stop)) {
        if (lost_at_ || context_.qemu_gone) continue;
        auto const answered =
            co_await qemu_state(*context_.guest.client, Deadline::after(limits::qmp_timeout, stop));
        if (answered || answered.error().code != Errc::timed_out || lost_at_) continue;
        context_.guest.client->cut(
            fmt::format("QEMU did not answer within {} s", limits::qmp_timeout.count()));
    }
}

Task<void> QemuMonitor::limit_silence(unsigned loss, std::stop_token stop) {
    if (!co_await core::sleep_for(context_.guest.loop, limits::qmp_silence_max, stop)) co_return;
    if (!lost_at_ || loss != losses_ || context_.qemu_gone) co_return;
    callbacks_.silent();
}

core::Error QemuMonitor::silent_error() const {
    return core::fail(
               Errc::timed_out,
               "the source's QEMU (process {}) does not answer its monitor {}; the guest may "
               "be paused there, and runs nowhere else. The sidecar resumes it as soon as "
               "QEMU answers. If that process is stopped, continue it (kill -CONT {}); if it "
               "hangs, end it and start the guest again from its disks on the source",
               context_.guest.process.pid(),
               context_.guest.client ? context_.guest.client->socket_path() : "",
               context_.guest.process.pid())
        .error();
}

}  // namespace sidecar
