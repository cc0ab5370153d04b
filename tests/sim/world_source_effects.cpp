// The effects of the source's actions in the model world. Part of moves.hpp.
#include <algorithm>

#include "tests/sim/moves.hpp"

namespace sim {

using src::Action;

bool only_tells(Action action) {
    return action == Action::check || action == Action::interrupt || action == Action::finish;
}

bool migration_active(SourceQemu qemu) {
    return qemu == SourceQemu::migrating || qemu == SourceQemu::stopping ||
           qemu == SourceQemu::pre_switchover || qemu == SourceQemu::device;
}

void resume(World& world) {
    world.source_qemu = SourceQemu::running;
    world.data_complete = false; // the guest writes again
}

void continue_guest(World& world) {
    world.continued_wrongly |= world.others_stopped;
    world.others_stopped = false;
    resume(world);
}

namespace {

/// QMP commands. Returns false when QEMU in its present state refuses.
bool qmp_takes_effect(World& world, Action action) {
    switch (action) {
        case Action::prepare_storage:
            world.source_storage = true;
            return world.source_qemu != SourceQemu::gone;
        case Action::start_ram:
            // The run state must be that of the check.
            if (world.source_qemu != SourceQemu::running ||
                world.others_stopped != world.stopped_noted ||
                world.destination_qemu != DestinationQemu::waiting) {
                return false;
            }
            world.destination_qemu = DestinationQemu::receiving;
            world.source_qemu = SourceQemu::migrating;
            world.source_told = SourceQemu::migrating;  // so that a failure is recognized as one
            return true;
        case Action::continue_migration:
            if (world.source_qemu != SourceQemu::pre_switchover) {
                return false;
            }
            world.source_qemu = SourceQemu::device;
            return true;
        case Action::cancel_migration:
            if (migration_active(world.source_qemu)) {
                resume(world);
            }
            return world.source_qemu != SourceQemu::gone;
        case Action::resume_source:
            if (world.source_qemu == SourceQemu::postmigrate) {
                continue_guest(world);
            }
            return executes(world);
        case Action::quit_source:
            world.source_qemu = SourceQemu::gone;
            world.source_told = SourceQemu::gone;
            world.source_storage = false;
            world.qmp_down = false;
            return true;
        default:
            return false;
    }
}

/// Copies need a destination to write to. The last copy also needs a stopped guest.
bool copy_takes_effect(World& world, Action action) {
    bool const writable = world.destination_exports && takes_blocks(world.destination_qemu);
    if (action == Action::copy_disks) {
        return writable && world.source_qemu == SourceQemu::running;
    }
    bool const still = world.source_qemu == SourceQemu::pre_switchover ||
                       world.source_qemu == SourceQemu::device ||
                       world.source_qemu == SourceQemu::postmigrate;
    if (!writable || !still) {
        return false;
    }
    world.data_complete = true;
    return true;
}

}  // namespace

void record(World& world, src::Record written) {
    world.source_journal = std::max(world.source_journal, written);
}

bool takes_effect(World& world, Action action) {
    switch (action) {
        case Action::record_begin:
            record(world, src::Record::begun);
            return true;
        case Action::record_commit:
            record(world, src::Record::committed);
            return true;
        case Action::record_rollback:
            record(world, src::Record::rolled_back);
            return true;
        case Action::record_end:
            record(world, src::Record::ended);
            return true;
        case Action::prepare_network:
            world.source_movers = true;
            return true;
        case Action::list_final:
            return world.source_qemu == SourceQemu::pre_switchover;
        case Action::copy_disks:
        case Action::copy_final:
            return copy_takes_effect(world, action);
        case Action::fire_network:
            world.network_at = Side::destination;
            return true;
        case Action::rollback_network:
            world.network_at = Side::source;
            return true;
        case Action::drop_storage:
            world.source_storage = false;
            return true;
        case Action::drop_network:
        case Action::settle_network:
            world.source_movers = false;
            return true;
        case Action::set_images_aside:
            if (world.images == Images::named) {
                world.images = Images::leaving;
            }
            return true;
        case Action::restore_images:
            if (world.images == Images::leaving) {
                world.images = Images::named;
            }
            return world.images == Images::named;
        case Action::tombstone_disks:
            world.images = Images::moved;
            return true;
        default:
            return qmp_takes_effect(world, action);
    }
}

}  // namespace sim
