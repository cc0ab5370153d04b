// IncomingSide: what comes to this host for a session's guest: a migration, or one round of a
// replication, never both. It accepts their sources and answers them. Used by Session.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/daemon/session_context.hpp"
#include "sidecar/migration/destination_migration.hpp"
#include "sidecar/replication/replication_target.hpp"

namespace sidecar {

class IncomingSide {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// `arrived` gets the guest that runs here now.
    IncomingSide(SessionContext context, std::function<void(std::unique_ptr<Guest>)> arrived)
        : context_(std::move(context)), arrived_(std::move(arrived)), tasks_(context_.loop) {}

    /// Accepts the sidecar that `serve` relays over `from`. Fails with refused, with closed if
    /// something else for the guest is just ending, or with protocol.
    core::Result<> accept(Connection& from, protocol::Peer const& peer);
    /// Answers one request of an accepted source. Fails with closed if what it is of has ended.
    Outcome<protocol::Packed> answer_source(protocol::Call call);
    Outcome<protocol::Packed> answer_replication_source(protocol::Call call);
    /// The connection of an accepted source has ended. Nothing happens for another `who`.
    core::Task<void> detached(protocol::Role who);
    /// The guest came in with `migration_id` and is owned here, but its sidecar was killed before
    /// it recorded the end. What remains to be done needs no source.
    void take_over(std::string migration_id);
    /// A `failover` needs this guest: a round from its source ends, in whatever state it is. Fails
    /// with refused during a migration.
    core::Result<> release();
    /// Ends the migration, whose guest may run here, and its announcements. Call before
    /// destruction.
    core::Task<void> end_migration();

    /// A source has come.
    [[nodiscard]] bool busy() const { return destination_ || replication_target_; }
    /// For `status` while no guest runs here: `status`, `copy`.
    void add_copy_status(core::Json& now) const;
    /// The migration; null: there is none.
    [[nodiscard]] core::Json migration_status() const {
        return destination_ ? destination_->status() : core::Json();
    }

private:
    core::Result<> accept_migration(Connection& from, protocol::Peer const& peer);
    core::Result<> accept_replication(Connection& from, std::string migration_id);
    [[nodiscard]] core::Result<> check_no_guest() const;
    void begin(std::string migration_id);
    core::Task<void> run();
    [[nodiscard]] core::Json copy_status() const;

    SessionContext context_;
    std::function<void(std::unique_ptr<Guest>)> arrived_;
    std::unique_ptr<DestinationMigration> destination_;
    std::unique_ptr<ReplicationTarget> replication_target_;
    core::TaskGroup tasks_;  ///< run() of the migration.
    std::stop_source stop_;
};

}  // namespace sidecar
