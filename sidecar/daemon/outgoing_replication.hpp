// OutgoingReplication: the replication of a session's guest to another host, at most one at a time,
// its hand-over, and the thaw of a guest that a killed sidecar left frozen. Used by Session.
//
// Invariant: while active() the session's guest is not replaced and not migrated.
#pragma once

#include <memory>

#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/daemon/session_context.hpp"
#include "sidecar/replication/replication_source.hpp"

namespace sidecar {

class OutgoingReplication {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit OutgoingReplication(SessionContext context)
        : context_(std::move(context)),
          rounds_(context_.loop),
          handed_over_(context_.loop),
          thawing_tasks_(context_.loop) {}

    /// Begins a replication. The guest has a QEMU. Returns when the first round was accepted by the
    /// destination, or, for a replication of one round, when it is complete and handed over.
    /// Fails with refused if one is active, or with the error of the round.
    Outcome<protocol::ReplicateAnswer> begin(ReplicationSettings settings);
    /// After `attach`: removes what an earlier sidecar's replication left in QEMU, and continues
    /// that replication. If that is not possible, the guest is kept, and its next replication
    /// clears the rest.
    core::Task<void> take_over();
    /// Ends it, and with `forget` deletes the copy at the destination. Fails with refused if there
    /// is none, or during a hand-over.
    Outcome<> end(bool forget);
    /// The session ends. The record stays as long as QEMU: a later sidecar continues.
    core::Task<void> stop();
    /// Thaws the guest if a killed sidecar left it frozen, in a task of this object.
    void thaw_what_is_left();
    /// Returns when no hand-over is under way. QEMU's end must not end the session before.
    core::Task<void> wait_handed_over(core::Deadline deadline);
    /// Joins the tasks. Call before destruction, after stop() and after the context's `stop` was
    /// triggered.
    core::Task<void> join() { return thawing_tasks_.join(); }

    [[nodiscard]] bool active() const { return replication_ != nullptr; }
    /// The guest was handed over to the other host.
    [[nodiscard]] bool moved_away() const { return moved_away_; }
    /// For `status`: `replicate`, if it is active.
    void add_status(core::Json& now) const;

private:
    Outcome<> hand_over();
    Outcome<> hand_over_steps();
    [[nodiscard]] core::Result<> check_active() const;
    core::Task<void> keep_thawing();

    SessionContext context_;
    std::shared_ptr<ReplicationSource> replication_;
    core::TaskGroup rounds_;  ///< Runs run() of replication_.
    bool handing_over_ = false;
    core::Event handed_over_;  ///< Set when the hand-over is over.
    bool moved_away_ = false;
    bool thawing_ = false;  ///< keep_thawing() runs.
    core::TaskGroup thawing_tasks_;
};

}  // namespace sidecar
