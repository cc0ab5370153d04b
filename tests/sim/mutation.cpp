#include "tests/sim/mutation.hpp"

namespace sim {

namespace {

namespace src = sidecar::machine::source;
namespace dst = sidecar::machine::destination;
using sidecar::machine::ActionResult;

/// Reports an action that ended as `was` as one that ended as `is`.
template <class Action>
struct Misheard {
    Mutation mutation;
    Action action;
    ActionResult was;
    ActionResult is;
};

constexpr auto unknown = ActionResult::unknown;
constexpr auto failed = ActionResult::failed;
constexpr auto ok = ActionResult::ok;

constexpr Misheard<src::Action> by_source[] = {
    {Mutation::source_resumes_on_silence, src::Action::send_commit, unknown, ActionResult::aborted},
    {Mutation::unknown_commit_is_failed, src::Action::record_commit, unknown, failed},
    {Mutation::silence_is_aborted, src::Action::abort_destination, unknown, ok},
    {Mutation::rollback_not_durable, src::Action::record_rollback, failed, ok},
    {Mutation::guest_before_images, src::Action::restore_images, failed, ok},
    {Mutation::lost_delta_is_copied, src::Action::copy_final, failed, ok},
    {Mutation::network_not_returned, src::Action::rollback_network, failed, ok},
    {Mutation::images_not_marked, src::Action::tombstone_disks, failed, ok},
    {Mutation::source_qemu_left, src::Action::quit_source, failed, ok},
    {Mutation::source_exports_left, src::Action::drop_storage, failed, ok},
};

constexpr Misheard<dst::Action> by_destination[] = {
    {Mutation::failed_seal_is_sealed, dst::Action::seal, failed, ok},
    {Mutation::owner_not_durable, dst::Action::record_owner, failed, ok},
    {Mutation::guest_not_started, dst::Action::start_guest, failed, ok},
    {Mutation::destination_left, dst::Action::destroy, failed, ok},
};

template <class Event, class Table>
Event misheard(Mutation mutation, Event event, Table const& table) {
    for (auto const& one : table) {
        if (one.mutation == mutation && event.kind == Event::Kind::action_ended &&
            event.action == one.action && event.result == one.was) {
            event.result = one.is;
        }
    }
    return event;
}

}  // namespace

src::Event heard(Mutation mutation, src::Event const& event) {
    return misheard(mutation, event, by_source);
}

dst::Event heard(Mutation mutation, dst::Event const& event) {
    return misheard(mutation, event, by_destination);
}

std::string_view name(Mutation mutation) {
    switch (mutation) {
        case Mutation::none:
            return "the design";
        case Mutation::destination_without_S:
            return "destination without -S";
        case Mutation::destination_starts_on_loaded:
            return "destination starts on its own completed";
        case Mutation::source_resumes_on_silence:
            return "source resumes on silence after COMMIT";
        case Mutation::commit_sent_before_durable:
            return "COMMIT sent before it is durable";
        case Mutation::aborted_sent_before_durable:
            return "ABORTED answered before it is durable";
        case Mutation::stale_disk_named:
            return "the images keep their names until the destination has answered";
        case Mutation::operator_fences_nothing:
            return "an operator gives the guest to the source and fences nothing";
        case Mutation::watchdog_records_nothing:
            return "watchdog continues a completed QEMU without recording ROLLBACK";
        case Mutation::watchdog_ignores_commit:
            return "watchdog acts on a recorded COMMIT as on none";
        case Mutation::unknown_commit_is_failed:
            return "a COMMIT that may be durable is taken for one that is not there";
        case Mutation::silence_is_aborted:
            return "a destination that does not answer is taken for ABORTED";
        case Mutation::rollback_not_durable:
            return "the guest goes on although ROLLBACK could not be recorded";
        case Mutation::guest_before_images:
            return "the guest goes on before its images have their names again";
        case Mutation::lost_delta_is_copied:
            return "a last delta that failed is taken for copied";
        case Mutation::failed_seal_is_sealed:
            return "a seal that failed is taken for done";
        case Mutation::owner_not_durable:
            return "the destination starts the guest although OWNER could not be recorded";
        case Mutation::watchdog_leaves_switchover:
            return "watchdog leaves a QEMU that waits at pre-switchover";
        case Mutation::guest_not_started:
            return "a guest that could not be started is said to run";
        case Mutation::failed_migration_not_heard:
            return "source does not hear that QEMU's migration failed behind STOP";
        case Mutation::watchdog_forgets_stopped:
            return "watchdog continues a guest that did not run before";
        case Mutation::destination_forgets_stopped:
            return "the destination starts a guest that did not run before";
        case Mutation::network_before_stop:
            return "the addresses move before STOP";
        case Mutation::network_not_returned:
            return "a rollback ends without the addresses";
        case Mutation::images_not_marked:
            return "moved images that could not be renamed are taken for marked";
        case Mutation::source_qemu_left:
            return "the source's QEMU is left over";
        case Mutation::source_exports_left:
            return "exports and bitmaps at the source are left over";
        case Mutation::destination_left:
            return "what the destination made is left over";
    }
    return "?";
}

}  // namespace sim
