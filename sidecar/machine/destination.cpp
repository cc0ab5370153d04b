// The destination's machine: one function per phase, in the order a migration goes through them.
//
// Used through step() only. Invariant: `cont` is asked for only after a durable OWNER. OWNER is
// asked for only after COMMIT, loaded RAM and confirmed deletion of the exports. COMMIT is refused
// only after a durable ABORTED.
//
// Choices where the design leaves one:
// - If record_owner ended `failed`, there is certainly no OWNER. The destination records ABORTED
//   and reports it, and the guest continues on the source. If record_owner ended `unknown`, OWNER
//   may be durable. The record is then asked for again until it ends `ok`. The guest stays paused
//   on both sides, and a later `failed` does not count.
// - The destination's own timeout (peer_silent_too_long) ends in ABORTED only while nothing is
//   recorded and OWNER is not under way.
// - To a source that waits with its guest paused, the destination reports ABORTED as soon as it is
//   durable. To a source that only cleans up, it reports it when everything is removed. Removal
//   takes a while; during it the source can ask for the frames that were caught here.
// - `seal` is refused at once: a source that asks for it has not sent COMMIT, so nothing needs to
//   be durable.
#include "sidecar/machine/destination.hpp"

#include <utility>

#include "sidecar/machine/step_builder.hpp"

namespace sidecar::machine::destination {

namespace {

using Kind = Event::Kind;

struct Builder : StepBuilder<State, Action> {
    /// Sends `action` if the source waits for the answer to `request`; it then no longer does.
    void reply(PendingRequest request, Action action) {
        if (state.pending_request == request && !busy(action)) {
            state.pending_request = PendingRequest::nothing;
            ask(action);
        }
    }
};

[[nodiscard]] bool is_owner(Record record) {
    return record == Record::owner || record == Record::ended_owner;
}

// ---- what an event means in every phase ---------------------------------------------------------

void note_result(State& state, Action action, ActionResult result) {
    if (action == Action::record_owner && result == ActionResult::unknown) {
        state.owner_unknown = true;
    }
    if (result != ActionResult::ok) {
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
            note_result(state, event.action, event.result);
            break;
        case Kind::prepare_requested:
            state.pending_request = PendingRequest::prepare;
            break;
        case Kind::seal_requested:
            state.pending_request = PendingRequest::seal;
            break;
        case Kind::commit_received:
            state.pending_request = PendingRequest::commit;
            break;
        case Kind::abort_requested:
            state.pending_request = PendingRequest::abort;
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

/// First ABORTED, then everything is removed, then the waiting request is answered. A `seal` is
/// refused at once.
void continue_aborting(Builder& builder) {
    State& state = builder.state;
    builder.reply(PendingRequest::seal, Action::reply_refused);
    if (state.record == Record::none) {
        builder.ask_once(Action::record_aborted);
        return;
    }
    builder.reply(PendingRequest::commit, Action::reply_aborted);
    if (!state.destroyed) {
        if (!builder.busy(Action::prepare) && !builder.busy(Action::seal)) {
            builder.ask_once(Action::destroy);
        }
        return;
    }
    builder.reply(PendingRequest::abort, Action::reply_aborted);
    builder.reply(PendingRequest::prepare, Action::reply_refused);
    if (state.record == Record::aborted) {
        builder.ask_once(Action::record_end);
    } else {
        builder.ask_once(Action::finish);
    }
}

void abort(Builder& builder) {
    builder.state.phase = Phase::aborting;
    continue_aborting(builder);
}

/// The events that make the destination abort while nothing is recorded and OWNER is not under way.
[[nodiscard]] bool gives_up(Event const& event) {
    return event.kind == Kind::abort_requested || event.kind == Kind::peer_silent_too_long ||
           event.kind == Kind::qemu_gone || event.kind == Kind::qemu_silent_too_long;
}

// ---- running ------------------------------------------------------------------------------------

/// The guest belongs to the destination (it runs, or has crashed since). Acknowledge COMMIT to the
/// source, announce the guest in the network, close the record.
void continue_running(Builder& builder) {
    State& state = builder.state;
    builder.reply(PendingRequest::commit, Action::reply_ack);
    builder.reply(PendingRequest::abort, Action::reply_refused);
    builder.reply(PendingRequest::prepare, Action::reply_refused);
    builder.reply(PendingRequest::seal, Action::reply_refused);
    if (!state.announced && !state.qemu_gone) {
        builder.ask_once(Action::announce_network);
    } else if (state.record == Record::owner) {
        builder.ask_once(Action::record_end);
    } else {
        builder.ask_once(Action::finish);
    }
}

// ---- owning -------------------------------------------------------------------------------------

/// Seal if necessary, then OWNER, then `cont` unless the guest was stopped. Until OWNER is asked
/// for, this can still become an abort.
void continue_owning(Builder& builder) {
    State& state = builder.state;
    if (is_owner(state.record)) {
        if (state.qemu_gone) {
            state.phase = Phase::running;  // it crashed here and can be started here again
            continue_running(builder);
        } else {
            builder.ask_once(state.stopped ? Action::leave_stopped : Action::start_guest);
        }
        return;
    }
    if (builder.busy(Action::record_owner)) {
        return;
    }
    if (state.owner_unknown) {
        builder.ask(Action::record_owner);  // even if QEMU is gone: OWNER may be durable already
    } else if (state.loaded && !state.exports_gone) {
        builder.ask_once(Action::seal);
    } else if (state.loaded) {
        builder.ask(Action::record_owner);
    }
}

// ---- one function per phase ---------------------------------------------------------------------

/// A new sidecar knows only the journal and QEMU's state. Exports that may be open are closed again
/// before OWNER.
void resume_from_journal(Builder& builder, Event const& event) {
    State& state = builder.state;
    state.record = event.record;
    state.qemu_gone = event.qemu == Qemu::gone;
    state.loaded = event.qemu == Qemu::loaded || event.qemu == Qemu::running;
    state.stopped = event.stopped;
    switch (event.record) {
        case Record::none:
            if (event.qemu == Qemu::waiting || event.qemu == Qemu::loaded) {
                state.phase = Phase::prepared;
            } else {
                abort(builder);
            }
            break;
        case Record::owner:
            state.phase = event.qemu == Qemu::running ? Phase::running : Phase::owning;
            if (state.phase == Phase::running) {
                continue_running(builder);
            } else {
                continue_owning(builder);
            }
            break;
        case Record::aborted:
            abort(builder);
            break;
        case Record::ended_owner:
        case Record::ended_aborted:
            state.phase = Phase::done;
            break;
    }
}

/// A COMMIT or an abort for a migration_id that was never prepared here also ends in ABORTED, so
/// that later answers are the same.
void idle(Builder& builder, Event const& event) {
    switch (event.kind) {
        case Kind::restarted:
            resume_from_journal(builder, event);
            break;
        case Kind::prepare_requested:
            builder.state.phase = Phase::preparing;
            builder.state.stopped = event.stopped;
            builder.ask(Action::prepare);
            break;
        case Kind::seal_requested:
        case Kind::commit_received:
        case Kind::abort_requested:
            abort(builder);
            break;
        default:
            break;
    }
}

void preparing(Builder& builder, Event const& event) {
    if (ended_ok(event, Action::prepare) && !builder.state.qemu_gone) {
        builder.state.phase = Phase::prepared;
        builder.reply(PendingRequest::prepare, Action::reply_prepared);
    } else if (ended(event, Action::prepare) || gives_up(event) ||
               event.kind == Kind::seal_requested || event.kind == Kind::commit_received) {
        abort(builder);
    }
}

/// QEMU died while the disks were copied into it. The images remain, and the source copies again
/// what QEMU had not flushed. This holds only before RAM arrives: RAM is lost with QEMU.
[[nodiscard]] bool only_qemu_is_lost(Builder const& builder, Event const& event) {
    return builder.state.phase == Phase::prepared && event.kind == Kind::qemu_gone &&
           event.qemu == Qemu::waiting && !builder.busy(Action::seal) &&
           !builder.state.exports_gone;
}

/// prepared and sealed: carries out each request.
void waiting(Builder& builder, Event const& event) {
    if (only_qemu_is_lost(builder, event)) {
        builder.state.phase = Phase::qemu_lost;
        return;
    }
    if (gives_up(event)) {
        abort(builder);
        return;
    }
    if (event.kind == Kind::commit_received) {
        builder.state.phase = Phase::owning;
        continue_owning(builder);
        return;
    }
    builder.reply(PendingRequest::prepare, Action::reply_prepared);
    if (builder.state.exports_gone) {
        builder.state.phase = Phase::sealed;
        builder.reply(PendingRequest::seal, Action::reply_sealed);
    } else if (ended_badly(event, Action::seal)) {
        builder.reply(PendingRequest::seal, Action::reply_refused);
    } else if (builder.state.pending_request == PendingRequest::seal) {
        builder.ask_once(Action::seal);
    }
}

/// A source in the copying phase asks for `prepare` again. Any other request means that the source
/// is past that phase.
void qemu_lost(Builder& builder, Event const& event) {
    if (event.kind == Kind::prepare_requested) {
        builder.state.qemu_gone = false;
        builder.state.phase = Phase::preparing;
        builder.ask(Action::prepare);
    } else if (gives_up(event) || event.kind == Kind::seal_requested ||
               event.kind == Kind::commit_received) {
        abort(builder);
    }
}

void owning(Builder& builder, Event const& event) {
    bool const recording = builder.busy(Action::record_owner) || builder.state.owner_unknown ||
                           is_owner(builder.state.record);
    bool const failed =
        ended_badly(event, Action::seal) || ended_badly(event, Action::record_owner);
    if (!recording && (failed || gives_up(event))) {
        if (failed) {
            builder.state.pending_request = PendingRequest::commit;
        }
        abort(builder);
        return;
    }
    if (ended_ok(event, Action::start_guest) || ended_ok(event, Action::leave_stopped)) {
        builder.state.phase = Phase::running;
        builder.state.pending_request = PendingRequest::commit;
        continue_running(builder);
        return;
    }
    continue_owning(builder);
}

void running(Builder& builder, Event const& event) {
    if (ended(event, Action::finish)) {
        builder.state.phase = Phase::done;
        return;
    }
    continue_running(builder);
}

void aborting(Builder& builder, Event const& event) {
    if (ended(event, Action::finish)) {
        builder.state.phase = Phase::done;
        return;
    }
    continue_aborting(builder);
}

/// A source that missed the answer asks again, possibly after both sidecars restarted:
/// the record answers.
void done(Builder& builder) {
    bool const owner = is_owner(builder.state.record);
    builder.reply(PendingRequest::commit, owner ? Action::reply_ack : Action::reply_aborted);
    builder.reply(PendingRequest::abort, owner ? Action::reply_refused : Action::reply_aborted);
    builder.reply(PendingRequest::prepare, Action::reply_refused);
    builder.reply(PendingRequest::seal, Action::reply_refused);
}

}  // namespace

Step step(State const& state, Event const& event) {
    Builder builder{{.state = state, .actions = {}}};
    if (event.kind == Kind::action_ended) {
        if (!state.in_flight.contains(event.action)) {
            return {.state = state, .actions = {}};
        }
        builder.state.in_flight.erase(event.action);
    }
    note(builder.state, event);
    switch (state.phase) {
        case Phase::idle:
            idle(builder, event);
            break;
        case Phase::preparing:
            preparing(builder, event);
            break;
        case Phase::prepared:
        case Phase::sealed:
            waiting(builder, event);
            break;
        case Phase::qemu_lost:
            qemu_lost(builder, event);
            break;
        case Phase::owning:
            owning(builder, event);
            break;
        case Phase::running:
            running(builder, event);
            break;
        case Phase::aborting:
            aborting(builder, event);
            break;
        case Phase::done:
            done(builder);
            break;
    }
    return {.state = builder.state, .actions = std::move(builder.actions)};
}

bool owns_guest(State const& state) { return is_owner(state.record); }

bool has_exports(State const& state) { return state.phase == Phase::prepared; }

bool offers_by_prepare(State const& state) {
    return state.phase == Phase::qemu_lost || state.phase == Phase::preparing;
}

bool may_fire(State const& state) {
    return state.phase == Phase::prepared || state.phase == Phase::sealed;
}

bool may_return_frames(State const& state) {
    return state.phase != Phase::owning && !owns_guest(state);
}

bool may_take_connections(State const& state) {
    return may_fire(state) || state.phase == Phase::owning || state.phase == Phase::running ||
           owns_guest(state);
}

}  // namespace sidecar::machine::destination
