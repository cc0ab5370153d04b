// GuestFreeze: freezes the guest's own file systems while a point is taken, through the guest
// agent: freeze, take the point, thaw. Used by the replication's driver. If the freeze is
// not possible, the point is crash-consistent, and its reason is reported; the round never
// fails for it.
//
// Invariant: a guest that we may have frozen is thawed. A mark in the run directory exists
// from before the freeze until the agent has answered the thaw. While it exists, this sidecar
// keeps trying. If the sidecar dies or hangs, its watchdog tries; after both, the next
// `attach` or replication does.
#pragma once

#include <memory>
#include <string>

#include "core/json.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/guest/watchdog.hpp"
#include "storage/recovery_point.hpp"

namespace sidecar {

/// The consistency of a point.
struct Consistency {
    using Kind = protocol::ConsistencyKind;
    Kind kind = Kind::crash;
    std::string why;  ///< With `crash`: why not better. May quote the guest agent, made printable.
    /// "filesystem-consistent", "crash-consistent, because ...", "of a guest that was off".
    [[nodiscard]] std::string text() const;
    /// Makes `why`, which may come from a guest or a peer, printable and short.
    static Consistency from(Kind kind, std::string why);
    /// From {consistency, why} of a record or a report; an unknown kind counts as `crash`.
    static Consistency from_json(core::Json const& point);
};

/// Thaws what a sidecar that died left frozen. Does nothing without a mark.
core::Task<core::Result<>> thaw_left(core::Loop& loop, Paths paths, std::string guest,
                                     core::Deadline deadline);

class GuestFreeze final : public storage::Quiescence {
public:
    /// `agent_socket` empty: there is no agent, for the reason `why_none`. `guest` must outlive it.
    GuestFreeze(Guest& guest, std::string agent_socket, std::string why_none);
    ~GuestFreeze() override;

    /// The consistency of the next point if there can be no freeze, because the guest does not run.
    void excuse(std::optional<Consistency> excuse) { excuse_ = std::move(excuse); }
    core::Task<void> hold(core::Deadline deadline) override;
    core::Task<void> release() override;
    /// The consistency of the point that was taken between the last hold() and its release().
    [[nodiscard]] Consistency const& last() const { return last_; }
    [[nodiscard]] std::string const& socket() const { return socket_; }
    [[nodiscard]] std::string const& why_none() const { return why_none_; }
    /// The guest may still be frozen: call thaw_again() until this is false.
    [[nodiscard]] bool owes_thaw() const;
    core::Task<void> thaw_again();
    /// Ends the watchdog, unless this sidecar has left the guest frozen.
    core::Task<void> end();

private:
    struct Conversation;
    core::Task<core::Result<>> freeze(core::Deadline deadline);
    core::Result<> start_watch();
    core::Task<core::Result<std::int64_t>> thaw(core::Deadline deadline);

    Guest& guest_;
    std::string socket_;
    std::string why_none_;
    std::optional<Consistency> excuse_;
    Consistency last_;
    std::unique_ptr<Watchdog> watchdog_;
    std::unique_ptr<Conversation> talk_;  ///< From the freeze until its thaw is answered.
};

}  // namespace sidecar
