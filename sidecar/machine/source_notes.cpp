#include "sidecar/machine/source_notes.hpp"

namespace sidecar::machine::source {

namespace {

using Kind = Event::Kind;

/// The resource that is gone when an undoing action ended ok.
struct Undone {
    Action action;
    Resource resource;
};
constexpr Undone undone[] = {
    {Action::resume_source, Resource::ram},
    {Action::rollback_network, Resource::fired},
    {Action::drop_storage, Resource::storage},
    {Action::drop_network, Resource::network},
    {Action::restore_images, Resource::images_aside},
    {Action::tombstone_disks, Resource::images_aside},
    {Action::settle_network, Resource::network},
    {Action::quit_source, Resource::storage},
    {Action::quit_source, Resource::ram},
};

/// What the end of an action means for the journal.
void note_record(State& state, Action action, ActionResult result) {
    bool const ok = result == ActionResult::ok;
    if (action == Action::record_begin && result != ActionResult::failed) {
        state.record = Record::begun;  // unknown: the record may be durable, so it must be closed
    } else if (action == Action::record_commit && ok) {
        state.record = Record::committed;
    } else if (action == Action::record_commit && result == ActionResult::unknown) {
        state.commit_unknown = true;
    } else if (action == Action::record_rollback) {
        state.rollback_failed = !ok;
        if (ok) {
            state.record = Record::rolled_back;
            state.void_commit = false;
            state.commit_sent = false;
        }
    } else if (action == Action::record_end && ok) {
        state.record = Record::ended;
    }
}

/// What the end of an action means for resources.
void note_result(State& state, Action action, ActionResult result) {
    note_record(state, action, result);
    if (result != ActionResult::ok) {
        return;
    }
    for (auto const& one : undone) {
        if (one.action == action) {
            state.resources.erase(one.resource);
        }
    }
    state.sealed |= action == Action::seal_destination;
    state.cancelled |= action == Action::cancel_migration;
    state.tombstoned |= action == Action::tombstone_disks;
    state.images_aside |= action == Action::set_images_aside;
    state.images_aside &= action != Action::restore_images;
}

}  // namespace

void note(State& state, Event const& event) {
    switch (event.kind) {
        case Kind::action_ended:
            note_result(state, event.action, event.result);
            break;
        case Kind::peer_lost:
            state.peer_up = state.phase == Phase::settling;
            break;
        case Kind::peer_back:
            state.peer_up = true;
            break;
        case Kind::qemu_gone:
            state.qemu_gone = true;
            break;
        case Kind::pre_switchover_seen:
            state.pre_switchover |=
                state.phase == Phase::converging || state.phase == Phase::stopped;
            break;
        case Kind::guest_resumed:
            state.guest_ran |= state.phase == Phase::switching;
            state.guest_stopped = false;
            break;
        case Kind::guest_stopped_by_others:
            // It must have been resumed from outside before.
            state.guest_ran |= state.phase == Phase::switching;
            state.guest_stopped = true;
            break;
        case Kind::qmp_lost:
            state.qmp_up = false;
            break;
        case Kind::qmp_silent_too_long:
            state.qmp_up = false;
            state.qmp_silent = true;
            break;
        case Kind::qmp_back:
            state.qmp_up = true;
            state.qmp_silent = false;
            break;
        case Kind::migrate_requested:
        case Kind::cancel_requested:
        case Kind::stop_seen:
        case Kind::migration_completed:
        case Kind::migration_failed:
        case Kind::resume_requested:
        case Kind::suspended_too_long:
        case Kind::peer_silent_too_long:
        case Kind::downtime_limit_exceeded:
        case Kind::ram_not_converging:
        case Kind::operator_resolved:
        case Kind::restarted:
            break;
    }
}

std::optional<Event::Kind> missed(State const& state, Qemu qemu) {
    bool const converging = state.phase == Phase::converging;
    bool const after_stop = state.phase == Phase::stopped || state.phase == Phase::switching;
    switch (qemu) {
        case Qemu::running:
        case Qemu::copying:
            // Also while start_ram runs: the migration may have begun and failed.
            return converging ? Kind::migration_failed : Kind::guest_resumed;
        case Qemu::migrating:
            return after_stop || state.guest_stopped ? std::optional(Kind::guest_resumed)
                                                     : std::nullopt;
        case Qemu::stopping:
            return converging ? std::optional(Kind::stop_seen) : std::nullopt;
        case Qemu::paused_pre_switchover:
            return converging || state.phase == Phase::stopped
                       ? std::optional(Kind::pre_switchover_seen)
                       : std::nullopt;
        case Qemu::postmigrate:
            return Kind::migration_completed;
        case Qemu::stopped:
            if (!state.guest_stopped) return Kind::guest_stopped_by_others;
            // A guest that was stopped before stays so when its migration fails.
            return converging || after_stop ? std::optional(Kind::migration_failed) : std::nullopt;
        case Qemu::stopped_migrating:
            return state.guest_stopped ? std::nullopt
                                       : std::optional(Kind::guest_stopped_by_others);
        case Qemu::gone:
            break;  // qemu_gone reports it
    }
    return std::nullopt;
}

}  // namespace sidecar::machine::source
