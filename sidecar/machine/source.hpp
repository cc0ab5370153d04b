// The source's half of the migration machine: the only authority over the guest until COMMIT is
// recorded.
//
// Used by the driver (which runs every action through a port and feeds its end back as one event)
// and by tests/sim (which explores it exhaustively). Invariant: once record_commit has been asked
// for, no resume_source is asked for before the destination's durable ABORTED, an operator's word
// with fencing stated, or a certain failure of that record; see docs/architecture.md, "The commit
// rule".
#pragma once

#include "sidecar/machine/common.hpp"

#include <string>

namespace sidecar::machine::source {

/// Where a migration stands on the source. One function of source.cpp per phase.
enum class Phase : std::uint8_t {
    idle,         ///< Nothing asked for.
    checking,     ///< Both ends are compared; then the journal's first record is written.
    preparing,    ///< Destination, movers and bitmaps are made.
    copying,      ///< Bulk pass and rounds; the guest runs.
    suspended,    ///< The destination is unreachable; what was copied waits for `--resume`.
    converging,   ///< RAM pre-copy; the guest runs until STOP.
    stopped,  ///< STOP was seen: network fired; which blocks are owed is read at pre-switchover.
    /// The last delta and the seal, beside migrate-continue and `completed`; then the COMMIT
    /// record.
    switching,
    committed,  ///< COMMIT is durable and has been sent; no answer yet.
    settling,  ///< The destination acknowledged: tombstone, stragglers, quit.
    rolling_back,  ///< The guest stays: everything made is undone, newest first.
    in_doubt,  ///< COMMIT is durable, an answer was lost: paused; resent when the peer is back.
    done,  ///< Over; `State::outcome` is final and nothing is in flight.
};

/// What the exploration takes for granted, and the driver owes:
/// - A record ends `failed` only when no byte of it can have reached the disk; an I/O error is
///   `unknown`.
/// - Qemu::gone and qemu_gone mean that the process has ended, never that QMP does not answer.
/// - One holder of the journal at a time: a new sidecar and the watchdog read it under its lock,
/// and
///   wait for the lock of the one that died rather than give up.
/// - qmp_lost is posted when the monitor's connection ends or QEMU does not answer in time. The
///   driver then reconnects until that succeeds or QEMU has ended, reads what QEMU does, and posts
///   qmp_back. From a loss to qmp_back no other event of QEMU is posted, but qemu_gone.
/// - The watchdog acts only when the sidecar is dead, and as watchdog.hpp says.
/// - An operator's word is refused once the disks carry the tombstone.
///
/// What the machine asks of the driver. Each ends in exactly one Event::Kind::action_ended, also
/// when it is interrupted (then usually `unknown`). All are idempotent: asking again for one that
/// has already happened ends in `ok`. The machine sees no clock: when it asks again for what just
/// failed, the driver waits (with growing pauses) before it runs it.
enum class Action : std::uint8_t {
    check,  ///< Compare both ends; touches nothing. failed: refused; unknown: could not compare.
    record_begin,  ///< Durable: migration_id and destination. Before anything is made.
    prepare_destination,  ///< Peer: disks, QEMU `-S -incoming defer`, exports, its movers.
    prepare_network,  ///< Source-side movers, proved end to end.
    prepare_storage,  ///< Bitmap b0 on every disk, NBD server.
    /// Bulk and rounds until the delta is near; outlives short cuts of the link. link_lost: it did
    /// not come back within the link timeout.
    copy_disks,
    start_ram,  ///< Final export armed, capabilities set, `migrate` answered.
    fire_network,  ///< At STOP: addresses go to the destination, both families or neither.
    /// At pre-switchover, the disks still active: which blocks the last delta has.
    list_final,
    copy_final,  ///< The last delta, and a flush at the destination. Runs beside QEMU's own end.
    seal_destination,  ///< Peer flushes and deletes its exports; ok only when confirmed deleted.
    continue_migration,  ///< `migrate-continue` answered; `completed`/`failed` come as events.
    record_commit,  ///< Durable COMMIT. Runs beside set_images_aside.
    /// Every image of the source is renamed IMAGE.leaving-ID, durably: no QEMU can open it by its
    /// name. Only when QEMU has completed, because a failed migration may reopen a file by its
    /// name.
    set_images_aside,
    send_commit,  ///< acked | aborted | unknown. One try: waits for one answer, bounded.
    /// Durable: COMMIT is void. Only after ABORTED, an operator's word, or when it was never sent.
    record_rollback,
    interrupt,  ///< Ask every action in flight to end soon. Ends `ok` at once.
    /// The images have their names again, durably. Before the guest can run on the source. ok also
    /// when they had never lost them.
    restore_images,
    /// `migrate_cancel` answered; no effect when QEMU has completed. ok also when none runs.
    cancel_migration,
    /// ok only when query-status says `running`: waits out finish-migrate, `cont` in postmigrate.
    resume_source,
    rollback_network,  ///< Addresses and caught frames back to the source. Needs no peer.
    /// Peer records ABORTED, kills its QEMU, removes what it made. Best effort.
    abort_destination,
    drop_storage,  ///< Bitmaps, exports, NBD server of the source. ok when its QEMU is gone.
    drop_network,  ///< Source-side movers.
    tombstone_disks,  ///< The images are renamed IMAGE.moved-ID, from whichever name they have.
    settle_network,  ///< Stragglers forwarded until idle, then source-side movers removed.
    quit_source,  ///< QEMU `quit`; ok when its process has ended.
    record_end,  ///< Durable: the final outcome.
    finish,  ///< Report, free the session. The last action.
};
inline constexpr unsigned action_count = static_cast<unsigned>(Action::finish) + 1;

/// What the source's journal says of this migration_id: the highest of the records that are
/// durable. Each record has a place of its own there, so that a late write of a dead sidecar hides
/// no later one.
enum class Record : std::uint8_t {
    none,  ///< No migration of this guest.
    begun,  ///< record_begin: something may have been made.
    committed,  ///< record_commit.
    rolled_back,  ///< record_rollback after COMMIT.
    ended,  ///< record_end.
};

/// What a restarted sidecar finds QEMU doing (query-status, query-migrate).
enum class Qemu : std::uint8_t {
    running,  ///< Guest runs, no migration.
    /// The same, and an earlier sidecar left word, while it copied, of how far it was. (It takes
    /// that back before it does anything else: behind this nothing was fired and no RAM travels.)
    copying,
    migrating,  ///< Guest runs, RAM pre-copy under way.
    stopping,  ///< finish-migrate, before pre-switchover.
    /// finish-migrate, at pre-switchover or in device state; `migrate_cancel` may still help.
    paused_pre_switchover,
    postmigrate,  ///< Completed: `cont` would start the guest.
    stopped,  ///< Another stopped the guest (paused, io-error, ...), and continues it.
    gone,  ///< No QEMU.
};

/// What happened. Built with the functions below; fields that a kind does not use keep their
/// defaults.
struct Event {
    enum class Kind : std::uint8_t {
        action_ended,  ///< `action` ended as `result`.
        migrate_requested,  ///< The operator asks for the migration. Only in idle.
        cancel_requested,  ///< Ignored when may_cancel() is false; the driver answers from that.
        stop_seen,  ///< QMP STOP while RAM migrates.
        pre_switchover_seen,  ///< QMP MIGRATION pre-switchover.
        migration_completed,  ///< QMP MIGRATION completed (runstate postmigrate).
        /// QMP MIGRATION failed or cancelled: QEMU has restarted the guest or will.
        migration_failed,
        guest_resumed,  ///< QMP RESUME.
        /// The guest stopped, and not because of the migration: an operator, an I/O error.
        guest_stopped_by_others,
        qemu_gone,  ///< The source QEMU's process ended.
        qmp_lost,  ///< QEMU's monitor closed or does not answer.
        qmp_silent_too_long,  ///< qmp_lost, and reconnecting has failed for the limit.
        resume_requested,  ///< The operator continues a suspended copy.
        suspended_too_long,  ///< A suspended copy was not continued within its limit.
        peer_lost,  ///< Channel closed or heartbeat missed.
        peer_back,  ///< Channel authenticated again.
        peer_silent_too_long,  ///< peer_lost, and the patience of the copying phase is over.
        /// RAM is dirtied faster than it can be sent, and what may be done about it is done.
        ram_not_converging,
        downtime_limit_exceeded,  ///< STOP is longer ago than the pause limit.
        /// `side` owns the guest, says the operator, the other side being fenced.
        operator_resolved,
        qmp_back,  ///< Connected again; `qemu` is what it does now. Tells what was missed.
        /// A new sidecar found `record` in the journal and `qemu` in QEMU. First event of a fresh
        /// State.
        restarted,
    };
    Kind kind = Kind::migrate_requested;
    Action action = Action::check;
    ActionResult result = ActionResult::ok;
    Side side = Side::source;
    Record record = Record::none;
    Qemu qemu = Qemu::running;

    friend auto operator<=>(Event const&, Event const&) = default;
};

[[nodiscard]] constexpr Event action_ended(Action action, ActionResult result) {
    return {.kind = Event::Kind::action_ended, .action = action, .result = result};
}
[[nodiscard]] constexpr Event operator_resolved(Side side) {
    return {.kind = Event::Kind::operator_resolved, .side = side};
}
[[nodiscard]] constexpr Event restarted(Record record, Qemu qemu) {
    return {.kind = Event::Kind::restarted, .record = record, .qemu = qemu};
}
[[nodiscard]] constexpr Event qmp_back(Qemu qemu) {
    return {.kind = Event::Kind::qmp_back, .qemu = qemu};
}
/// An event that carries nothing: every kind but the four above.
[[nodiscard]] constexpr Event event(Event::Kind kind) { return {.kind = kind}; }

/// Things that may exist because an action that makes them was asked for; each has one undoing
/// action.
enum class Resource : std::uint8_t {
    destination,  ///< prepare_destination; abort_destination.
    network,  ///< prepare_network; drop_network (settle_network when moved).
    storage,  ///< prepare_storage; drop_storage (quit_source when moved).
    ram,  ///< start_ram; cancel_migration, then resume_source.
    fired,  ///< fire_network; rollback_network.
    images_aside,  ///< set_images_aside; restore_images (tombstone_disks when moved).
};

/// Tries of record_commit, and of each action that only tidies up.
inline constexpr unsigned tries_max = 2;

/// Whether the migration has its outcome without `action`: what fails `tries_max` times is left
/// undone, and the report says so.
[[nodiscard]] bool only_tidies_up(Action action);

/// What an operator has said of a migration in doubt.
enum class OperatorDecision : std::uint8_t { none, to_source, to_destination };

/// The whole memory of the source's machine: one fresh value per migration. Compare, copy, hash
/// at will.
struct State {
    Phase phase = Phase::idle;
    Outcome outcome = Outcome::none;
    Guest guest = Guest::source;
    Record record = Record::none;  ///< Last record known durable (begun also when it may be, ended
                                   ///< also when given up).
    OperatorDecision operator_decision =
        OperatorDecision::none;  ///< The operator's word; waits for send_commit to end.
    EnumSet<Action> in_flight;  ///< PendingRequest for and not ended.
    EnumSet<Resource> resources;  ///< Set when asked for, cleared when the undoing ended ok.
    bool peer_up = true;  ///< Assumed until peer_lost, also after `restarted`.
    bool pre_switchover = false;  ///< pre-switchover was seen.
    bool completed = false;  ///< RAM and device state are at the destination (postmigrate).
    bool sealed = false;  ///< The destination confirmed that its exports are gone.
    bool images_aside = false;  ///< set_images_aside ended ok: COMMIT may be sent.
    bool cancelled = false;  ///< Rolling back: QEMU has no migration any more.
    bool commit_unknown = false;  ///< record_commit ended unknown: COMMIT may be durable.
    bool commit_sent = false;  ///< COMMIT was sent, or may have been by a sidecar before this one.
    bool void_commit = false;  ///< A COMMIT never sent may be durable: it must be made void first.
    bool rollback_failed = false;  ///< The last record_rollback did: the destination is asked next.
    bool destination_aborted = false;  ///< It has recorded ABORTED, which makes COMMIT void.
    /// Times in a row that what is asked for again and again has ended badly; see tries_max.
    std::uint8_t failures = 0;
    bool guest_ran = false;  ///< RESUME was seen after STOP: COMMIT must not be sent.
    bool qemu_gone = false;  ///< The source's QEMU has ended.
    bool qmp_up = true;  ///< Assumed until qmp_lost, also after `restarted`.
    bool qmp_silent = false;  ///< qmp_silent_too_long, and no qmp_back since.
    bool guest_stopped = false;  ///< Another stopped the guest: only they continue it.
    bool suspending = false;  ///< Copying ends, to be suspended.
    bool tombstoned = false;  ///< tombstone_disks ended ok, or was given up.

    friend auto operator<=>(State const&, State const&) = default;
};

struct Step {
    State state;
    std::vector<Action> actions;  ///< In order; start all before waiting for the next event.
};

/// One transition: pure, total (an event that means nothing in a phase changes nothing). After
/// `finish` ended the state is `done` for good.
[[nodiscard]] Step step(State const& state, Event const& event);

/// Whether the migration is neither unbegun nor over. `outcome` does not say so: it is set as soon
/// as it is known, before the undoing or the settling, and to in_doubt for a while.
[[nodiscard]] bool under_way(State const& state);

/// Whether cancel_requested would be obeyed: a migration is under way, is not being rolled back
/// yet, and record_commit has not been asked for.
[[nodiscard]] bool may_cancel(State const& state);

/// Whether operator_resolved would be obeyed: COMMIT is durable and unanswered, or may be durable
/// and can be made void nowhere. The guest is paused until then.
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
