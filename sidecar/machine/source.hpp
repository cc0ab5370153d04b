// The source's half of the migration machine: the only authority over the guest until
// COMMIT is recorded.
//
// Used by the driver (which runs every action and reports its end as one event) and by tests/sim
// (which explores it exhaustively). Invariant: after record_commit was asked for, resume_source is
// asked for only in one of three cases: the destination's ABORTED is durable, an operator has
// decided and stated fencing, or the record certainly failed. See docs/architecture.md,
// "The commit rule".
#pragma once

#include "sidecar/machine/common.hpp"

#include <string>

namespace sidecar::machine::source {

/// The state of a migration on the source. One function of source.cpp per phase.
enum class Phase : std::uint8_t {
    idle,  ///< Nothing was requested.
    checking,  ///< Both ends are compared; then the journal's first record is written.
    preparing,  ///< Destination, movers and bitmaps are created.
    copying,  ///< Bulk pass and rounds; the guest runs.
    suspended,  ///< The destination is unreachable; the copied data is kept for `--resume`.
    converging,  ///< RAM pre-copy; the guest runs until STOP.
    /// STOP was seen: network fired. The blocks of the last delta are read at pre-switchover.
    stopped,
    /// The last delta and the seal, in parallel with migrate-continue and `completed`; then the
    /// COMMIT record.
    switching,
    committed,  ///< COMMIT is durable and has been sent; no answer yet.
    settling,  ///< The destination acknowledged: tombstone, late frames, quit.
    rolling_back,  ///< The guest stays: everything that was created is undone, newest first.
    /// COMMIT is durable and unanswered: the guest is paused; COMMIT is sent again
    /// after a reconnect.
    in_doubt,
    done,  ///< Over; `State::outcome` is final and nothing is in flight.
};

/// What the exploration assumes and the driver must guarantee:
/// - A record ends `failed` only when no byte of it can have reached the disk; an I/O
///   error is `unknown`.
/// - Qemu::gone and qemu_gone mean that the process has ended, never that QMP does not answer.
/// - The journal has one holder at a time. A new sidecar and the watchdog read it under its lock.
///   They wait for the lock of a sidecar that died; they do not give up.
/// - qmp_lost is posted when the monitor's connection ends or QEMU does not answer in time. The
///   driver then reconnects until that succeeds or QEMU has ended. After a reconnect it queries
///   QEMU's state and posts qmp_back. Between qmp_lost and qmp_back, qemu_gone is the only event of
///   QEMU that is posted.
/// - The watchdog acts only when the sidecar is dead, and as watchdog.hpp says.
/// - An operator's decision is refused once the disks carry the tombstone.
///
/// What the machine asks of the driver. Each action ends in exactly one Event::Kind::action_ended,
/// also when it is interrupted (then usually `unknown`). All are idempotent: an action that has
/// already happened ends in `ok` when it is asked for again. The machine has no clock: when it asks
/// again for an action that just failed, the driver waits (with growing pauses) before it runs it.
enum class Action : std::uint8_t {
    check,  ///< Compare both ends; changes nothing. failed: refused; unknown: could not compare.
    record_begin,  ///< Durable: migration_id and destination. Before anything is created.
    prepare_destination,  ///< Peer: disks, QEMU `-S -incoming defer`, exports, its movers.
    prepare_network,  ///< Source-side movers, tested end to end.
    prepare_storage,  ///< Bitmap b0 on every disk, NBD server.
    /// Bulk pass and rounds until the delta is small. Survives short link failures. link_lost: the
    /// link did not come back within the link timeout.
    copy_disks,
    start_ram,  ///< Final export armed, capabilities set, `migrate` answered.
    fire_network,  ///< At STOP: the addresses go to the destination, both families or neither.
    /// At pre-switchover, with the disks still active: read which blocks the last delta has.
    list_final,
    /// The last delta, and a flush at the destination. In parallel with QEMU's own completion.
    copy_final,
    seal_destination,  ///< Peer flushes and deletes its exports; ok only when confirmed deleted.
    continue_migration,  ///< `migrate-continue` answered; `completed`/`failed` come as events.
    record_commit,  ///< Durable COMMIT. In parallel with set_images_aside.
    /// Every image of the source is durably renamed IMAGE.leaving-ID, so no QEMU can open it by its
    /// name. Only when QEMU has completed, because a failed migration may reopen a file
    /// by its name.
    set_images_aside,
    send_commit,  ///< acked | aborted | unknown. One try: waits for one answer, with a limit.
    /// Durable: COMMIT is void. Only after ABORTED, after an operator's decision, or if it was
    /// never sent.
    record_rollback,
    interrupt,  ///< Ask every action in flight to end soon. Ends `ok` at once.
    /// Durably give the images their names back. Before the guest can run on the source. Also ok if
    /// they were never renamed.
    restore_images,
    /// `migrate_cancel` answered; no effect when QEMU has completed. Also ok if no migration runs.
    cancel_migration,
    /// ok only when query-status says `running`. Waits for finish-migrate to end;
    /// `cont` in postmigrate.
    resume_source,
    rollback_network,  ///< Addresses and caught frames back to the source. Needs no peer.
    /// Peer records ABORTED, kills its QEMU, removes what it created. Best effort.
    abort_destination,
    drop_storage,  ///< Bitmaps, exports, NBD server of the source. ok when its QEMU is gone.
    drop_network,  ///< Source-side movers.
    tombstone_disks,  ///< The images are renamed IMAGE.moved-ID, from their current name.
    settle_network,  ///< Forward late frames until none arrive, then remove the source-side movers.
    quit_source,  ///< QEMU `quit`; ok when its process has ended.
    record_end,  ///< Durable: the final outcome.
    finish,  ///< Report, free the session. The last action.
};
inline constexpr unsigned action_count = static_cast<unsigned>(Action::finish) + 1;

/// What the source's journal says about this migration_id: the highest of its durable records. Each
/// record has its own place in the journal, so a late write of a dead sidecar does not hide
/// a later record.
enum class Record : std::uint8_t {
    none,  ///< No migration of this guest.
    begun,  ///< record_begin: something may have been created.
    committed,  ///< record_commit.
    rolled_back,  ///< record_rollback after COMMIT.
    ended,  ///< record_end.
};

/// What a restarted sidecar finds QEMU doing (query-status, query-migrate).
enum class Qemu : std::uint8_t {
    running,  ///< Guest runs, no migration.
    /// The same, and an earlier sidecar recorded its progress while it copied. (It removes that
    /// record before it goes on. So if the record exists, nothing was fired and no RAM was sent.)
    copying,
    migrating,  ///< Guest runs, RAM pre-copy under way.
    stopping,  ///< finish-migrate, before pre-switchover.
    /// finish-migrate, at pre-switchover or in device state; `migrate_cancel` may still work.
    paused_pre_switchover,
    postmigrate,  ///< Completed: `cont` would start the guest.
    /// The guest was stopped from outside (paused, io-error, ...); sidecar does not resume it.
    stopped,
    stopped_migrating,  ///< The same, and RAM pre-copy is under way.
    gone,  ///< No QEMU.
};

/// What happened. Built with the functions below; fields that a kind does not use
/// keep their defaults.
struct Event {
    enum class Kind : std::uint8_t {
        action_ended,  ///< `action` ended as `result`.
        migrate_requested,  ///< The operator asks for the migration. Only in idle.
        /// Ignored if may_cancel() is false; the driver answers according to that.
        cancel_requested,
        stop_seen,  ///< QMP STOP while RAM migrates.
        pre_switchover_seen,  ///< QMP MIGRATION pre-switchover.
        migration_completed,  ///< QMP MIGRATION completed (runstate postmigrate).
        /// QMP MIGRATION failed or cancelled: QEMU has resumed the guest, or will.
        migration_failed,
        guest_resumed,  ///< QMP RESUME.
        /// The guest stopped, but not because of the migration: an operator or an I/O error. While
        /// `check` is in flight: it does not run, so it is moved as it is, and continued nowhere.
        guest_stopped_by_others,
        qemu_gone,  ///< The source QEMU's process ended.
        qmp_lost,  ///< QEMU's monitor closed or does not answer.
        qmp_silent_too_long,  ///< qmp_lost, and reconnecting has failed for the limit.
        resume_requested,  ///< The operator continues a suspended copy.
        suspended_too_long,  ///< A suspended copy was not continued within its limit.
        peer_lost,  ///< Channel closed or heartbeat missed.
        peer_back,  ///< Channel authenticated again.
        peer_silent_too_long,  ///< peer_lost for longer than the timeout of the copying phase.
        /// RAM is dirtied faster than it can be sent, and the allowed measures are exhausted.
        ram_not_converging,
        downtime_limit_exceeded,  ///< STOP is longer ago than the downtime limit.
        /// The operator says that `side` owns the guest, and that the other side is fenced.
        operator_resolved,
        /// Connected again; `qemu` is its state now, from which the missed event follows.
        qmp_back,
        /// A new sidecar found `record` in the journal and `qemu` in QEMU. First event of
        /// a fresh State.
        restarted,
    };
    Kind kind = Kind::migrate_requested;
    Action action = Action::check;
    ActionResult result = ActionResult::ok;
    Side side = Side::source;
    Record record = Record::none;
    Qemu qemu = Qemu::running;
    /// restarted: the guest did not run when the migration began, and has not been continued.
    bool stopped = false;

    friend auto operator<=>(Event const&, Event const&) = default;
};

[[nodiscard]] constexpr Event action_ended(Action action, ActionResult result) {
    return {.kind = Event::Kind::action_ended, .action = action, .result = result};
}
[[nodiscard]] constexpr Event operator_resolved(Side side) {
    return {.kind = Event::Kind::operator_resolved, .side = side};
}
[[nodiscard]] constexpr Event restarted(Record record, Qemu qemu, bool stopped = false) {
    return {.kind = Event::Kind::restarted, .record = record, .qemu = qemu, .stopped = stopped};
}
[[nodiscard]] constexpr Event qmp_back(Qemu qemu) {
    return {.kind = Event::Kind::qmp_back, .qemu = qemu};
}
/// An event that carries nothing: every kind but the four above.
[[nodiscard]] constexpr Event event(Event::Kind kind) { return {.kind = kind}; }

/// Things that may exist because an action that creates them was asked for. Each has one action
/// that undoes it.
enum class Resource : std::uint8_t {
    destination,  ///< prepare_destination; abort_destination.
    network,  ///< prepare_network; drop_network (settle_network when moved).
    storage,  ///< prepare_storage; drop_storage (quit_source when moved).
    ram,  ///< start_ram; cancel_migration, then resume_source.
    fired,  ///< fire_network; rollback_network.
    images_aside,  ///< set_images_aside; restore_images (tombstone_disks when moved).
};

/// Tries of record_commit, and of each cleanup action.
inline constexpr unsigned tries_max = 2;

/// Whether the outcome of the migration does not depend on `action`. If it fails `tries_max` times
/// it is left undone, and the report says so.
[[nodiscard]] bool only_tidies_up(Action action);

/// What an operator has decided about a migration in doubt.
enum class OperatorDecision : std::uint8_t { none, to_source, to_destination };

/// The complete state of the source's machine: one fresh value per migration. Cheap to compare,
/// copy and hash.
struct State {
    Phase phase = Phase::idle;
    Outcome outcome = Outcome::none;
    Guest guest = Guest::source;
    /// Last record known to be durable. `begun` is also set when it may be durable, `ended` also
    /// when it was given up.
    Record record = Record::none;
    OperatorDecision operator_decision =
        OperatorDecision::none;  ///< The operator's decision; waits for send_commit to end.
    EnumSet<Action> in_flight;  ///< Asked for and not ended.
    EnumSet<Resource> resources;  ///< Set when asked for, cleared when the undoing action ended ok.
    bool peer_up = true;  ///< Assumed until peer_lost, also after `restarted`.
    bool pre_switchover = false;  ///< pre-switchover was seen.
    bool completed = false;  ///< RAM and device state are at the destination (postmigrate).
    bool sealed = false;  ///< The destination confirmed that its exports are gone.
    bool images_aside = false;  ///< set_images_aside ended ok: COMMIT may be sent.
    bool cancelled = false;  ///< Rolling back: QEMU has no migration any more.
    bool commit_unknown = false;  ///< record_commit ended unknown: COMMIT may be durable.
    bool commit_sent = false;  ///< COMMIT was sent, or may have been sent by an earlier sidecar.
    /// A COMMIT that was never sent may be durable: it must be made void first.
    bool void_commit = false;
    /// The last record_rollback failed: the destination is asked next.
    bool rollback_failed = false;
    /// The destination has recorded ABORTED, which makes COMMIT void.
    bool destination_aborted = false;
    /// Failures in a row of an action that is repeated; see tries_max.
    std::uint8_t failures = 0;
    bool guest_ran = false;  ///< RESUME was seen after STOP: COMMIT must not be sent.
    bool qemu_gone = false;  ///< The source's QEMU has ended.
    bool qmp_up = true;  ///< Assumed until qmp_lost, also after `restarted`.
    bool qmp_silent = false;  ///< qmp_silent_too_long, and no qmp_back since.
    /// The guest was stopped from outside, before the migration or during it: sidecar does not
    /// resume it.
    bool guest_stopped = false;
    bool suspending = false;  ///< The copy is being stopped in order to suspend it.
    bool tombstoned = false;  ///< tombstone_disks ended ok, or was given up.

    friend auto operator<=>(State const&, State const&) = default;
};

struct Step {
    State state;
    std::vector<Action> actions;  ///< In order; start all before waiting for the next event.
};

/// One transition: pure, total (an event that means nothing in a phase changes nothing). After
/// `finish` has ended, the state stays `done`.
[[nodiscard]] Step step(State const& state, Event const& event);

/// Whether the migration has begun and is not over. `outcome` does not say that: it is set as soon
/// as it is known, before rollback or settling, and is in_doubt for a while.
[[nodiscard]] bool under_way(State const& state);

/// Whether all that is left is to remove what was made: the guest stays, or the migration is over.
[[nodiscard]] bool is_ending(State const& state);

/// Whether cancel_requested would be accepted: a migration is under way, is not being rolled back
/// yet, and record_commit has not been asked for.
[[nodiscard]] bool may_cancel(State const& state);

/// Whether operator_resolved would be accepted: COMMIT is durable and unanswered, or may be durable
/// and can be made void on neither side. The guest is paused until then.
[[nodiscard]] bool may_resolve(State const& state);

/// Whether COMMIT may be durable, and is neither acknowledged nor void: the guest is paused.
[[nodiscard]] bool commit_may_count(State const& state);

[[nodiscard]] std::string_view name(Phase phase);
[[nodiscard]] std::string_view name(Action action);
[[nodiscard]] std::string_view name(Record record);
[[nodiscard]] std::string_view name(Qemu qemu);
[[nodiscard]] std::string_view name(Event::Kind kind);
[[nodiscard]] std::string_view name(Resource resource);
[[nodiscard]] std::string_view name(OperatorDecision operator_decision);

/// `action_ended copy_final failed`, `restarted begun postmigrate`: for logs and traces.
[[nodiscard]] std::string describe(Event const& event);
/// One line for logs, traces and test failures.
[[nodiscard]] std::string describe(State const& state);

}  // namespace sidecar::machine::source
