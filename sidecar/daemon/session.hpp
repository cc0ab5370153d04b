// Session: one guest's sidecar. It holds the guest, answers the control socket, and runs at most
// one migration (outgoing or incoming) or replication at a time. It begins with `run`, `attach`,
// `incoming` or `failover` (replications: session_replication.cpp). It ends when the guest's QEMU
// ends, when the guest has moved away, or when an incoming migration failed.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>

#include "sidecar/channel/connection.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/migration/destination_migration.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "sidecar/registry/ownership.hpp"
#include "sidecar/replication/replication_source.hpp"
#include "sidecar/replication/replication_target.hpp"

namespace sidecar {

class Session : public Handler {
public:
    Session(core::Loop& loop, SessionSettings options);
    ~Session() override;

    /// Each returns when the session is over: ok, or why it could not begin. `terminate` ends it
    /// early; QEMU continues and can be attached to again.
    core::Task<core::Result<>> run(std::stop_token terminate);
    core::Task<core::Result<>> attach(std::stop_token terminate);
    core::Task<core::Result<>> incoming(std::stop_token terminate);
    core::Task<core::Result<>> failover(std::stop_token terminate);

private:
    core::Task<core::Result<protocol::Packed>> handle(Connection& from,
                                                      protocol::Call call) override;
    core::Task<core::Result<protocol::Packed>> answer(Connection& from, protocol::Call call);
    // Each handles one request of a command.
    core::Task<core::Result<protocol::Document>> on(Connection& from, protocol::Migrate migrate);
    core::Task<core::Result<protocol::SetAnswer>> on(Connection& from, protocol::Set set);
    core::Task<core::Result<protocol::Nothing>> on(Connection& from, protocol::Cancel);
    core::Task<core::Result<protocol::Nothing>> on(Connection& from, protocol::Resolve resolve);
    core::Task<core::Result<protocol::Document>> on(Connection& from, protocol::Status);
    core::Task<core::Result<protocol::ReplicateAnswer>> on(Connection& from,
                                                           protocol::Replicate replicate);
    core::Task<core::Result<protocol::Nothing>> on(Connection& from, protocol::ReplicateStop stop);
    core::Task<core::Result<protocol::Nothing>> on(Connection& from, protocol::Release);
    core::Task<core::Result<protocol::Nothing>> on(Connection& from, protocol::Peer peer);
    core::Result<> check_under_way() const;
    core::Task<core::Result<>> be_ready_to_migrate();
    core::Task<core::Result<protocol::Document>> follow(Connection& from);
    SourceMigration::ProgressSink progress_to(Connection& from);
    core::Task<core::Result<>> hand_over();
    core::Task<core::Result<>> end_replication(bool forget);
    void thaw_what_is_left();
    core::Task<void> keep_thawing();
    core::Result<> accept_migration(Connection& from, protocol::Peer const& peer);
    core::Result<> accept_replication(Connection& from, std::string migration_id);
    core::Task<void> take_over_replication();
    core::Task<void> stop_replication();
    core::Task<core::Result<>> ask_replica_to_leave();
    [[nodiscard]] core::Json copy_status() const;
    core::Task<void> settle_network();
    core::Task<core::Result<>> claim_joined();
    void note_arrival();

    core::Result<> check_may_run();
    core::Result<> open_journal();
    core::Task<core::Result<>> wait_for_journal();
    core::Result<> listen();
    core::Task<void> accept_connections();
    core::Task<void> converse(core::Fd socket);
    core::Task<core::Result<>> stay(std::stop_token terminate);
    core::Task<void> watch_qemu();
    core::Task<void> run_migration(SourceMigration& migration, SourceMigration::ProgressSink sink,
                                   bool recovered);
    core::Task<core::Result<>> take_over_incoming(std::string migration_id,
                                                  std::stop_token terminate);
    core::Task<void> run_incoming();
    core::Task<void> send_progress(std::weak_ptr<Connection> to, core::Json line);
    core::Task<void> stop_incoming();
    void stay_with(std::unique_ptr<Guest> guest);
    void leave(std::string why);

    core::Loop& loop_;
    SessionSettings options_;
    Paths paths_;
    std::string name_;
    std::optional<Journal> journal_;
    core::Fd listener_;
    std::unique_ptr<Guest> guest_;
    std::shared_ptr<SourceMigration> source_;  ///< Shared with callers that wait for its report.
    std::unique_ptr<DestinationMigration> destination_;
    std::unique_ptr<ReplicationTarget>
        replication_target_;  ///< A round of a replication into this host.
    std::shared_ptr<ReplicationSource> replication_;  ///< A replication to another host.
    core::TaskGroup replication_tasks_;  ///< Runs run() of replication_.
    netmove::MoverSet announcing_;  ///< After a failover.
    core::Json last_report_;
    std::list<std::shared_ptr<Connection>> connections_;
    std::size_t answering_ = 0;
    std::size_t progress_in_flight_ = 0;
    core::Event quiet_;  ///< No request is being answered.
    core::Event over_;
    bool leaving_ = false;
    bool moved_away_ = false;
    bool thawing_ = false;  ///< keep_thawing() runs.
    bool handing_over_ = false;
    core::Event handed_over_;  ///< Set when the hand-over is over.
    bool migrating_ = false;  ///< A SourceMigration runs, or is about to: `source_` must stay.
    registry::Ownership ownership_;
    core::TaskGroup tasks_;
    std::stop_source stop_;
    core::TaskGroup incoming_tasks_;
    std::stop_source incoming_stop_;
};

}  // namespace sidecar
