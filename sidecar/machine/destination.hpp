// The destination's half of the migration machine: it obeys, and owns the guest only after COMMIT.
//
// Used by the driver of an incoming guest and by tests/sim. Invariant: start_guest is asked for
// only when OWNER is durable, OWNER only after COMMIT was received with the exports gone and the
// RAM loaded; and ABORTED is answered only when it is durable. Its own QEMU's `completed` never
// starts the guest.
#pragma once

#include "sidecar/machine/common.hpp"

#include <string>

namespace sidecar::machine::destination {

/// Where an incoming migration stands. One function of destination.cpp per phase.
enum class Phase : std::uint8_t {
    idle,      ///< Nothing asked for.
    preparing, ///< Disks, QEMU, exports and movers are being made.
    prepared,  ///< Data flows into the exports; QEMU waits.
    qemu_lost,  ///< As prepared, but QEMU has died before any RAM came: the source may ask anew.
    sealed,  ///< Exports gone, disks flushed: nobody can write but the guest to come.
    owning,  ///< COMMIT received: seal if need be, OWNER, `cont`.
    running,  ///< The guest runs here: acknowledged, announced, recorded.
    aborting,  ///< ABORTED, then everything made is removed.
    done,  ///< Over; still answers a source that asks again.
};

/// What the machine asks of the driver; the same contract as source::Action. A reply_* ends `ok`
/// when it was handed to the channel and anything else when there is none: the source asks again.
enum class Action : std::uint8_t {
    /// Write down what will be made, then disks, QEMU `-S -incoming defer`, exports, movers. Of
    /// these only what is not there yet.
    prepare,
    reply_prepared,
    seal,  ///< Flush, delete the exports, wait for every BLOCK_EXPORT_DELETED.
    reply_sealed,
    record_owner,  ///< Durable OWNER.
    start_guest,  ///< Inject caught frames, `cont`; ok only when query-status says `running`.
    reply_ack,
    announce_network,  ///< Gratuitous ARP, unsolicited NA, RARP from here.
    record_aborted,  ///< Durable ABORTED.
    reply_aborted,
    reply_refused,  ///< To prepare or seal: it failed. To abort: refused, OWNER is recorded.
    destroy,  ///< Kill QEMU; delete what `prepare` wrote down: disks, taps, movers, keys.
    record_end,  ///< Durable: over, and whether as OWNER or as ABORTED.
    finish,  ///< Report, free the session. The last action but for replies.
};
inline constexpr unsigned action_count = static_cast<unsigned>(Action::finish) + 1;

/// What the destination's journal says of this migration_id. An migration_id it has never heard of
/// is `none` with Qemu::gone; asked to commit it, the machine records ABORTED before it says so.
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

/// What happened. Built with the functions below; fields that a kind does not use keep their
/// defaults.
struct Event {
    enum class Kind : std::uint8_t {
        action_ended,  ///< `action` ended as `result`.
        prepare_requested,  ///< From the source.
        seal_requested,  ///< From the source.
        commit_received,  ///< From the source; may be repeated.
        abort_requested,  ///< From the source; may be repeated.
        qemu_loaded,  ///< Its MIGRATION `completed`.
        /// Its process ended (load error, kill); `qemu`: waiting when no RAM had begun to come.
        qemu_gone,
        peer_lost,  ///< Channel closed or heartbeat missed: changes nothing by itself.
        peer_back,  ///< Channel authenticated again: changes nothing, the source asks.
        peer_silent_too_long,  ///< peer_lost for longer than the destination's patience.
        qemu_silent_too_long,  ///< QEMU's monitor is lost, and reconnecting has failed for the
                               ///< limit.
        /// A new sidecar found `record` and `qemu`. First event of a fresh State.
        restarted,
    };
    Kind kind = Kind::prepare_requested;
    Action action = Action::prepare;
    ActionResult result = ActionResult::ok;
    Record record = Record::none;
    Qemu qemu = Qemu::gone;

    friend auto operator<=>(Event const&, Event const&) = default;
};

[[nodiscard]] constexpr Event action_ended(Action action, ActionResult result) {
    return {.kind = Event::Kind::action_ended, .action = action, .result = result};
}
[[nodiscard]] constexpr Event restarted(Record record, Qemu qemu) {
    return {.kind = Event::Kind::restarted, .record = record, .qemu = qemu};
}
/// QEMU's process ended, having been `last`.
[[nodiscard]] constexpr Event qemu_gone(Qemu last) {
    return {.kind = Event::Kind::qemu_gone, .qemu = last};
}
/// An event that carries nothing: every kind but the three above.
[[nodiscard]] constexpr Event event(Event::Kind kind) { return {.kind = kind}; }

/// What the source waits to hear; decides which reply follows an abort.
enum class PendingRequest : std::uint8_t { nothing, prepare, seal, commit, abort };

/// The whole memory of the destination's machine: one fresh value per migration (migration_id).
struct State {
    Phase phase = Phase::idle;
    Record record = Record::none;  ///< Last record known durable.
    EnumSet<Action> in_flight;
    PendingRequest pending_request = PendingRequest::nothing;
    bool loaded = false;  ///< The RAM stream is loaded.
    bool exports_gone = false;  ///< seal ended ok.
    bool qemu_gone = false;
    bool owner_unknown = false;  ///< record_owner ended unknown once: only its `ok` settles it.
    bool destroyed = false;  ///< destroy ended ok.
    bool announced = false;  ///< announce_network ended ok.

    friend auto operator<=>(State const&, State const&) = default;
};

struct Step {
    State state;
    std::vector<Action> actions;  ///< In order; start all before waiting for the next event.
};

/// One transition: pure, total (an event that means nothing in a phase changes nothing).
[[nodiscard]] Step step(State const& state, Event const& event);

/// Whether the guest is this side's: OWNER is durable.
[[nodiscard]] bool owns_guest(State const& state);

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
