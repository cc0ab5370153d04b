// OutgoingMigration: the migrations of a session's guest to another host, at most one at a time,
// and the commands that wait for one. Used by Session.
//
// Invariant: while busy() the session's guest is not replaced.
#pragma once

#include <memory>

#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/daemon/incoming_side.hpp"
#include "sidecar/daemon/session_context.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

class OutgoingMigration {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// `incoming`: its migration, by which the guest came, ends before another begins.
    OutgoingMigration(SessionContext context, IncomingSide& incoming)
        : context_(std::move(context)),
          incoming_(incoming),
          not_busy_(context_.loop),
          tasks_(context_.loop) {}

    /// Waits for a migration that is being undone, as after `attach`: it ends by itself. Fails with
    /// refused if there is another one, or if it has not ended within rollback_patience.
    Outcome<> wait_not_busy();
    /// Runs a migration, or its checks only. The guest has a QEMU. Returns the report when
    /// there is one for the command, which gets the progress meanwhile. Fails with refused if
    /// another is under way.
    Outcome<protocol::Document> migrate(MigrateOptions options, std::weak_ptr<Connection> command);
    /// The same for a migration that is under way: one that this sidecar found unfinished and
    /// continues, or one whose command has ended. Fails with refused if there is none.
    Outcome<protocol::Document> follow(std::weak_ptr<Connection> command);
    /// Continues the migration that an earlier sidecar left in the journal. Fails if its settings
    /// cannot be read.
    core::Result<> recover();
    /// Each fails with refused if no migration is under way, or if it is too late.
    core::Result<protocol::SetAnswer> set(MigrationChanges const& changes);
    core::Result<> cancel();
    /// Fails with refused also if the registry says that the destination has taken the guest.
    Outcome<> resolve(protocol::Owner owner);
    /// Returns when a migration under way, if there is one, has an outcome for its command.
    core::Task<void> wait_decided(core::Deadline deadline);
    /// Joins the tasks. Call before destruction, and after the connections of all commands ended.
    core::Task<void> end();

    /// A migration runs, or is about to.
    [[nodiscard]] bool busy() const { return busy_; }
    /// The guest is at the other host.
    [[nodiscard]] bool moved_away() const { return moved_away_; }
    /// For `status`: `migration`, `last_report`.
    void add_status(core::Json& now) const;
    [[nodiscard]] bool under_way() const { return migration_ && migration_->under_way(); }

private:
    [[nodiscard]] core::Result<> check_under_way() const;
    void set_busy(bool busy);
    Outcome<> end_incoming();
    SourceMigration::ProgressSink progress_to(std::weak_ptr<Connection> command);
    core::Task<void> send_progress(std::weak_ptr<Connection> to, core::Json line);
    core::Task<void> run(SourceMigration& migration, SourceMigration::ProgressSink sink,
                         bool recovered);

    SessionContext context_;
    IncomingSide& incoming_;
    std::shared_ptr<SourceMigration> migration_;  ///< Shared with callers that wait for its report.
    core::Json last_report_;
    std::size_t progress_in_flight_ = 0;
    bool busy_ = false;
    core::Event not_busy_;  ///< Set when a migration has ended.
    bool moved_away_ = false;
    core::TaskGroup tasks_;
};

}  // namespace sidecar
