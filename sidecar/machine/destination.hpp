// The destination's half of the migration machine: it follows the source and owns the guest only
// after COMMIT.
//
// Used by the driver of an incoming guest and by tests/sim. Invariant: start_guest is asked for
// only when OWNER is durable, and never for a guest that was stopped at the source. OWNER is asked
// for only after COMMIT was received, the exports are gone and the RAM is loaded. ABORTED is
// answered only when it is durable. The `completed` of the destination's QEMU never starts the
// guest.
#pragma once

#include "sidecar/machine/common.hpp"

#include <string>

namespace sidecar::machine::destination {

/// The state of an incoming migration. One function of destination.cpp per phase.
enum class Phase : std::uint8_t {
    idle,  ///< Nothing was requested.
    preparing, ///< Disks, QEMU, exports and movers are being made.
    prepared,  ///< Disks are copied into the exports; QEMU waits.
    /// As prepared, but QEMU died before any RAM arrived: the source may send `prepare` again.
    qemu_lost,
    sealed,  ///< Exports gone, disks flushed: only the guest can write, once it starts.
    owning,  ///< COMMIT received: seal if necessary, OWNER, `cont`.
    /// The guest runs here, or is stopped here as it was at the source: acknowledged, announced,
    /// recorded.
    running,
    aborting,  ///< ABORTED, then everything made is removed.
    done,  ///< Over; a source that asks again is still answered.
};

/// What the machine asks of the driver; the same contract as source::Action. A reply_* ends `ok`
/// when it was handed to the channel. Without a channel it ends otherwise, and the
/// source asks again.
enum class Action : std::uint8_t {
    /// Record what will be created; then create disks, QEMU `-S -incoming defer`, exports, movers.
    /// Only those that do not exist yet.
    prepare,
    reply_prepared,
    seal,  ///< Flush, delete the exports, wait for every BLOCK_EXPORT_DELETED.
    reply_sealed,
    record_owner,  ///< Durable OWNER.
    start_guest,  ///< Inject caught frames, `cont`; ok only when query-status says `running`.
    /// Inject caught frames; ok when the guest is loaded and in the run state of the source.
    leave_stopped,
    reply_ack,
    announce_network,  ///< Gratuitous ARP, unsolicited NA, RARP from here.
    record_aborted,  ///< Durable ABORTED.
    reply_aborted,
    reply_refused,  ///< To prepare or seal: it failed. To abort: refused, OWNER is recorded.
    destroy,  ///< Kill QEMU; delete what `prepare` recorded: disks, taps, movers, keys.
    record_end,  ///< Durable: over, as OWNER or as ABORTED.
    finish,  ///< Report, free the session. Only replies can follow.
};
inline constexpr unsigned action_count = static_cast<unsigned>(Action::finish) + 1;

/// What the destination's journal says about this migration_id. An unknown migration_id is `none`
/// with Qemu::gone. If a source sends COMMIT for it, the machine records ABORTED before it answers.
enum class Record : std::uint8_t {
    none,
    owner,  ///< record_owner.
    aborted,  ///< record_aborted.
    ended_owner,  ///< record_end after OWNER.
    ended_aborted,  ///< record_end after ABORTED.
};

/// What a restarted sidecar finds its QEMU doing.
enum class Qemu : std::uint8_t {
    waiting,  ///< inmigrate: the RAM stream is not complete.
    loaded,  ///< Stream loaded, paused (prelaunch/postmigrate/paused, by `-S`).
    running,  ///< The guest runs here.
    gone,  ///< No QEMU.
};

/// What happened. Built with the functions below; fields that a kind does not use
/// keep their defaults.
struct Event {
    enum class Kind : std::uint8_t {
        action_ended,  ///< `action` ended as `result`.
        prepare_requested,  ///< From the source.
        seal_requested,  ///< From the source.
        commit_received,  ///< From the source; may be repeated.
        abort_requested,  ///< From the source; may be repeated.
        qemu_loaded,  ///< Its MIGRATION `completed`.
        /// Its process ended (load error, kill). `qemu` is `waiting` if no RAM had arrived.
        qemu_gone,
        peer_lost,  ///< Channel closed or heartbeat missed: has no effect by itself.
        peer_back,  ///< Channel authenticated again: has no effect; the source asks.
        peer_silent_too_long,  ///< peer_lost for longer than the destination's timeout.
        /// QEMU's monitor is lost and could not be reconnected within the limit.
        qemu_silent_too_long,
        /// A new sidecar found `record` and `qemu`. First event of a fresh State.
        restarted,
    };
    Kind kind = Kind::prepare_requested;
    Action action = Action::prepare;
    ActionResult result = ActionResult::ok;
    Record record = Record::none;
    Qemu qemu = Qemu::gone;
    /// prepare_requested and restarted: the guest does not run at the source, and is not to run
    /// here.
    bool stopped = false;

    friend auto operator<=>(Event const&, Event const&) = default;
};

[[nodiscard]] constexpr Event action_ended(Action action, ActionResult result) {
    return {.kind = Event::Kind::action_ended, .action = action, .result = result};
}
[[nodiscard]] constexpr Event prepare_requested(bool stopped) {
    return {.kind = Event::Kind::prepare_requested, .stopped = stopped};
}
[[nodiscard]] constexpr Event restarted(Record record, Qemu qemu, bool stopped = false) {
    return {.kind = Event::Kind::restarted, .record = record, .qemu = qemu, .stopped = stopped};
}
/// QEMU's process ended; `last` was its last state.
[[nodiscard]] constexpr Event qemu_gone(Qemu last) {
    return {.kind = Event::Kind::qemu_gone, .qemu = last};
}
/// An event that carries nothing: every kind but the four above.
[[nodiscard]] constexpr Event event(Event::Kind kind) { return {.kind = kind}; }

/// The request that the source waits for; decides which reply follows an abort.
enum class PendingRequest : std::uint8_t { nothing, prepare, seal, commit, abort };

/// The complete state of the destination's machine: one fresh value per migration (migration_id).
struct State {
    Phase phase = Phase::idle;
    Record record = Record::none;  ///< Last record known to be durable.
    EnumSet<Action> in_flight;
    PendingRequest pending_request = PendingRequest::nothing;
    bool loaded = false;  ///< The RAM stream is loaded.
    bool exports_gone = false;  ///< seal ended ok.
    bool qemu_gone = false;
    bool owner_unknown = false;  ///< record_owner ended unknown once: only its `ok` decides.
    bool destroyed = false;  ///< destroy ended ok.
    bool announced = false;  ///< announce_network ended ok.
    bool stopped = false;  ///< The guest was stopped at the source, and stays stopped here.

    friend auto operator<=>(State const&, State const&) = default;
};

struct Step {
    State state;
    std::vector<Action> actions;  ///< In order; start all before waiting for the next event.
};

/// One transition: pure, total (an event that means nothing in a phase changes nothing).
[[nodiscard]] Step step(State const& state, Event const& event);

/// Whether the guest belongs to the destination: OWNER is durable.
[[nodiscard]] bool owns_guest(State const& state);

// Requests of the source that change no state: which of them are answered.

/// The disks are exported to the source: it may read them, and have them exported again.
[[nodiscard]] bool has_exports(State const& state);
/// QEMU is not there, or not yet: an offer of the disks must be a `prepare`.
[[nodiscard]] bool offers_by_prepare(State const& state);
/// The addresses may move here.
[[nodiscard]] bool may_fire(State const& state);
/// The addresses and frames may go back: OWNER is neither recorded nor about to be.
[[nodiscard]] bool may_return_frames(State const& state);
/// The guest's tracked connections may be restored here.
[[nodiscard]] bool may_take_connections(State const& state);

[[nodiscard]] std::string_view name(Phase phase);
[[nodiscard]] std::string_view name(Action action);
[[nodiscard]] std::string_view name(Record record);
[[nodiscard]] std::string_view name(Qemu qemu);
[[nodiscard]] std::string_view name(Event::Kind kind);
[[nodiscard]] std::string_view name(PendingRequest pending_request);

/// `action_ended seal ok`, `restarted owner loaded`: for logs and traces.
[[nodiscard]] std::string describe(Event const& event);
/// One line for logs, traces and test failures.
[[nodiscard]] std::string describe(State const& state);

}  // namespace sidecar::machine::destination
