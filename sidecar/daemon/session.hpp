// Session: one guest's sidecar. It holds the guest, answers the control socket, and ends when the
// guest's QEMU ends, when the guest has moved away, or when an incoming migration failed. It begins
// with `run`, `attach`, `incoming` or `failover`. Its parts do the work: IncomingSide,
// OutgoingMigration and OutgoingReplication, of which at most one is busy at a time.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>

#include "netmove/mover.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/daemon/incoming_side.hpp"
#include "sidecar/daemon/outgoing_migration.hpp"
#include "sidecar/daemon/outgoing_replication.hpp"
#include "sidecar/daemon/session_context.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/handover/dns_update.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/registry/ownership.hpp"

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
    core::Task<core::Result<>> check_dns(DnsUpdate& dns);
    core::Task<core::Result<>> claim_joined();

    // How each of the four begins.
    core::Result<> check_may_run();
    core::Result<> open_journal();
    core::Task<core::Result<>> wait_for_journal();
    core::Task<core::Result<>> wait_for_released_journal();
    core::Task<core::Result<>> attach_guest(bool unfinished);
    core::Task<core::Result<>> ask_replica_to_leave();
    core::Task<void> settle_network();
    core::Task<void> wait_for_first_peer();
    // The control socket.
    core::Result<> listen();
    core::Task<void> accept_connections();
    core::Task<void> converse(core::Fd socket);
    std::weak_ptr<Connection> shared(Connection& one) const;
    // The guest, and the session's end.
    void stay_with(std::unique_ptr<Guest> guest);
    core::Task<void> watch_qemu();
    [[nodiscard]] core::Result<> check_qemu() const;
    core::Task<core::Result<>> stay_if(core::Result<> begun, std::stop_token terminate);
    core::Task<core::Result<>> stay(std::stop_token terminate);
    void leave(std::string why);

    core::Loop& loop_;
    SessionSettings options_;
    Paths paths_;
    std::string name_;
    std::optional<Journal> journal_;
    core::Fd listener_;
    std::unique_ptr<Guest> guest_;
    std::stop_source stop_;
    registry::Ownership ownership_;
    SessionContext context_;
    IncomingSide incoming_;
    OutgoingMigration migration_;
    OutgoingReplication replication_;
    netmove::MoverSet announcing_;  ///< After a failover.
    std::list<std::shared_ptr<Connection>> connections_;
    std::size_t answering_ = 0;
    core::Event quiet_;  ///< No request is being answered.
    core::Event over_;
    bool leaving_ = false;
    core::TaskGroup tasks_;
};

}  // namespace sidecar
