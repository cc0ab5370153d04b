#include "sidecar/daemon/outgoing_migration.hpp"

#include <unistd.h>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/migration_record.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

Task<Result<protocol::Document>> OutgoingMigration::migrate(MigrateOptions options,
                                                            std::weak_ptr<Connection> command) {
    set_busy(true);  // from here on other commands are refused
    auto const ready = co_await end_incoming();
    if (!ready) {
        set_busy(false);
        co_return std::unexpected(ready.error());
    }
    bool const check_only = options.check_only;
    auto const migration = std::make_shared<SourceMigration>(
        *context_.guest, *context_.journal, std::move(options), new_migration_id());
    if (check_only) {
        auto checked = co_await migration->check_only();
        set_busy(false);
        if (!checked) co_return std::unexpected(std::move(checked.error()));
        co_return protocol::Document{std::move(*checked)};
    }
    migration_ = migration;
    tasks_.spawn(run(*migration, progress_to(std::move(command)), false));
    CO_TRY_VOID(co_await migration->decided().wait(Deadline::never(context_.stop.get_token())));
    co_return protocol::Document{migration->report()};
}

void OutgoingMigration::set_busy(bool busy) {
    busy_ = busy;
    if (busy) {
        not_busy_.reset();
    } else {
        not_busy_.set();
    }
}

Task<Result<>> OutgoingMigration::wait_not_busy() {
    auto const deadline = Deadline::after(limits::rollback_patience, context_.stop.get_token());
    while (busy_) {
        if (!migration_ || !migration_->is_ending()) {
            co_return fail(Errc::refused, "another migration of {} is under way", context_.name);
        }
        auto const waited = co_await not_busy_.wait(deadline);
        if (!waited && waited.error().code == Errc::timed_out) {
            co_return fail(Errc::refused, "an earlier migration of {} is still being undone",
                           context_.name);
        }
        CO_TRY_VOID(waited);
    }
    co_return Result<>{};
}

/// An earlier incoming migration's announcements and late answers end now.
Task<Result<>> OutgoingMigration::end_incoming() {
    if (!context_.guest->client->open()) {
        CO_TRY_VOID(co_await context_.guest->reconnect(Deadline::after(limits::qmp_timeout)));
    }
    co_await incoming_.end_migration();
    co_return Result<>{};
}

Task<Result<protocol::Document>> OutgoingMigration::follow(std::weak_ptr<Connection> command) {
    if (!under_way()) {
        co_return fail(Errc::refused,
                       "no migration of {} was left unfinished: leave --resume out to begin one",
                       context_.name);
    }
    auto const followed = migration_;
    followed->follow(progress_to(std::move(command)));
    CO_TRY_VOID(co_await followed->decided().wait(Deadline::never(context_.stop.get_token())));
    co_return protocol::Document{followed->report()};
}

Result<> OutgoingMigration::recover() {
    auto const& last = context_.journal->last();
    TRY(auto const record, MigrationRecord::read(context_.paths, context_.name));
    TRY(auto settings, MigrateOptions::from_json(record["options"]));
    core::log::warning("guest={} migration_id={} continues with a migration that was left in `{}`",
                       context_.name, last.migration_id, last.record_name());
    migration_ = std::make_shared<SourceMigration>(*context_.guest, *context_.journal,
                                                   std::move(settings), last.migration_id);
    tasks_.spawn(run(*migration_, nullptr, true));
    return {};
}

Task<void> OutgoingMigration::run(SourceMigration& migration, SourceMigration::ProgressSink sink,
                                  bool recovered) {
    set_busy(true);
    context_.ownership.hold();
    last_report_ = recovered ? co_await migration.recover(sink) : co_await migration.run(sink);
    set_busy(false);
    context_.ownership.release();
    core::log::info("guest={} outcome={} {}", context_.name, last_report_["outcome"].text_or(""),
                    last_report_["error"].text_or(""));
    if (migration.outcome() != machine::Outcome::moved) {
        if (!context_.guest->client) context_.leave("QEMU had ended before");
        co_return;
    }
    moved_away_ = true;
    // Removed before the answer: its reader may ask this host for a new sidecar of the same
    // guest at once.
    ::unlink(context_.paths.control_socket(context_.name).c_str());
    context_.leave("the guest has moved");
}

SourceMigration::ProgressSink OutgoingMigration::progress_to(std::weak_ptr<Connection> command) {
    return [this, command = std::move(command)](Json line) {
        if (progress_in_flight_ > 0)
            return;  // a slow reader misses lines, but never delays the migration
        ++progress_in_flight_;
        tasks_.spawn(send_progress(command, std::move(line)));
    };
}

Task<void> OutgoingMigration::send_progress(std::weak_ptr<Connection> to, Json line) {
    if (auto const connection = to.lock()) {
        (void)co_await connection->notify(
            protocol::Progress{std::move(line)},
            Deadline::after(limits::qmp_timeout, context_.stop.get_token()));
    }
    --progress_in_flight_;
}

Result<> OutgoingMigration::check_under_way() const {
    if (under_way()) return {};
    return fail(Errc::refused, "no migration of {} is under way", context_.name);
}

Result<protocol::SetAnswer> OutgoingMigration::set(MigrationChanges const& changes) {
    TRY_VOID(check_under_way());
    return migration_->set(changes);
}

Result<> OutgoingMigration::cancel() {
    TRY_VOID(check_under_way());
    return migration_->cancel();
}

Task<Result<>> OutgoingMigration::resolve(protocol::Owner owner) {
    auto const none = fail(Errc::refused, "no migration of {} is in doubt", context_.name);
    if (!under_way()) co_return none;
    auto const id = context_.journal->last().migration_id;
    if (owner == protocol::Owner::destination) {
        co_return migration_->resolve(machine::Side::destination);
    }
    CO_TRY_VOID(co_await context_.ownership.check_kept(id));
    if (!under_way()) co_return none;  // it ended meanwhile
    CO_TRY_VOID(migration_->resolve(machine::Side::source));
    context_.ownership.kept(id);
    co_return Result<>{};
}

Task<void> OutgoingMigration::wait_decided(Deadline deadline) {
    auto const migration = migration_;  // another may follow
    if (migration) (void)co_await migration->decided().wait(std::move(deadline));
}

Task<void> OutgoingMigration::end() {
    co_await tasks_.join();
    migration_.reset();
}

void OutgoingMigration::add_status(Json& now) const {
    if (under_way()) now.set("migration", migration_->status());
    if (!last_report_.is_null()) now.set("last_report", last_report_);
}

}  // namespace sidecar
