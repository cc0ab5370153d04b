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

#include "sidecar/machine/step_builder.hpp"

namespace sidecar::machine::source {

namespace {

using Kind = Event::Kind;

struct Builder : StepBuilder<State, Action> {
    /// Asks whatever is in flight to end soon.
    void interrupt_others() {
        if (!state.in_flight.empty()) {
            ask_once(Action::interrupt);
        }
    }
    /// Asks for an action that makes something: from now on it may exist.
    void make(Action action, Resource resource) {
        state.resources.insert(resource);
        ask(action);
    }
};

// ---- what an event tells, whatever the phase ----------------------------------------------------

/// What the end of an action tells of records and of things made or removed.
void note_result(State& state, Action action, ActionResult result) {
    bool const ok = result == ActionResult::ok;
    if (action == Action::record_begin && result != ActionResult::failed) {
        state.record = Record::begun;  // unknown: it may be there, so it must be closed
    }
    if (action == Action::record_commit && result == ActionResult::unknown) {
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
            state.resources.erase(Resource::ram);
            break;
        case Action::rollback_network:
            state.resources.erase(Resource::fired);
            break;
        case Action::drop_storage:
            state.resources.erase(Resource::storage);
            break;
        case Action::drop_network:
            state.resources.erase(Resource::network);
            break;
        case Action::tombstone_disks:
            state.tombstoned = true;
            break;
        case Action::settle_network:
            state.resources.erase(Resource::network);
            break;
        case Action::quit_source:
            state.resources.erase(Resource::storage);
            state.resources.erase(Resource::ram);
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
void continue_rollback(Builder& builder) {
    State& state = builder.state;
    if (state.void_commit || state.record == Record::committed) {
        builder.ask_once(Action::record_rollback);  // nothing may run before COMMIT is void
        return;
    }
    if (state.qemu_gone) {
        state.guest = Guest::crashed_source;
        state.resources.erase(Resource::ram);
    }
    bool const ram_busy = builder.busy(Action::start_ram) ||
                          builder.busy(Action::cancel_migration) ||
                          builder.busy(Action::resume_source);
    if (state.resources.contains(Resource::ram) && !ram_busy) {
        builder.ask(state.cancelled ? Action::resume_source : Action::cancel_migration);
    }
    if (state.resources.contains(Resource::fired) && !builder.busy(Action::fire_network)) {
        builder.ask_once(Action::rollback_network);
    }
    if (!state.in_flight.empty()) {
        return;
    }
    if (state.resources.contains(Resource::destination)) {
        builder.ask(Action::abort_destination);
    } else if (state.resources.contains(Resource::storage)) {
        builder.ask(Action::drop_storage);
    } else if (state.resources.contains(Resource::network)) {
        builder.ask(Action::drop_network);
    } else if (state.record != Record::none && state.record != Record::ended) {
        builder.ask(Action::record_end);
    } else {
        builder.ask(Action::finish);
    }
}

/// The guest stays. What is in flight is asked to end; cancel_migration does not wait for it.
void roll_back(Builder& builder, Outcome outcome) {
    builder.state.phase = Phase::rolling_back;
    builder.state.outcome = outcome;
    builder.state.guest = Guest::source;
    builder.state.operator_decision = OperatorDecision::none;
    builder.interrupt_others();
    continue_rollback(builder);
}

/// Every phase before COMMIT ends in this way when the operator cancels, when QEMU is gone, or when
/// `failed`. Returns whether it did.
bool gives_up(Builder& builder, Event const& event, bool failed) {
    if (event.kind == Kind::cancel_requested) {
        roll_back(builder, Outcome::cancelled);
        return true;
    }
    if (failed || event.kind == Kind::qemu_gone) {
        roll_back(builder, Outcome::failed);
        return true;
    }
    return false;
}

/// What ends a migration at any moment in which RAM migrates and the guest is stopped.
[[nodiscard]] bool fails_while_stopped(Event const& event) {
    return event.kind == Kind::peer_lost || event.kind == Kind::peer_silent_too_long ||
           event.kind == Kind::downtime_limit_exceeded || event.kind == Kind::migration_failed ||
           event.kind == Kind::guest_resumed;
}

// ---- settling -----------------------------------------------------------------------------------

/// Only forward: the stale disk is marked before anything else, then the rest, each until it is ok.
void continue_settling(Builder& builder) {
    State& state = builder.state;
    if (!state.in_flight.empty()) {
        return;
    }
    if (!state.tombstoned) {
        builder.ask(Action::tombstone_disks);
    } else if (state.resources.contains(Resource::network)) {
        builder.ask(Action::settle_network);
    } else if (state.resources.contains(Resource::ram)) {
        builder.ask(Action::quit_source);
    } else if (state.record != Record::ended) {
        builder.ask(Action::record_end);
    } else {
        builder.ask(Action::finish);
    }
}

void settle(Builder& builder) {
    builder.state.phase = Phase::settling;
    builder.state.outcome = Outcome::moved;
    builder.state.guest = Guest::destination;
    builder.state.resources.erase(Resource::fired);  // the addresses are where they belong
    builder.state.resources.erase(Resource::destination);  // and so is the guest
    builder.interrupt_others();
    continue_settling(builder);
}

// ---- one function per phase ---------------------------------------------------------------------

/// A new sidecar: the journal and QEMU are all it knows, so everything may have been made.
void resume_from_journal(Builder& builder, Event const& event) {
    State& state = builder.state;
    state.record = event.record;
    state.qemu_gone = event.qemu == Qemu::gone;
    if (event.record == Record::none || event.record == Record::ended) {
        return;
    }
    for (Resource resource : {Resource::destination, Resource::network, Resource::storage,
                              Resource::ram, Resource::fired}) {
        state.resources.insert(resource);
    }
    bool const guest_runs =
        event.qemu == Qemu::running || event.qemu == Qemu::copying || event.qemu == Qemu::migrating;
    if (event.record == Record::committed && !guest_runs) {
        state.phase = Phase::in_doubt;
        state.outcome = Outcome::in_doubt;
        state.guest = Guest::unknown;
        builder.ask(Action::send_commit);
        return;
    }
    if (event.record == Record::begun && event.qemu == Qemu::copying) {
        state.phase = Phase::preparing;  // each step again: what is there already is kept
        builder.ask(Action::prepare_destination);
        return;
    }
    bool const may_have_completed = event.qemu == Qemu::postmigrate || event.qemu == Qemu::gone;
    state.void_commit = event.record == Record::begun && may_have_completed;
    roll_back(builder, Outcome::failed);
}

void idle(Builder& builder, Event const& event) {
    if (event.kind == Kind::restarted) {
        resume_from_journal(builder, event);
    } else if (event.kind == Kind::migrate_requested) {
        builder.state = {};  // what was heard while nothing was asked for is of no account
        builder.state.phase = Phase::checking;
        builder.ask(Action::check);
    }
}

void checking(Builder& builder, Event const& event) {
    if (gives_up(builder, event, false)) {
        return;
    }
    if (ended_badly(event, Action::check) || ended_badly(event, Action::record_begin)) {
        roll_back(builder, Outcome::refused);
    } else if (ended_ok(event, Action::check)) {
        builder.ask(Action::record_begin);
    } else if (ended_ok(event, Action::record_begin)) {
        builder.state.phase = Phase::preparing;
        builder.make(Action::prepare_destination, Resource::destination);
    }
}

void preparing(Builder& builder, Event const& event) {
    bool const failed = event.kind == Kind::peer_silent_too_long ||
                        ended_badly(event, Action::prepare_destination) ||
                        ended_badly(event, Action::prepare_network) ||
                        ended_badly(event, Action::prepare_storage);
    if (gives_up(builder, event, failed)) {
        return;
    }
    if (ended_ok(event, Action::prepare_destination)) {
        builder.make(Action::prepare_network, Resource::network);
    } else if (ended_ok(event, Action::prepare_network)) {
        builder.make(Action::prepare_storage, Resource::storage);
    } else if (ended_ok(event, Action::prepare_storage)) {
        builder.state.phase = Phase::copying;
        builder.ask(Action::copy_disks);
    }
}

void copying(Builder& builder, Event const& event) {
    bool const failed =
        event.kind == Kind::peer_silent_too_long || ended_badly(event, Action::copy_disks);
    if (gives_up(builder, event, failed)) {
        return;
    }
    if (ended_ok(event, Action::copy_disks)) {
        builder.state.phase = Phase::converging;
        builder.make(Action::start_ram, Resource::ram);
    }
}

/// STOP can overtake the answer to `migrate`; a `completed` here means that QEMU did not wait for
/// us at pre-switchover: the destination's disks are not final, so the guest stays.
void converging(Builder& builder, Event const& event) {
    bool const stops = event.kind == Kind::stop_seen || event.kind == Kind::pre_switchover_seen;
    bool const failed =
        event.kind == Kind::peer_silent_too_long || event.kind == Kind::ram_not_converging ||
        event.kind == Kind::migration_failed || event.kind == Kind::migration_completed ||
        ended_badly(event, Action::start_ram) || (stops && !builder.state.peer_up);
    if (gives_up(builder, event, failed) || !stops) {
        return;
    }
    builder.state.phase = Phase::stopped;
    builder.make(Action::fire_network, Resource::fired);
    if (builder.state.pre_switchover) {
        builder.ask(Action::list_final);
    }
}

void stopped(Builder& builder, Event const& event) {
    bool const failed = fails_while_stopped(event) || event.kind == Kind::migration_completed ||
                        ended_badly(event, Action::start_ram) ||
                        ended_badly(event, Action::fire_network) ||
                        ended_badly(event, Action::list_final);
    if (gives_up(builder, event, failed)) {
        return;
    }
    if (event.kind == Kind::pre_switchover_seen) {
        builder.ask(Action::list_final);
    } else if (ended_ok(event, Action::list_final)) {
        builder.state.phase = Phase::switching;
        builder.ask(Action::copy_final);
        builder.ask(Action::continue_migration);
    }
}

/// record_commit is under way: only its end counts, because it may be durable already.
void recording_commit(Builder& builder, Event const& event) {
    if (!ended(event, Action::record_commit)) {
        return;
    }
    if (event.result == ActionResult::ok) {
        if (builder.state.guest_ran) {
            roll_back(builder,
                      Outcome::failed);  // somebody resumed it: COMMIT is void and never sent
            return;
        }
        builder.state.phase = Phase::committed;
        builder.state.guest = Guest::unknown;
        builder.ask(Action::send_commit);
    } else if (event.result == ActionResult::failed && !builder.state.commit_unknown) {
        roll_back(builder, Outcome::failed);
    } else {
        builder.ask(Action::record_commit);
    }
}

/// Three things end side by side: the delta and then the seal, QEMU's device state, the network.
/// COMMIT needs them all.
void switching(Builder& builder, Event const& event) {
    if (builder.busy(Action::record_commit) || ended(event, Action::record_commit)) {
        recording_commit(builder, event);
        return;
    }
    bool const failed = fails_while_stopped(event) || ended_badly(event, Action::start_ram) ||
                        ended_badly(event, Action::fire_network) ||
                        ended_badly(event, Action::copy_final) ||
                        ended_badly(event, Action::seal_destination) ||
                        ended_badly(event, Action::continue_migration);
    if (gives_up(builder, event, failed)) {
        return;
    }
    builder.state.completed |= event.kind == Kind::migration_completed;
    if (ended_ok(event, Action::copy_final)) {
        builder.ask(Action::seal_destination);
    }
    if (builder.state.completed && builder.state.sealed && !builder.busy(Action::fire_network)) {
        builder.ask(Action::record_commit);
    }
}

/// The destination has the last word, an operator's counts only where it has said nothing.
void answer_to_commit(Builder& builder, ActionResult result) {
    State& state = builder.state;
    if (result == ActionResult::acked) {
        settle(builder);
    } else if (result == ActionResult::aborted ||
               state.operator_decision == OperatorDecision::to_source) {
        roll_back(builder, Outcome::failed);
    } else if (state.operator_decision == OperatorDecision::to_destination) {
        settle(builder);
    } else {
        state.phase = Phase::in_doubt;
        state.outcome = Outcome::in_doubt;
        if (state.peer_up) {
            builder.ask(Action::send_commit);
        }
    }
}

void committed(Builder& builder, Event const& event) {
    if (ended(event, Action::send_commit)) {
        answer_to_commit(builder, event.result);
    } else if (event.kind == Kind::operator_resolved) {
        builder.state.operator_decision = event.side == Side::source
                                              ? OperatorDecision::to_source
                                              : OperatorDecision::to_destination;
        if (builder.busy(Action::send_commit)) {
            builder.interrupt_others();
        } else {
            answer_to_commit(builder, ActionResult::unknown);
        }
    }
}

void in_doubt(Builder& builder, Event const& event) {
    if (event.kind == Kind::peer_back) {
        builder.ask_once(Action::send_commit);
    } else {
        committed(builder, event);
    }
}

void rolling_back(Builder& builder, Event const& event) {
    if (ended(event, Action::abort_destination) &&
        (event.result != ActionResult::unknown || !builder.state.peer_up)) {
        // Refused or out of reach: the destination's own patience removes what is left there.
        builder.state.resources.erase(Resource::destination);
    }
    if (ended_badly(event, Action::resume_source)) {
        builder.state.cancelled =
            false;  // a migration may still hold the guest: cancel again first
    }
    if (ended(event, Action::finish)) {
        builder.state.phase = Phase::done;
        return;
    }
    continue_rollback(builder);
}

void settling(Builder& builder, Event const& event) {
    if (ended(event, Action::finish)) {
        builder.state.phase = Phase::done;
        return;
    }
    continue_settling(builder);
}

}  // namespace

Step step(State const& state, Event const& event) {
    Builder builder{{.state = state, .actions = {}}};
    bool const result = event.kind == Kind::action_ended;
    bool const repeated = event.kind == Kind::pre_switchover_seen && state.pre_switchover;
    if (repeated || (result && !state.in_flight.contains(event.action))) {
        return {.state = state, .actions = {}};
    }
    if (result) {
        builder.state.in_flight.erase(event.action);
    }
    note(builder.state, event);
    switch (state.phase) {
        case Phase::idle:
            idle(builder, event);
            break;
        case Phase::checking:
            checking(builder, event);
            break;
        case Phase::preparing:
            preparing(builder, event);
            break;
        case Phase::copying:
            copying(builder, event);
            break;
        case Phase::converging:
            converging(builder, event);
            break;
        case Phase::stopped:
            stopped(builder, event);
            break;
        case Phase::switching:
            switching(builder, event);
            break;
        case Phase::committed:
            committed(builder, event);
            break;
        case Phase::settling:
            settling(builder, event);
            break;
        case Phase::rolling_back:
            rolling_back(builder, event);
            break;
        case Phase::in_doubt:
            in_doubt(builder, event);
            break;
        case Phase::done:
            break;
    }
    return {.state = builder.state, .actions = std::move(builder.actions)};
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
