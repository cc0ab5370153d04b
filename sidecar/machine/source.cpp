// The source's machine: one function per phase, in the order of the phase table in
// docs/architecture.md.
//
// Used through step() only. Invariant: forward actions are asked for one at a time until STOP; from
// then on whatever does not need the other runs beside it. Undoing is driven by what `made` says,
// never by how far we got.
//
// Choices where the design leaves one:
// - record_commit that ended `unknown` may be durable. COMMIT has not been sent, so nobody else can
//   have acted on it, but a restart would read it and go forward; hence only going forward is
//   consistent: it is asked for again until `ok`, the guest paused, and a later `failed` does not
//   count. A first `failed` is certain: the guest goes back to running on the source.
// - A restart that finds QEMU completed or gone but no COMMIT records ROLLBACK before anything
//   else: the dead sidecar's COMMIT, never sent, may still be on its way to the disk, and ROLLBACK
//   outranks it. A restart that finds COMMIT recorded but the guest running (only somebody's hand
//   can do that) voids the record and keeps the guest: to send COMMIT would make a second copy run.
#include "sidecar/machine/source.hpp"

#include <utility>

#include "sidecar/machine/turn.hpp"

namespace sidecar::machine::source {

namespace {

using Kind = Event::Kind;

struct Turn : TurnOf<State, Action> {
    /// Asks whatever is in flight to end soon.
    void interrupt_others() {
        if (!state.in_flight.empty()) {
            ask_once(Action::interrupt);
        }
    }
    /// Asks for an action that makes something: from now on it may exist.
    void make(Action action, Made made) {
        state.made.insert(made);
        ask(action);
    }
};

// ---- what an event tells, whatever the phase ----------------------------------------------------

/// What the end of an action tells of records and of things made or removed.
void note_ending(State& state, Action action, Ending ending) {
    bool const ok = ending == Ending::ok;
    if (action == Action::record_begin && ending != Ending::failed) {
        state.record = Record::begun;  // unknown: it may be there, so it must be closed
    }
    if (action == Action::record_commit && ending == Ending::unknown) {
        state.commit_unknown = true;
    }
    if (!ok) {
        return;
    }
    switch (action) {
        case Action::record_commit:
            state.record = Record::committed;
            break;
        case Action::record_rollback:
            state.record = Record::rolled_back;
            state.void_commit = false;
            break;
        case Action::record_end:
            state.record = Record::ended;
            break;
        case Action::seal_destination:
            state.sealed = true;
            break;
        case Action::cancel_migration:
            state.cancelled = true;
            break;
        case Action::resume_source:
            state.made.erase(Made::ram);
            break;
        case Action::rollback_network:
            state.made.erase(Made::fired);
            break;
        case Action::drop_storage:
            state.made.erase(Made::storage);
            break;
        case Action::drop_network:
            state.made.erase(Made::network);
            break;
        case Action::tombstone_disks:
            state.tombstoned = true;
            break;
        case Action::settle_network:
            state.made.erase(Made::network);
            break;
        case Action::quit_source:
            state.made.erase(Made::storage);
            state.made.erase(Made::ram);
            break;
        default:
            break;
    }
}

void note(State& state, Event const& event) {
    switch (event.kind) {
        case Kind::action_ended:
            note_ending(state, event.action, event.ending);
            break;
        case Kind::peer_lost:
            state.peer_up = false;
            break;
        case Kind::peer_back:
            state.peer_up = true;
            break;
        case Kind::qemu_gone:
            state.qemu_gone = true;
            break;
        case Kind::pre_switchover_seen:
            state.pre_switchover = true;
            break;
        case Kind::guest_resumed:
            state.guest_ran |= state.phase == Phase::switching;
            break;
        default:
            break;
    }
}

// ---- rolling back -------------------------------------------------------------------------------

/// Undoes what may have been made: the guest and its addresses first and side by side, then, once
/// nothing forward is in flight any more, the rest, newest first.
void continue_rollback(Turn& turn) {
    State& state = turn.state;
    if (state.void_commit || state.record == Record::committed) {
        turn.ask_once(Action::record_rollback);  // nothing may run before COMMIT is void
        return;
    }
    if (state.qemu_gone) {
        state.guest = Guest::crashed_source;
        state.made.erase(Made::ram);
    }
    bool const ram_busy = turn.busy(Action::start_ram) || turn.busy(Action::cancel_migration) ||
                          turn.busy(Action::resume_source);
    if (state.made.contains(Made::ram) && !ram_busy) {
        turn.ask(state.cancelled ? Action::resume_source : Action::cancel_migration);
    }
    if (state.made.contains(Made::fired) && !turn.busy(Action::fire_network)) {
        turn.ask_once(Action::rollback_network);
    }
    if (!state.in_flight.empty()) {
        return;
    }
    if (state.made.contains(Made::destination)) {
        turn.ask(Action::abort_destination);
    } else if (state.made.contains(Made::storage)) {
        turn.ask(Action::drop_storage);
    } else if (state.made.contains(Made::network)) {
        turn.ask(Action::drop_network);
    } else if (state.record != Record::none && state.record != Record::ended) {
        turn.ask(Action::record_end);
    } else {
        turn.ask(Action::finish);
    }
}

/// The guest stays. What is in flight is asked to end; cancel_migration does not wait for it.
void roll_back(Turn& turn, Outcome outcome) {
    turn.state.phase = Phase::rolling_back;
    turn.state.outcome = outcome;
    turn.state.guest = Guest::source;
    turn.state.word = Word::none;
    turn.interrupt_others();
    continue_rollback(turn);
}

/// Every phase before COMMIT ends in this way when the operator cancels, when QEMU is gone, or when
/// `failed`. Returns whether it did.
bool gives_up(Turn& turn, Event const& event, bool failed) {
    if (event.kind == Kind::cancel_requested) {
        roll_back(turn, Outcome::cancelled);
        return true;
    }
    if (failed || event.kind == Kind::qemu_gone) {
        roll_back(turn, Outcome::failed);
        return true;
    }
    return false;
}

/// What ends a migration at any moment in which RAM migrates and the guest is stopped.
[[nodiscard]] bool fails_while_stopped(Event const& event) {
    return event.kind == Kind::peer_lost || event.kind == Kind::peer_silent_too_long ||
           event.kind == Kind::blackout_exceeded || event.kind == Kind::migration_failed ||
           event.kind == Kind::guest_resumed;
}

// ---- settling -----------------------------------------------------------------------------------

/// Only forward: the stale disk is marked before anything else, then the rest, each until it is ok.
void continue_settling(Turn& turn) {
    State& state = turn.state;
    if (!state.in_flight.empty()) {
        return;
    }
    if (!state.tombstoned) {
        turn.ask(Action::tombstone_disks);
    } else if (state.made.contains(Made::network)) {
        turn.ask(Action::settle_network);
    } else if (state.made.contains(Made::ram)) {
        turn.ask(Action::quit_source);
    } else if (state.record != Record::ended) {
        turn.ask(Action::record_end);
    } else {
        turn.ask(Action::finish);
    }
}

void settle(Turn& turn) {
    turn.state.phase = Phase::settling;
    turn.state.outcome = Outcome::moved;
    turn.state.guest = Guest::destination;
    turn.state.made.erase(Made::fired);  // the addresses are where they belong
    turn.state.made.erase(Made::destination);  // and so is the guest
    turn.interrupt_others();
    continue_settling(turn);
}

// ---- one function per phase ---------------------------------------------------------------------

/// A new sidecar: the journal and QEMU are all it knows, so everything may have been made.
void resume_from_journal(Turn& turn, Event const& event) {
    State& state = turn.state;
    state.record = event.record;
    state.qemu_gone = event.qemu == Qemu::gone;
    if (event.record == Record::none || event.record == Record::ended) {
        return;
    }
    for (Made made : {Made::destination, Made::network, Made::storage, Made::ram, Made::fired}) {
        state.made.insert(made);
    }
    bool const guest_runs =
        event.qemu == Qemu::running || event.qemu == Qemu::copying || event.qemu == Qemu::migrating;
    if (event.record == Record::committed && !guest_runs) {
        state.phase = Phase::in_doubt;
        state.outcome = Outcome::in_doubt;
        state.guest = Guest::unknown;
        turn.ask(Action::send_commit);
        return;
    }
    if (event.record == Record::begun && event.qemu == Qemu::copying) {
        state.phase = Phase::preparing;  // each step again: what is there already is kept
        turn.ask(Action::prepare_destination);
        return;
    }
    bool const may_have_completed = event.qemu == Qemu::postmigrate || event.qemu == Qemu::gone;
    state.void_commit = event.record == Record::begun && may_have_completed;
    roll_back(turn, Outcome::failed);
}

void idle(Turn& turn, Event const& event) {
    if (event.kind == Kind::restarted) {
        resume_from_journal(turn, event);
    } else if (event.kind == Kind::migrate_requested) {
        turn.state = {};  // what was heard while nothing was asked for is of no account
        turn.state.phase = Phase::checking;
        turn.ask(Action::check);
    }
}

void checking(Turn& turn, Event const& event) {
    if (gives_up(turn, event, false)) {
        return;
    }
    if (ended_badly(event, Action::check) || ended_badly(event, Action::record_begin)) {
        roll_back(turn, Outcome::refused);
    } else if (ended_ok(event, Action::check)) {
        turn.ask(Action::record_begin);
    } else if (ended_ok(event, Action::record_begin)) {
        turn.state.phase = Phase::preparing;
        turn.make(Action::prepare_destination, Made::destination);
    }
}

void preparing(Turn& turn, Event const& event) {
    bool const failed = event.kind == Kind::peer_silent_too_long ||
                        ended_badly(event, Action::prepare_destination) ||
                        ended_badly(event, Action::prepare_network) ||
                        ended_badly(event, Action::prepare_storage);
    if (gives_up(turn, event, failed)) {
        return;
    }
    if (ended_ok(event, Action::prepare_destination)) {
        turn.make(Action::prepare_network, Made::network);
    } else if (ended_ok(event, Action::prepare_network)) {
        turn.make(Action::prepare_storage, Made::storage);
    } else if (ended_ok(event, Action::prepare_storage)) {
        turn.state.phase = Phase::copying;
        turn.ask(Action::copy_disks);
    }
}

void copying(Turn& turn, Event const& event) {
    bool const failed =
        event.kind == Kind::peer_silent_too_long || ended_badly(event, Action::copy_disks);
    if (gives_up(turn, event, failed)) {
        return;
    }
    if (ended_ok(event, Action::copy_disks)) {
        turn.state.phase = Phase::converging;
        turn.make(Action::start_ram, Made::ram);
    }
}

/// STOP can overtake the answer to `migrate`; a `completed` here means that QEMU did not wait for
/// us at pre-switchover: the destination's disks are not final, so the guest stays.
void converging(Turn& turn, Event const& event) {
    bool const stops = event.kind == Kind::stop_seen || event.kind == Kind::pre_switchover_seen;
    bool const failed = event.kind == Kind::peer_silent_too_long ||
                        event.kind == Kind::migration_failed ||
                        event.kind == Kind::migration_completed ||
                        ended_badly(event, Action::start_ram) || (stops && !turn.state.peer_up);
    if (gives_up(turn, event, failed) || !stops) {
        return;
    }
    turn.state.phase = Phase::stopped;
    turn.make(Action::fire_network, Made::fired);
    if (turn.state.pre_switchover) {
        turn.ask(Action::list_final);
    }
}

void stopped(Turn& turn, Event const& event) {
    bool const failed = fails_while_stopped(event) || event.kind == Kind::migration_completed ||
                        ended_badly(event, Action::start_ram) ||
                        ended_badly(event, Action::fire_network) ||
                        ended_badly(event, Action::list_final);
    if (gives_up(turn, event, failed)) {
        return;
    }
    if (event.kind == Kind::pre_switchover_seen) {
        turn.ask(Action::list_final);
    } else if (ended_ok(event, Action::list_final)) {
        turn.state.phase = Phase::switching;
        turn.ask(Action::copy_final);
        turn.ask(Action::continue_migration);
    }
}

/// record_commit is under way: only its end counts, because it may be durable already.
void recording_commit(Turn& turn, Event const& event) {
    if (!ended(event, Action::record_commit)) {
        return;
    }
    if (event.ending == Ending::ok) {
        if (turn.state.guest_ran) {
            roll_back(turn, Outcome::failed);  // somebody resumed it: COMMIT is void and never sent
            return;
        }
        turn.state.phase = Phase::committed;
        turn.state.guest = Guest::unknown;
        turn.ask(Action::send_commit);
    } else if (event.ending == Ending::failed && !turn.state.commit_unknown) {
        roll_back(turn, Outcome::failed);
    } else {
        turn.ask(Action::record_commit);
    }
}

/// Three things end side by side: the delta and then the seal, QEMU's device state, the network.
/// COMMIT needs them all.
void switching(Turn& turn, Event const& event) {
    if (turn.busy(Action::record_commit) || ended(event, Action::record_commit)) {
        recording_commit(turn, event);
        return;
    }
    bool const failed = fails_while_stopped(event) || ended_badly(event, Action::start_ram) ||
                        ended_badly(event, Action::fire_network) ||
                        ended_badly(event, Action::copy_final) ||
                        ended_badly(event, Action::seal_destination) ||
                        ended_badly(event, Action::continue_migration);
    if (gives_up(turn, event, failed)) {
        return;
    }
    turn.state.completed |= event.kind == Kind::migration_completed;
    if (ended_ok(event, Action::copy_final)) {
        turn.ask(Action::seal_destination);
    }
    if (turn.state.completed && turn.state.sealed && !turn.busy(Action::fire_network)) {
        turn.ask(Action::record_commit);
    }
}

/// The destination has the last word, an operator's counts only where it has said nothing.
void answer_to_commit(Turn& turn, Ending ending) {
    State& state = turn.state;
    if (ending == Ending::acked) {
        settle(turn);
    } else if (ending == Ending::aborted || state.word == Word::to_source) {
        roll_back(turn, Outcome::failed);
    } else if (state.word == Word::to_destination) {
        settle(turn);
    } else {
        state.phase = Phase::in_doubt;
        state.outcome = Outcome::in_doubt;
        if (state.peer_up) {
            turn.ask(Action::send_commit);
        }
    }
}

void committed(Turn& turn, Event const& event) {
    if (ended(event, Action::send_commit)) {
        answer_to_commit(turn, event.ending);
    } else if (event.kind == Kind::operator_resolved) {
        turn.state.word = event.side == Side::source ? Word::to_source : Word::to_destination;
        if (turn.busy(Action::send_commit)) {
            turn.interrupt_others();
        } else {
            answer_to_commit(turn, Ending::unknown);
        }
    }
}

void in_doubt(Turn& turn, Event const& event) {
    if (event.kind == Kind::peer_back) {
        turn.ask_once(Action::send_commit);
    } else {
        committed(turn, event);
    }
}

void rolling_back(Turn& turn, Event const& event) {
    if (ended(event, Action::abort_destination) &&
        (event.ending != Ending::unknown || !turn.state.peer_up)) {
        // Refused or out of reach: the destination's own patience removes what is left there.
        turn.state.made.erase(Made::destination);
    }
    if (ended_badly(event, Action::resume_source)) {
        turn.state.cancelled = false;  // a migration may still hold the guest: cancel again first
    }
    if (ended(event, Action::finish)) {
        turn.state.phase = Phase::done;
        return;
    }
    continue_rollback(turn);
}

void settling(Turn& turn, Event const& event) {
    if (ended(event, Action::finish)) {
        turn.state.phase = Phase::done;
        return;
    }
    continue_settling(turn);
}

}  // namespace

Step step(State const& state, Event const& event) {
    Turn turn{{.state = state, .actions = {}}};
    bool const ending = event.kind == Kind::action_ended;
    bool const repeated = event.kind == Kind::pre_switchover_seen && state.pre_switchover;
    if (repeated || (ending && !state.in_flight.contains(event.action))) {
        return {.state = state, .actions = {}};
    }
    if (ending) {
        turn.state.in_flight.erase(event.action);
    }
    note(turn.state, event);
    switch (state.phase) {
        case Phase::idle:
            idle(turn, event);
            break;
        case Phase::checking:
            checking(turn, event);
            break;
        case Phase::preparing:
            preparing(turn, event);
            break;
        case Phase::copying:
            copying(turn, event);
            break;
        case Phase::converging:
            converging(turn, event);
            break;
        case Phase::stopped:
            stopped(turn, event);
            break;
        case Phase::switching:
            switching(turn, event);
            break;
        case Phase::committed:
            committed(turn, event);
            break;
        case Phase::settling:
            settling(turn, event);
            break;
        case Phase::rolling_back:
            rolling_back(turn, event);
            break;
        case Phase::in_doubt:
            in_doubt(turn, event);
            break;
        case Phase::done:
            break;
    }
    return {.state = turn.state, .actions = std::move(turn.actions)};
}

bool under_way(State const& state) {
    return state.phase != Phase::idle && state.phase != Phase::done;
}

bool may_cancel(State const& state) {
    switch (state.phase) {
        case Phase::checking:
        case Phase::preparing:
        case Phase::copying:
        case Phase::converging:
        case Phase::stopped:
            return true;
        case Phase::switching:
            return !state.in_flight.contains(Action::record_commit);
        default:
            return false;
    }
}

bool may_resolve(State const& state) {
    return state.phase == Phase::committed || state.phase == Phase::in_doubt;
}

}  // namespace sidecar::machine::source
