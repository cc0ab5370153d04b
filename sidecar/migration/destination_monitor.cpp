// The destination driver's connection to its QEMU: events, and a monitor that is lost and
// reconnected. It reports to the machine, which decides.
#include "core/log.hpp"
#include "qmp/migration.hpp"
#include "sidecar/migration/destination_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Task;
using machine::destination::Event;

Task<void> DestinationMigration::watch_qemu() {
    auto const generation = generation_;
    auto& client = *guest_->client;
    auto const token = watchers_stop_.get_token();
    auto const subscribe = [&client] { return client.subscribe({"RESUME", "MIGRATION"}); };
    client.expect_reconnect(true);
    auto events = subscribe();
    for (;;) {
        auto const event = co_await events.next(Deadline::never(token));
        if (event) {
            if (event->name == "RESUME") resumed_at_ = event->received;
            if (event->name == "MIGRATION") hear_migration(event->data["status"].text_or(""));
            continue;
        }
        qmp_over_.set();
        if (event.error().code == Errc::cancelled || !co_await reconnect_qemu(generation)) break;
        events = subscribe();
        auto const missed =
            co_await qmp::query_migrate(client, Deadline::after(limits::qmp_timeout, token));
        if (missed) hear_migration(missed->status);
        if (!missed) client.cut(missed.error().what);
    }
    if (generation == generation_ && guest_ && guest_->client)
        guest_->client->expect_reconnect(false);
}

void DestinationMigration::hear_migration(std::string const& status) {
    core::log::debug("guest={} migration_id={} incoming qemu migration={}", name_, migration_id_,
                     status);
    if (!status.empty() && status != "none" && status != "setup") ram_begun_ = true;
    if (status == "completed") post(machine::destination::event(Event::Kind::qemu_loaded));
}

/// Reconnects until it succeeds. Returns false if this QEMU or the migration has ended. After
/// qmp_silence_max it reports to the machine, and continues.
Task<bool> DestinationMigration::reconnect_qemu(unsigned generation) {
    auto const lost_at = core::Clock::now();
    auto const token = watchers_stop_.get_token();
    bool told = false;
    for (auto pause = limits::retry_pause_min;;
         pause = std::min(pause * 2, limits::retry_pause_max)) {
        if (generation != generation_ || !guest_ || !guest_->process.running()) co_return false;
        auto const connected =
            co_await guest_->client->reconnect(Deadline::after(limits::qmp_timeout, token));
        if (connected) {
            core::log::warning("guest={} migration_id={} QEMU's monitor was lost, and is back",
                               name_, migration_id_);
            qmp_over_.reset();
            co_return true;
        }
        if (!told && core::Clock::now() - lost_at > limits::qmp_silence_max) {
            told = true;
            if (!failure_) failure_ = connected.error();
            post(machine::destination::event(Event::Kind::qemu_silent_too_long));
        }
        if (!co_await core::sleep_for(loop_, pause, token)) co_return false;
    }
}

}  // namespace sidecar
