// The destination's machine: one function per phase, in the order a migration goes through them.
//
// Used through step() only. Invariant: `cont` is asked for only behind a durable OWNER, OWNER only
// behind COMMIT, loaded RAM and exports confirmed gone; a refusal of COMMIT only behind a durable
// ABORTED.
//
// Choices where the design leaves one:
// - record_owner that ended `failed` certainly left no OWNER: the destination records ABORTED and
//   says so, and the guest goes on at the source. One that ended `unknown` may have: it is asked
//   for again until `ok`, the guest paused on both sides, and a later `failed` does not count.
// - Its own patience (peer_silent_too_long) ends in ABORTED while nothing is recorded and OWNER is
//   not under way; never after.
// - ABORTED is told to a source that waits with its guest paused as soon as it is durable, to one
//   that only cleans up when everything is removed: to remove it takes a while, in which the frames
//   that came here are kept for the source to ask for. `seal` is refused at once: whoever asks for
//   it has not sent COMMIT, so nothing needs to be durable.
#include "sidecar/machine/destination.hpp"

#include <utility>

#include "sidecar/machine/turn.hpp"

namespace sidecar::machine::destination {

namespace {

using Kind = Event::Kind;

struct Turn : TurnOf<State, Action> {
    /// Sends `action` if the source waits for the answer to `asked`; it then no longer does.
    void reply(Asked asked, Action action) {
        if (state.asked == asked && !busy(action)) {
            state.asked = Asked::nothing;
            ask(action);
        }
    }
};

[[nodiscard]] bool is_owner(Record record) {
    return record == Record::owner || record == Record::ended_owner;
}

// ---- what an event tells, whatever the phase ----------------------------------------------------

void note_ending(State& state, Action action, Ending ending) {
    if (action == Action::record_owner && ending == Ending::unknown) {
        state.owner_unknown = true;
    }
    if (ending != Ending::ok) {
        return;
    }
    switch (action) {
        case Action::seal:
            state.exports_gone = true;
            break;
        case Action::record_owner:
            state.record = Record::owner;
            break;
        case Action::record_aborted:
            state.record = Record::aborted;
            break;
        case Action::announce_network:
            state.announced = true;
            break;
        case Action::destroy:
            state.destroyed = true;
            break;
        case Action::record_end:
            state.record = is_owner(state.record) ? Record::ended_owner : Record::ended_aborted;
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
        case Kind::prepare_requested:
            state.asked = Asked::prepare;
            break;
        case Kind::seal_requested:
            state.asked = Asked::seal;
            break;
        case Kind::commit_received:
            state.asked = Asked::commit;
            break;
        case Kind::abort_requested:
            state.asked = Asked::abort;
            break;
        case Kind::qemu_loaded:
            state.loaded = true;
            break;
        case Kind::qemu_gone:
            state.qemu_gone = true;
            break;
        default:
            break;
    }
}

// ---- aborting -----------------------------------------------------------------------------------

/// ABORTED first, then everything goes, and whoever asked hears of it; but a `seal` is refused at
/// once.
void continue_aborting(Turn& turn) {
    State& state = turn.state;
    turn.reply(Asked::seal, Action::reply_refused);
    if (state.record == Record::none) {
        turn.ask_once(Action::record_aborted);
        return;
    }
    turn.reply(Asked::commit, Action::reply_aborted);
    if (!state.destroyed) {
        if (!turn.busy(Action::prepare) && !turn.busy(Action::seal)) {
            turn.ask_once(Action::destroy);
        }
        return;
    }
    turn.reply(Asked::abort, Action::reply_aborted);
    turn.reply(Asked::prepare, Action::reply_refused);
    if (state.record == Record::aborted) {
        turn.ask_once(Action::record_end);
    } else {
        turn.ask_once(Action::finish);
    }
}

void abort(Turn& turn) {
    turn.state.phase = Phase::aborting;
    continue_aborting(turn);
}

/// What makes the destination give up while nothing is recorded and OWNER is not under way.
[[nodiscard]] bool gives_up(Event const& event) {
    return event.kind == Kind::abort_requested || event.kind == Kind::peer_silent_too_long ||
           event.kind == Kind::qemu_gone;
}

// ---- running ------------------------------------------------------------------------------------

/// The guest is ours (running, or crashed since): tell the source, tell the network, close the
/// record.
void continue_running(Turn& turn) {
    State& state = turn.state;
    turn.reply(Asked::commit, Action::reply_ack);
    turn.reply(Asked::abort, Action::reply_refused);
    turn.reply(Asked::prepare, Action::reply_refused);
    turn.reply(Asked::seal, Action::reply_refused);
    if (!state.announced && !state.qemu_gone) {
        turn.ask_once(Action::announce_network);
    } else if (state.record == Record::owner) {
        turn.ask_once(Action::record_end);
    } else {
        turn.ask_once(Action::finish);
    }
}

// ---- owning -------------------------------------------------------------------------------------

/// Seal if need be, OWNER, `cont`. Up to OWNER it may still turn into an abort.
void continue_owning(Turn& turn) {
    State& state = turn.state;
    if (is_owner(state.record)) {
        if (state.qemu_gone) {
            state.phase = Phase::running;  // it crashed here, and is here to be started again
            continue_running(turn);
        } else {
            turn.ask_once(Action::start_guest);
        }
        return;
    }
    if (turn.busy(Action::record_owner)) {
        return;
    }
    if (state.owner_unknown) {
        turn.ask(Action::record_owner);  // also when QEMU is gone: OWNER may be durable already
    } else if (state.loaded && !state.exports_gone) {
        turn.ask_once(Action::seal);
    } else if (state.loaded) {
        turn.ask(Action::record_owner);
    }
}

// ---- one function per phase ---------------------------------------------------------------------

/// A new sidecar: the journal and QEMU are all it knows. What may be open is closed again before
/// OWNER.
void resume_from_journal(Turn& turn, Event const& event) {
    State& state = turn.state;
    state.record = event.record;
    state.qemu_gone = event.qemu == Qemu::gone;
    state.loaded = event.qemu == Qemu::loaded || event.qemu == Qemu::running;
    switch (event.record) {
        case Record::none:
            if (event.qemu == Qemu::waiting || event.qemu == Qemu::loaded) {
                state.phase = Phase::prepared;
            } else {
                abort(turn);
            }
            break;
        case Record::owner:
            state.phase = event.qemu == Qemu::running ? Phase::running : Phase::owning;
            if (state.phase == Phase::running) {
                continue_running(turn);
            } else {
                continue_owning(turn);
            }
            break;
        case Record::aborted:
            abort(turn);
            break;
        case Record::ended_owner:
        case Record::ended_aborted:
            state.phase = Phase::done;
            break;
    }
}

/// A COMMIT or an abort for an epoch never prepared here ends in ABORTED too: the answer must
/// stand.
void idle(Turn& turn, Event const& event) {
    switch (event.kind) {
        case Kind::restarted:
            resume_from_journal(turn, event);
            break;
        case Kind::prepare_requested:
            turn.state.phase = Phase::preparing;
            turn.ask(Action::prepare);
            break;
        case Kind::seal_requested:
        case Kind::commit_received:
        case Kind::abort_requested:
            abort(turn);
            break;
        default:
            break;
    }
}

void preparing(Turn& turn, Event const& event) {
    if (ended_ok(event, Action::prepare) && !turn.state.qemu_gone) {
        turn.state.phase = Phase::prepared;
        turn.reply(Asked::prepare, Action::reply_prepared);
    } else if (ended(event, Action::prepare) || gives_up(event) ||
               event.kind == Kind::seal_requested || event.kind == Kind::commit_received) {
        abort(turn);
    }
}

/// QEMU died while the disks were copied into it: they are still there, and the source copies what
/// died with it again. Not once RAM has begun to come: then it dies with QEMU.
[[nodiscard]] bool only_qemu_is_lost(Turn const& turn, Event const& event) {
    return turn.state.phase == Phase::prepared && event.kind == Kind::qemu_gone &&
           event.qemu == Qemu::waiting && !turn.busy(Action::seal) && !turn.state.exports_gone;
}

/// prepared and sealed: obeys whatever comes.
void waiting(Turn& turn, Event const& event) {
    if (only_qemu_is_lost(turn, event)) {
        turn.state.phase = Phase::bereft;
        return;
    }
    if (gives_up(event)) {
        abort(turn);
        return;
    }
    if (event.kind == Kind::commit_received) {
        turn.state.phase = Phase::owning;
        continue_owning(turn);
        return;
    }
    turn.reply(Asked::prepare, Action::reply_prepared);
    if (turn.state.exports_gone) {
        turn.state.phase = Phase::sealed;
        turn.reply(Asked::seal, Action::reply_sealed);
    } else if (ended_badly(event, Action::seal)) {
        turn.reply(Asked::seal, Action::reply_refused);
    } else if (turn.state.asked == Asked::seal) {
        turn.ask_once(Action::seal);
    }
}

/// A source that copies asks for `prepare` again; one that asks for anything else is further.
void bereft(Turn& turn, Event const& event) {
    if (event.kind == Kind::prepare_requested) {
        turn.state.qemu_gone = false;
        turn.state.phase = Phase::preparing;
        turn.ask(Action::prepare);
    } else if (gives_up(event) || event.kind == Kind::seal_requested ||
               event.kind == Kind::commit_received) {
        abort(turn);
    }
}

void owning(Turn& turn, Event const& event) {
    bool const recording =
        turn.busy(Action::record_owner) || turn.state.owner_unknown || is_owner(turn.state.record);
    bool const failed =
        ended_badly(event, Action::seal) || ended_badly(event, Action::record_owner);
    if (!recording && (failed || gives_up(event))) {
        if (failed) {
            turn.state.asked = Asked::commit;
        }
        abort(turn);
        return;
    }
    if (ended_ok(event, Action::start_guest)) {
        turn.state.phase = Phase::running;
        turn.state.asked = Asked::commit;
        continue_running(turn);
        return;
    }
    continue_owning(turn);
}

void running(Turn& turn, Event const& event) {
    if (ended(event, Action::finish)) {
        turn.state.phase = Phase::done;
        return;
    }
    continue_running(turn);
}

void aborting(Turn& turn, Event const& event) {
    if (ended(event, Action::finish)) {
        turn.state.phase = Phase::done;
        return;
    }
    continue_aborting(turn);
}

/// A source whose answer was lost asks again, perhaps after a restart of both: the record answers.
void done(Turn& turn) {
    bool const owner = is_owner(turn.state.record);
    turn.reply(Asked::commit, owner ? Action::reply_ack : Action::reply_aborted);
    turn.reply(Asked::abort, owner ? Action::reply_refused : Action::reply_aborted);
    turn.reply(Asked::prepare, Action::reply_refused);
    turn.reply(Asked::seal, Action::reply_refused);
}

}  // namespace

Step step(State const& state, Event const& event) {
    Turn turn{{.state = state, .actions = {}}};
    if (event.kind == Kind::action_ended) {
        if (!state.in_flight.contains(event.action)) {
            return {.state = state, .actions = {}};
        }
        turn.state.in_flight.erase(event.action);
    }
    note(turn.state, event);
    switch (state.phase) {
        case Phase::idle:
            idle(turn, event);
            break;
        case Phase::preparing:
            preparing(turn, event);
            break;
        case Phase::prepared:
        case Phase::sealed:
            waiting(turn, event);
            break;
        case Phase::bereft:
            bereft(turn, event);
            break;
        case Phase::owning:
            owning(turn, event);
            break;
        case Phase::running:
            running(turn, event);
            break;
        case Phase::aborting:
            aborting(turn, event);
            break;
        case Phase::done:
            done(turn);
            break;
    }
    return {.state = turn.state, .actions = std::move(turn.actions)};
}

bool owns_guest(State const& state) { return is_owner(state.record); }

}  // namespace sidecar::machine::destination
