// Names and one-line descriptions of everything in the machines, for logs, traces
// and test failures.
//
// Used by the driver, the reports and tests/sim. A name is its enumerator, letter for letter.
#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"

namespace sidecar::machine {

ExitStatus exit_status(Outcome outcome) {
    switch (outcome) {
        case Outcome::moved:
            return exit_moved;
        case Outcome::none:
        case Outcome::failed:
            return exit_failed;
        case Outcome::refused:
            return exit_refused;
        case Outcome::in_doubt:
            return exit_in_doubt;
        case Outcome::cancelled:
            return exit_cancelled;
        case Outcome::suspended:
            return exit_suspended;
    }
    return exit_failed;
}

std::string_view name(ActionResult result) {
    switch (result) {
        case ActionResult::ok:
            return "ok";
        case ActionResult::failed:
            return "failed";
        case ActionResult::unknown:
            return "unknown";
        case ActionResult::acked:
            return "acked";
        case ActionResult::aborted:
            return "aborted";
        case ActionResult::link_lost:
            return "link_lost";
    }
    return "?";
}

std::string_view name(Outcome outcome) {
    switch (outcome) {
        case Outcome::none:
            return "none";
        case Outcome::moved:
            return "moved";
        case Outcome::failed:
            return "failed";
        case Outcome::refused:
            return "refused";
        case Outcome::cancelled:
            return "cancelled";
        case Outcome::in_doubt:
            return "in_doubt";
        case Outcome::suspended:
            return "suspended";
    }
    return "?";
}

std::string_view name(Guest guest) {
    switch (guest) {
        case Guest::source:
            return "source";
        case Guest::destination:
            return "destination";
        case Guest::unknown:
            return "unknown";
        case Guest::crashed_source:
            return "crashed_source";
        case Guest::stopped_source:
            return "stopped_source";
        case Guest::silent_source:
            return "silent_source";
    }
    return "?";
}

std::string_view name(Side side) { return side == Side::source ? "source" : "destination"; }

namespace {

void append(std::string& text, std::string_view key, std::string_view value) {
    text += text.empty() ? "" : " ";
    text += key;
    text += '=';
    text += value;
}

void append_flag(std::string& text, std::string_view flag, bool set) {
    if (set) {
        text += ' ';
        text += flag;
    }
}

/// The names of the members of `set`, joined by commas; empty when there is none.
template <typename Enumeration>
std::string names_of(EnumSet<Enumeration> const& set, unsigned count) {
    std::string text;
    for (unsigned index = 0; index < count; ++index) {
        auto const value = static_cast<Enumeration>(index);
        if (set.contains(value)) {
            text += text.empty() ? "" : ",";
            text += name(value);
        }
    }
    return text;
}

} // namespace

namespace source {

std::string_view name(Phase phase) {
    switch (phase) {
        case Phase::idle:
            return "idle";
        case Phase::checking:
            return "checking";
        case Phase::preparing:
            return "preparing";
        case Phase::copying:
            return "copying";
        case Phase::suspended:
            return "suspended";
        case Phase::converging:
            return "converging";
        case Phase::stopped:
            return "stopped";
        case Phase::switching:
            return "switching";
        case Phase::committed:
            return "committed";
        case Phase::settling:
            return "settling";
        case Phase::rolling_back:
            return "rolling_back";
        case Phase::in_doubt:
            return "in_doubt";
        case Phase::done:
            return "done";
    }
    return "?";
}

std::string_view name(Action action) {
    switch (action) {
        case Action::check:
            return "check";
        case Action::record_begin:
            return "record_begin";
        case Action::prepare_destination:
            return "prepare_destination";
        case Action::prepare_network:
            return "prepare_network";
        case Action::prepare_storage:
            return "prepare_storage";
        case Action::copy_disks:
            return "copy_disks";
        case Action::start_ram:
            return "start_ram";
        case Action::fire_network:
            return "fire_network";
        case Action::list_final:
            return "list_final";
        case Action::copy_final:
            return "copy_final";
        case Action::seal_destination:
            return "seal_destination";
        case Action::continue_migration:
            return "continue_migration";
        case Action::record_commit:
            return "record_commit";
        case Action::set_images_aside:
            return "set_images_aside";
        case Action::send_commit:
            return "send_commit";
        case Action::record_rollback:
            return "record_rollback";
        case Action::interrupt:
            return "interrupt";
        case Action::restore_images:
            return "restore_images";
        case Action::cancel_migration:
            return "cancel_migration";
        case Action::resume_source:
            return "resume_source";
        case Action::rollback_network:
            return "rollback_network";
        case Action::abort_destination:
            return "abort_destination";
        case Action::drop_storage:
            return "drop_storage";
        case Action::drop_network:
            return "drop_network";
        case Action::tombstone_disks:
            return "tombstone_disks";
        case Action::settle_network:
            return "settle_network";
        case Action::quit_source:
            return "quit_source";
        case Action::record_end:
            return "record_end";
        case Action::finish:
            return "finish";
    }
    return "?";
}

std::string_view name(Record record) {
    switch (record) {
        case Record::none:
            return "none";
        case Record::begun:
            return "begun";
        case Record::committed:
            return "committed";
        case Record::rolled_back:
            return "rolled_back";
        case Record::ended:
            return "ended";
    }
    return "?";
}

std::string_view name(Qemu qemu) {
    switch (qemu) {
        case Qemu::running:
            return "running";
        case Qemu::copying:
            return "copying";
        case Qemu::migrating:
            return "migrating";
        case Qemu::stopping:
            return "stopping";
        case Qemu::stopped:
            return "stopped";
        case Qemu::stopped_migrating:
            return "stopped_migrating";
        case Qemu::paused_pre_switchover:
            return "paused_pre_switchover";
        case Qemu::postmigrate:
            return "postmigrate";
        case Qemu::gone:
            return "gone";
    }
    return "?";
}

std::string_view name(Event::Kind kind) {
    switch (kind) {
        case Event::Kind::action_ended:
            return "action_ended";
        case Event::Kind::migrate_requested:
            return "migrate_requested";
        case Event::Kind::cancel_requested:
            return "cancel_requested";
        case Event::Kind::stop_seen:
            return "stop_seen";
        case Event::Kind::pre_switchover_seen:
            return "pre_switchover_seen";
        case Event::Kind::migration_completed:
            return "migration_completed";
        case Event::Kind::migration_failed:
            return "migration_failed";
        case Event::Kind::guest_resumed:
            return "guest_resumed";
        case Event::Kind::qemu_gone:
            return "qemu_gone";
        case Event::Kind::qmp_lost:
            return "qmp_lost";
        case Event::Kind::qmp_silent_too_long:
            return "qmp_silent_too_long";
        case Event::Kind::guest_stopped_by_others:
            return "guest_stopped_by_others";
        case Event::Kind::resume_requested:
            return "resume_requested";
        case Event::Kind::suspended_too_long:
            return "suspended_too_long";
        case Event::Kind::peer_lost:
            return "peer_lost";
        case Event::Kind::peer_back:
            return "peer_back";
        case Event::Kind::peer_silent_too_long:
            return "peer_silent_too_long";
        case Event::Kind::ram_not_converging:
            return "ram_not_converging";
        case Event::Kind::downtime_limit_exceeded:
            return "downtime_limit_exceeded";
        case Event::Kind::operator_resolved:
            return "operator_resolved";
        case Event::Kind::qmp_back:
            return "qmp_back";
        case Event::Kind::restarted:
            return "restarted";
    }
    return "?";
}

std::string_view name(Resource resource) {
    switch (resource) {
        case Resource::destination:
            return "destination";
        case Resource::network:
            return "network";
        case Resource::storage:
            return "storage";
        case Resource::ram:
            return "ram";
        case Resource::fired:
            return "fired";
        case Resource::images_aside:
            return "images_aside";
    }
    return "?";
}

std::string_view name(OperatorDecision operator_decision) {
    switch (operator_decision) {
        case OperatorDecision::none:
            return "none";
        case OperatorDecision::to_source:
            return "to_source";
        case OperatorDecision::to_destination:
            return "to_destination";
    }
    return "?";
}

std::string describe(Event const& event) {
    std::string text{name(event.kind)};
    auto const add = [&text](std::string_view word) { (text += ' ') += word; };
    switch (event.kind) {
        case Event::Kind::action_ended:
            add(name(event.action));
            add(name(event.result));
            break;
        case Event::Kind::operator_resolved:
            add(name(event.side));
            break;
        case Event::Kind::qmp_back:
            add(name(event.qemu));
            break;
        case Event::Kind::restarted:
            add(name(event.record));
            add(name(event.qemu));
            break;
        default:
            break;
    }
    return text;
}

std::string describe(State const& state) {
    std::string text;
    append(text, "phase", name(state.phase));
    append(text, "outcome", name(state.outcome));
    append(text, "guest", name(state.guest));
    append(text, "record", name(state.record));
    append(text, "in_flight", names_of(state.in_flight, action_count));
    append(text, "made",
           names_of(state.resources, static_cast<unsigned>(Resource::images_aside) + 1));
    if (state.operator_decision != OperatorDecision::none) {
        append(text, "word", name(state.operator_decision));
    }
    append_flag(text, "peer_down", !state.peer_up);
    append_flag(text, "pre_switchover", state.pre_switchover);
    append_flag(text, "sealed", state.sealed);
    append_flag(text, "cancelled", state.cancelled);
    append_flag(text, "commit_unknown", state.commit_unknown);
    append_flag(text, "commit_sent", state.commit_sent);
    append_flag(text, "void_commit", state.void_commit);
    append_flag(text, "rollback_failed", state.rollback_failed);
    append_flag(text, "destination_aborted", state.destination_aborted);
    append_flag(text, "images_aside", state.images_aside);
    append_flag(text, "failed_before", state.failures != 0);
    append_flag(text, "guest_ran", state.guest_ran);
    append_flag(text, "qemu_gone", state.qemu_gone);
    append_flag(text, "qmp_down", !state.qmp_up);
    append_flag(text, "qmp_silent", state.qmp_silent);
    append_flag(text, "guest_stopped", state.guest_stopped);
    append_flag(text, "suspending", state.suspending);
    append_flag(text, "tombstoned", state.tombstoned);
    return text;
}

} // namespace source

namespace destination {

std::string_view name(Phase phase) {
    switch (phase) {
        case Phase::idle:
            return "idle";
        case Phase::preparing:
            return "preparing";
        case Phase::prepared:
            return "prepared";
        case Phase::qemu_lost:
            return "qemu_lost";
        case Phase::sealed:
            return "sealed";
        case Phase::owning:
            return "owning";
        case Phase::running:
            return "running";
        case Phase::aborting:
            return "aborting";
        case Phase::done:
            return "done";
    }
    return "?";
}

std::string_view name(Action action) {
    switch (action) {
        case Action::prepare:
            return "prepare";
        case Action::reply_prepared:
            return "reply_prepared";
        case Action::seal:
            return "seal";
        case Action::reply_sealed:
            return "reply_sealed";
        case Action::record_owner:
            return "record_owner";
        case Action::start_guest:
            return "start_guest";
        case Action::leave_stopped:
            return "leave_stopped";
        case Action::reply_ack:
            return "reply_ack";
        case Action::announce_network:
            return "announce_network";
        case Action::record_aborted:
            return "record_aborted";
        case Action::reply_aborted:
            return "reply_aborted";
        case Action::reply_refused:
            return "reply_refused";
        case Action::destroy:
            return "destroy";
        case Action::record_end:
            return "record_end";
        case Action::finish:
            return "finish";
    }
    return "?";
}

std::string_view name(Record record) {
    switch (record) {
        case Record::none:
            return "none";
        case Record::owner:
            return "owner";
        case Record::aborted:
            return "aborted";
        case Record::ended_owner:
            return "ended_owner";
        case Record::ended_aborted:
            return "ended_aborted";
    }
    return "?";
}

std::string_view name(Qemu qemu) {
    switch (qemu) {
        case Qemu::waiting:
            return "waiting";
        case Qemu::loaded:
            return "loaded";
        case Qemu::running:
            return "running";
        case Qemu::gone:
            return "gone";
    }
    return "?";
}

std::string_view name(Event::Kind kind) {
    switch (kind) {
        case Event::Kind::action_ended:
            return "action_ended";
        case Event::Kind::prepare_requested:
            return "prepare_requested";
        case Event::Kind::seal_requested:
            return "seal_requested";
        case Event::Kind::commit_received:
            return "commit_received";
        case Event::Kind::abort_requested:
            return "abort_requested";
        case Event::Kind::qemu_loaded:
            return "qemu_loaded";
        case Event::Kind::qemu_gone:
            return "qemu_gone";
        case Event::Kind::peer_lost:
            return "peer_lost";
        case Event::Kind::peer_back:
            return "peer_back";
        case Event::Kind::peer_silent_too_long:
            return "peer_silent_too_long";
        case Event::Kind::qemu_silent_too_long:
            return "qemu_silent_too_long";
        case Event::Kind::restarted:
            return "restarted";
    }
    return "?";
}

std::string_view name(PendingRequest pending_request) {
    switch (pending_request) {
        case PendingRequest::nothing:
            return "nothing";
        case PendingRequest::prepare:
            return "prepare";
        case PendingRequest::seal:
            return "seal";
        case PendingRequest::commit:
            return "commit";
        case PendingRequest::abort:
            return "abort";
    }
    return "?";
}

std::string describe(Event const& event) {
    std::string text{name(event.kind)};
    auto const add = [&text](std::string_view word) { (text += ' ') += word; };
    switch (event.kind) {
        case Event::Kind::action_ended:
            add(name(event.action));
            add(name(event.result));
            break;
        case Event::Kind::restarted:
            add(name(event.record));
            add(name(event.qemu));
            break;
        default:
            break;
    }
    return text;
}

std::string describe(State const& state) {
    std::string text;
    append(text, "phase", name(state.phase));
    append(text, "record", name(state.record));
    append(text, "in_flight", names_of(state.in_flight, action_count));
    append(text, "asked", name(state.pending_request));
    append_flag(text, "loaded", state.loaded);
    append_flag(text, "exports_gone", state.exports_gone);
    append_flag(text, "qemu_gone", state.qemu_gone);
    append_flag(text, "owner_unknown", state.owner_unknown);
    append_flag(text, "destroyed", state.destroyed);
    append_flag(text, "announced", state.announced);
    append_flag(text, "stopped", state.stopped);
    return text;
}

} // namespace destination

} // namespace sidecar::machine
