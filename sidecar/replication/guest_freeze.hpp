// GuestFreeze: the guest's own file systems at rest while a point is taken, by its agent: freeze,
// the instant, thaw. Used by the replication's driver. What cannot be done makes the point one as
// after a power failure, and is said; it never fails the round.
//
// Invariant: a guest that we may have frozen is thawed. A mark in the run directory says so from
// before the freeze until the agent has answered the thaw; as long as it is there this sidecar
// tries again, its watchdog does when it dies or hangs, and after both the next `attach` or
// replication.
#pragma once

#include <memory>
#include <string>

#include "sidecar/guest/guest.hpp"
#include "sidecar/guest/watchdog.hpp"
#include "storage/recovery_point.hpp"

namespace sidecar {

/// What a point is worth.
struct Consistency {
    /// "filesystem": the guest had brought its file systems to rest; "off": the guest was off;
    /// "crash": as after a power failure, every write that a flush confirmed.
    std::string kind = "crash";
    std::string
        why;  ///< With "crash": why not better. May quote the guest's agent, made printable.
    /// "filesystem-consistent", "crash-consistent, because ...", "of a guest that was off".
    [[nodiscard]] std::string text() const;
    /// `kind` and `why` from a message or a record; what is none of ours counts as "crash".
    static Consistency from(std::string const& kind, std::string why);
};

/// Thaws what a sidecar that died left frozen. Without a mark nothing is done.
core::Task<core::Result<>> thaw_left(core::Loop& loop, Paths paths, std::string guest,
                                     core::Deadline deadline);

class GuestFreeze final : public storage::Quiescence {
public:
    /// `agent_socket` empty: there is no agent, because of `why_none`. `guest` must outlive it.
    GuestFreeze(Guest& guest, std::string agent_socket, std::string why_none);
    ~GuestFreeze() override;

    /// What the next point is without a freeze, when one cannot be: of a guest that does not run.
    void excuse(std::optional<Consistency> excuse) { excuse_ = std::move(excuse); }
    core::Task<void> hold(core::Deadline deadline) override;
    core::Task<void> release() override;
    /// Of the point taken between the last hold() and its release().
    [[nodiscard]] Consistency const& last() const { return last_; }
    [[nodiscard]] std::string const& socket() const { return socket_; }
    [[nodiscard]] std::string const& why_none() const { return why_none_; }
    /// The guest may still be frozen: thaw_again() until it is false.
    [[nodiscard]] bool owes_thaw() const;
    core::Task<void> thaw_again();
    /// Ends the watchdog, which leaves nothing frozen that this sidecar has not thawed.
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
    std::unique_ptr<Conversation> talk_;  ///< From the freeze on until its thaw is answered.
};

}  // namespace sidecar
