#include "sidecar/machine/watchdog.hpp"

namespace sidecar::machine::watchdog {

Action next(source::Record record, source::Qemu qemu, bool stopped) {
    using source::Qemu;
    using source::Record;
    if (record != Record::begun && record != Record::rolled_back) {
        return Action::leave;  // no migration is under way, or only the destination may decide
    }
    switch (qemu) {
        case Qemu::running:
        case Qemu::copying:
        case Qemu::stopped:  // stopped from outside
        case Qemu::gone:
            return Action::leave;
        case Qemu::migrating:  // otherwise QEMU would stop the guest later, without a sidecar
        case Qemu::stopped_migrating:
        case Qemu::stopping:
        case Qemu::paused_pre_switchover:
            return Action::cancel_migration;
        case Qemu::postmigrate:
            if (record == Record::begun) return Action::record_rollback;
            return stopped ? Action::leave : Action::resume_guest;
    }
    return Action::leave;
}

std::string_view name(Action action) {
    switch (action) {
        case Action::leave:
            return "leave";
        case Action::cancel_migration:
            return "cancel_migration";
        case Action::record_rollback:
            return "record_rollback";
        case Action::resume_guest:
            return "resume_guest";
    }
    return "?";
}

}  // namespace sidecar::machine::watchdog
