// The end of a migration on the source; see source_endings.hpp.
//
// Choices where the design leaves one:
// - A COMMIT that may be durable and was never sent is made void: by ROLLBACK here, or by ABORTED
//   at the destination, which then answers a later COMMIT with ABORTED. The guest continues on the
//   source when one of the two is durable and its images have their names again.
// - After the destination's answer, an action that fails `tries_max` times is left undone: the
//   guest has moved.
#include "sidecar/machine/source_endings.hpp"

namespace sidecar::machine::source {

using Kind = Event::Kind;

namespace {

// ---- cleanup ------------------------------------------------------------------------------------

/// Counts the tries of cleanup actions, and gives an action up after the last try.
void count_tries(State& state, Event const& event) {
    if (event.kind != Kind::action_ended || !only_tidies_up(event.action)) {
        return;
    }
    bool const ok = event.result == ActionResult::ok;
    state.failures = static_cast<std::uint8_t>(ok ? 0U : state.failures + 1U);
    if (state.failures < tries_max) {
        return;
    }
    state.failures = 0;
    if (event.action == Action::tombstone_disks) {
        state.tombstoned = true;
        state.resources.erase(Resource::images_aside);
    } else if (event.action == Action::settle_network) {
        state.resources.erase(Resource::network);
    } else if (event.action == Action::quit_source) {
        state.resources.erase(Resource::storage);
        state.resources.erase(Resource::ram);
    } else {
        state.record = Record::ended;
    }
}

/// Records the end; then finish.
void close_record(Builder& builder) {
    State const& state = builder.state;
    bool const open = state.record != Record::none && state.record != Record::ended;
    builder.ask(open ? Action::record_end : Action::finish);
}

// ---- rolling back -------------------------------------------------------------------------------

/// Makes COMMIT void by ROLLBACK here. If that cannot be recorded and COMMIT was never sent, by
/// ABORTED at the destination, which then answers every COMMIT with ABORTED. The two alternate
/// until one ends ok.
void make_commit_void(Builder& builder) {
    State& state = builder.state;
    if (builder.busy(Action::record_rollback) || builder.busy(Action::abort_destination)) {
        return;
    }
    if (state.rollback_failed && !state.commit_sent) {
        state.rollback_failed = false;
        builder.ask(Action::abort_destination);
    } else {
        builder.ask(Action::record_rollback);
    }
}

/// Where the guest is while it stays on the source, and when everything is undone.
[[nodiscard]] Guest kept_guest(State const& state) {
    if (state.qemu_gone) {
        return Guest::crashed_source;
    }
    if (state.qmp_silent && state.resources.contains(Resource::ram)) {
        return Guest::silent_source;
    }
    return state.guest_stopped ? Guest::stopped_source : Guest::source;
}

/// Cancels QEMU's migration and then resumes the guest, once its images have their names again. A
/// guest that was stopped from outside stays stopped. If QEMU is not connected, nothing is asked of
/// it; qmp_back calls this again.
void bring_guest_back(Builder& builder) {
    State& state = builder.state;
    if (state.qemu_gone || (state.cancelled && state.guest_stopped)) {
        state.resources.erase(Resource::ram);
    }
    if (state.resources.contains(Resource::images_aside)) {
        if (!builder.busy(Action::set_images_aside)) {
            builder.ask_once(Action::restore_images);
        }
        return;
    }
    bool const busy = builder.busy(Action::start_ram) || builder.busy(Action::cancel_migration) ||
                      builder.busy(Action::resume_source);
    if (state.resources.contains(Resource::ram) && !busy && state.qmp_up) {
        builder.ask(state.cancelled ? Action::resume_source : Action::cancel_migration);
    }
}

/// Whether only actions that ask QEMU for the guest are in flight.
[[nodiscard]] bool only_waits_for_qemu(State const& state) {
    EnumSet<Action> others = state.in_flight;
    others.erase(Action::cancel_migration);
    others.erase(Action::resume_source);
    return others.empty();
}

/// Undoes what may have been created. First the guest and its addresses, in parallel. When no
/// forward action is in flight any more, the rest, newest first. While the source's QEMU does not
/// answer, the destination is aborted before the guest is back, so that the guest never runs there.
void continue_rollback(Builder& builder) {
    State& state = builder.state;
    if (builder.busy(Action::record_commit)) {
        return;  // its end says whether a COMMIT must be made void
    }
    if (commit_may_count(state)) {
        make_commit_void(builder);
        return;
    }
    bring_guest_back(builder);
    state.guest = kept_guest(state);
    if (state.resources.contains(Resource::fired) && !builder.busy(Action::fire_network)) {
        builder.ask_once(Action::rollback_network);
    }
    bool const idle = state.in_flight.empty();
    bool const waits = state.qmp_silent && only_waits_for_qemu(state);
    if (state.resources.contains(Resource::destination) && (waits || idle) &&
        (waits || !state.resources.contains(Resource::ram))) {
        builder.ask(Action::abort_destination);
        return;
    }
    if (!idle || state.resources.contains(Resource::ram)) {
        return;
    }
    if (state.resources.contains(Resource::storage)) {
        if (state.qmp_up || state.qemu_gone) {
            builder.ask(Action::drop_storage);
        }
    } else if (state.resources.contains(Resource::network)) {
        builder.ask(Action::drop_network);
    } else {
        close_record(builder);
    }
}

// ---- settling -----------------------------------------------------------------------------------

/// Only forward: first the stale disk is marked, then the rest. What cannot be done is left undone
/// and reported: the guest runs at the destination in any case.
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
    } else {
        close_record(builder);
    }
}

}  // namespace

bool only_tidies_up(Action action) {
    return action == Action::tombstone_disks || action == Action::settle_network ||
           action == Action::quit_source || action == Action::record_end;
}

/// A restart would read that COMMIT, so the guest must not run here.
bool commit_may_count(State const& state) {
    bool const over = state.phase == Phase::settling || state.phase == Phase::done;
    return !over && (state.void_commit || state.record == Record::committed) &&
           !state.destination_aborted;
}

namespace {

/// Clears the fields that no final phase reads, so that states that differ only in them are equal.
void forget_the_way(State& state) {
    state.pre_switchover = false;
    state.completed = false;
    state.sealed = false;
    state.images_aside = false;
    state.commit_unknown = false;
    state.guest_ran = false;
    state.suspending = false;
    state.operator_decision = OperatorDecision::none;
    state.failures = 0;
}

/// Keeps only the outcome.
void finish(Builder& builder) {
    State over;
    over.phase = Phase::done;
    over.outcome = builder.state.outcome;
    over.guest = builder.state.guest;
    over.record = builder.state.record;
    builder.state = over;
}

}  // namespace

void roll_back(Builder& builder, Outcome outcome) {
    builder.state.phase = Phase::rolling_back;
    builder.state.outcome = outcome;
    builder.state.guest = Guest::source;
    builder.state.void_commit |=
        builder.state.commit_unknown || builder.busy(Action::record_commit);
    forget_the_way(builder.state);
    builder.interrupt_others();
    continue_rollback(builder);
}

/// A restart does not know whether the dead sidecar had renamed all images.
void send_commit(Builder& builder) {
    if (!builder.state.images_aside) {
        builder.ask_once(Action::set_images_aside);
    } else if (builder.state.peer_up && !builder.busy(Action::send_commit)) {
        builder.state.commit_sent = true;
        builder.ask(Action::send_commit);
    }
}

void settle(Builder& builder) {
    builder.state.phase = Phase::settling;
    builder.state.outcome = Outcome::moved;
    builder.state.guest = Guest::destination;
    builder.state.resources.erase(Resource::fired);  // the addresses belong there now
    builder.state.resources.erase(Resource::destination);  // and so does the guest
    builder.state.commit_sent = false;
    builder.state.peer_up = true;  // no longer matters
    forget_the_way(builder.state);
    builder.interrupt_others();
    continue_settling(builder);
}

void rolling_back(Builder& builder, Event const& event) {
    count_tries(builder.state, event);
    if (ended_ok(event, Action::abort_destination) && commit_may_count(builder.state)) {
        builder.state.destination_aborted = true;
    }
    if (ended(event, Action::abort_destination) && !commit_may_count(builder.state) &&
        (event.result != ActionResult::unknown || !builder.state.peer_up)) {
        // Refused or unreachable: the destination removes the rest itself after its own timeout.
        builder.state.resources.erase(Resource::destination);
    }
    if (event.kind == Kind::operator_resolved && event.side == Side::source &&
        may_resolve(builder.state)) {
        // The destination is fenced, and COMMIT was never sent.
        builder.state.destination_aborted = true;
    }
    if (ended_badly(event, Action::resume_source)) {
        builder.state.cancelled =
            false;  // a migration may still hold the guest: cancel again first
    }
    if (ended(event, Action::finish)) {
        finish(builder);
        return;
    }
    continue_rollback(builder);
}

void settling(Builder& builder, Event const& event) {
    if (ended(event, Action::finish)) {
        finish(builder);
        return;
    }
    count_tries(builder.state, event);
    continue_settling(builder);
}

}  // namespace sidecar::machine::source
