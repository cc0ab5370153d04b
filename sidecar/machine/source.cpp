// The source's machine: one function per phase, in the order of the phase
// table in docs/architecture.md.
//
// Used through step() only. Invariant: forward actions are asked for one at a time until STOP.
// After STOP, actions that do not depend on each other run in parallel. Rollback undoes what
// `resources` lists, whatever the phase.
//
// Choices where the design leaves one:
// - If record_commit ended `failed`, there is certainly no COMMIT: the guest continues on the
//   source. If it ended `unknown`, COMMIT may be durable: the record is asked for up to `tries_max`
//   times. After that, COMMIT, which was never sent, is made void: by ROLLBACK here, or by ABORTED
//   at the destination, which then answers a later COMMIT with ABORTED. The guest continues on the
//   source when one of the two is durable.
// - COMMIT is sent only when the images are set aside. They get their names back when COMMIT is
//   void, and before the guest can run.
// - After the destination's answer, an action that fails `tries_max` times is left undone: the
//   guest has moved.
// - If a restart finds QEMU completed or gone but no COMMIT, it records ROLLBACK first. The dead
//   sidecar's COMMIT was never sent but may still reach the disk; ROLLBACK overrides it.
// - If a restart finds COMMIT recorded but the guest running, it voids the record and keeps the
//   guest. That guest can only have been resumed from outside. Sending COMMIT would start
//   a second copy.
#include "sidecar/machine/source.hpp"

#include <utility>

#include "sidecar/machine/source_endings.hpp"
#include "sidecar/machine/source_notes.hpp"

namespace sidecar::machine::source {

namespace {

using Kind = Event::Kind;

// ---- giving up ----------------------------------------------------------------------------------

/// Handles what ends every phase before COMMIT: a cancel by the operator, a QEMU that is gone, or
/// `failed`. Returns whether it ended the phase.
bool gives_up(Builder& builder, Event const& event, bool failed) {
    if (event.kind == Kind::cancel_requested) {
        roll_back(builder, Outcome::cancelled);
        return true;
    }
    if (failed || event.kind == Kind::qemu_gone || event.kind == Kind::qmp_silent_too_long) {
        roll_back(builder, Outcome::failed);
        return true;
    }
    return false;
}

/// The events that end a migration while RAM migrates and the guest is stopped.
[[nodiscard]] bool fails_while_stopped(Event const& event) {
    return event.kind == Kind::peer_lost || event.kind == Kind::peer_silent_too_long ||
           event.kind == Kind::downtime_limit_exceeded || event.kind == Kind::migration_failed ||
           event.kind == Kind::guest_resumed || event.kind == Kind::guest_stopped_by_others;
}

// ---- one function per phase ---------------------------------------------------------------------

/// A new sidecar knows only the journal and QEMU's state, so everything may have been created.
void resume_from_journal(Builder& builder, Event const& event) {
    State& state = builder.state;
    state.record = event.record;
    state.qemu_gone = event.qemu == Qemu::gone;
    if (event.record == Record::none || event.record == Record::ended) {
        return;
    }
    state.guest_stopped =
        event.stopped || event.qemu == Qemu::stopped || event.qemu == Qemu::stopped_migrating;
    for (Resource resource : {Resource::destination, Resource::network, Resource::storage,
                              Resource::ram, Resource::fired}) {
        state.resources.insert(resource);
    }
    bool const guest_runs =
        event.qemu == Qemu::running || event.qemu == Qemu::copying || event.qemu == Qemu::migrating;
    state.guest_stopped &= event.qemu != Qemu::running && event.qemu != Qemu::migrating;
    bool const may_have_completed =
        event.qemu == Qemu::postmigrate || event.qemu == Qemu::stopped || event.qemu == Qemu::gone;
    if (may_have_completed || event.record == Record::committed) {
        state.resources.insert(Resource::images_aside);
    }
    if (event.record == Record::committed && !guest_runs) {
        state.phase = Phase::in_doubt;
        state.outcome = Outcome::in_doubt;
        state.guest = Guest::unknown;
        state.commit_sent = true;
        send_commit(builder);
        return;
    }
    if (event.record == Record::begun && event.qemu == Qemu::copying) {
        state.phase = Phase::preparing;  // each step runs again and keeps what exists already
        builder.ask(Action::prepare_destination);
        return;
    }
    state.commit_sent = event.record == Record::committed;
    state.void_commit = event.record == Record::begun && may_have_completed;
    roll_back(builder, Outcome::failed);
}

void idle(Builder& builder, Event const& event) {
    if (event.kind == Kind::restarted) {
        resume_from_journal(builder, event);
    } else if (event.kind == Kind::migrate_requested) {
        builder.state = {};  // events from before the request do not count
        builder.state.phase = Phase::checking;
        builder.ask(Action::check);
    }
}

void checking(Builder& builder, Event const& event) {
    if (gives_up(builder, event, false)) {
        return;
    }
    if (ended_badly(event, Action::check) || ended_badly(event, Action::record_begin)) {
        bool const refused = event.action == Action::check && event.result == ActionResult::failed;
        roll_back(builder, refused ? Outcome::refused : Outcome::failed);
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

/// A destination that is unreachable for too long suspends the copy; the copied data is kept.
void copying(Builder& builder, Event const& event) {
    State& state = builder.state;
    if (event.kind == Kind::peer_silent_too_long) {
        state.suspending = true;
        builder.interrupt_others();
        return;
    }
    bool const suspends = ended(event, Action::copy_disks) &&
                          (state.suspending || event.result == ActionResult::link_lost);
    if (gives_up(builder, event, !suspends && ended_badly(event, Action::copy_disks))) {
        return;
    }
    if (suspends) {
        state.phase = Phase::suspended;
        state.outcome = Outcome::suspended;
        state.suspending = false;
    } else if (ended_ok(event, Action::copy_disks)) {
        state.phase = Phase::converging;
        builder.make(Action::start_ram, Resource::ram);
    }
}

void suspended(Builder& builder, Event const& event) {
    if (gives_up(builder, event, event.kind == Kind::suspended_too_long)) {
        return;
    }
    if (event.kind == Kind::resume_requested) {
        builder.state.phase = Phase::copying;
        builder.state.outcome = Outcome::none;
        builder.ask(Action::copy_disks);
    }
}

/// STOP can arrive before the answer to `migrate`. A `completed` here means that QEMU did not wait
/// at pre-switchover: the destination's disks are not final, so the guest stays. A guest that is
/// stopped or continued by others while its RAM is sent stays too: it would arrive in another state
/// than it has.
void converging(Builder& builder, Event const& event) {
    bool const stops = event.kind == Kind::stop_seen || event.kind == Kind::pre_switchover_seen;
    bool const failed =
        event.kind == Kind::peer_silent_too_long || event.kind == Kind::ram_not_converging ||
        event.kind == Kind::migration_failed || event.kind == Kind::migration_completed ||
        event.kind == Kind::guest_stopped_by_others || event.kind == Kind::guest_resumed ||
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

/// COMMIT is being recorded and the images are being set aside. Only the ends of these two actions
/// count, because COMMIT may be durable already.
void recording_commit(Builder& builder, Event const& event) {
    State& state = builder.state;
    bool const not_recorded = ended_badly(event, Action::record_commit);
    if (not_recorded) {
        ++state.failures;
    }
    bool const hopeless = !state.commit_unknown || state.failures == tries_max;
    if (ended_badly(event, Action::set_images_aside) || (not_recorded && hopeless)) {
        roll_back(builder, Outcome::failed);  // COMMIT was never sent
    } else if (not_recorded) {
        builder.ask(Action::record_commit);
    } else if (state.record != Record::committed || !state.images_aside) {
        return;
    } else if (state.guest_ran) {
        // It was resumed from outside: COMMIT is void and never sent.
        roll_back(builder, Outcome::failed);
    } else {
        state.phase = Phase::committed;
        state.guest = Guest::unknown;
        state.commit_sent = true;
        builder.ask(Action::send_commit);
    }
}

/// Three things run in parallel: the last delta and then the seal, QEMU's device state, the
/// network. COMMIT needs all of them.
void switching(Builder& builder, Event const& event) {
    if (builder.state.resources.contains(Resource::images_aside)) {
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
    State const& state = builder.state;
    // Without its monitor the sidecar would not notice if the guest were resumed from outside.
    if (state.completed && state.sealed && state.qmp_up && !builder.busy(Action::fire_network)) {
        builder.make(Action::set_images_aside, Resource::images_aside);
        builder.ask(Action::record_commit);
    }
}

/// The destination's answer decides. An operator's decision counts only if the destination
/// did not answer.
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
        send_commit(builder);
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
    if (event.kind == Kind::peer_back || ended(event, Action::set_images_aside)) {
        send_commit(builder);
    } else {
        committed(builder, event);
    }
}

/// Handles one event, already noted, in the current phase.
void take(Builder& builder, Event const& event) {
    switch (builder.state.phase) {
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
        case Phase::suspended:
            suspended(builder, event);
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
}

}  // namespace

Step step(State const& state, Event const& event) {
    if (event.kind == Kind::qmp_back) {
        // First the missed event, in a machine that is connected; then the event itself.
        State back = state;
        note(back, event);
        Builder builder{{.state = back, .actions = {}}};
        auto const kind = missed(back, event.qemu);
        bool const known = kind == Kind::pre_switchover_seen && back.pre_switchover;
        Event const heard = kind && !known ? source::event(*kind) : event;
        note(builder.state, heard);
        take(builder, heard);
        return {.state = builder.state, .actions = std::move(builder.actions)};
    }
    Builder builder{{.state = state, .actions = {}}};
    bool const result = event.kind == Kind::action_ended;
    bool const repeated = event.kind == Kind::pre_switchover_seen && state.pre_switchover;
    if (repeated || (result && !state.in_flight.contains(event.action))) {
        return {.state = state, .actions = {}};
    }
    if (result) {
        builder.state.in_flight.erase(event.action);
    }
    if (under_way(state)) {
        note(builder.state, event);
    }
    take(builder, event);
    return {.state = builder.state, .actions = std::move(builder.actions)};
}

bool under_way(State const& state) {
    return state.phase != Phase::idle && state.phase != Phase::done;
}

bool is_ending(State const& state) {
    return state.phase == Phase::rolling_back || state.phase == Phase::done;
}

bool may_cancel(State const& state) {
    switch (state.phase) {
        case Phase::checking:
        case Phase::preparing:
        case Phase::copying:
        case Phase::suspended:
        case Phase::converging:
        case Phase::stopped:
            return true;
        case Phase::switching:
            return !state.resources.contains(Resource::images_aside);
        case Phase::idle:
        case Phase::committed:
        case Phase::settling:
        case Phase::rolling_back:
        case Phase::in_doubt:
        case Phase::done:
            return false;
    }
    return false;
}

bool may_resolve(State const& state) {
    bool const cannot_be_void =
        state.phase == Phase::rolling_back && commit_may_count(state) && !state.commit_sent;
    return state.phase == Phase::committed || state.phase == Phase::in_doubt || cannot_be_void;
}

}  // namespace sidecar::machine::source
