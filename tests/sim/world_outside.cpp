// Events that reach the source from outside: its monitor is lost and found, others stop and
// continue the guest, the host starts it. Part of moves.hpp.
#include "tests/sim/moves.hpp"

namespace sim {

using Kind = src::Event::Kind;

src::Qemu qemu_found(World const& world) {
    switch (world.source_qemu) {
        case SourceQemu::running:
            return world.others_stopped ? src::Qemu::stopped : src::Qemu::running;
        case SourceQemu::migrating:
            return world.others_stopped ? src::Qemu::stopped_migrating : src::Qemu::migrating;
        case SourceQemu::stopping:
            return src::Qemu::stopping;
        case SourceQemu::pre_switchover:
        case SourceQemu::device:
            return src::Qemu::paused_pre_switchover;
        case SourceQemu::postmigrate:
            return src::Qemu::postmigrate;
        case SourceQemu::gone:
            return src::Qemu::gone;
    }
    return src::Qemu::gone;
}

/// The monitor's connection, and others who stop and continue the guest.
void monitor_moves(Moves& moves) {
    Node const& from = moves.from;
    World const& world = from.world;
    src::Phase const phase = from.source.phase;
    bool const gone = world.source_qemu == SourceQemu::gone;
    // QEMU refuses `cont` while it ends a migration.
    bool const may_run =
        world.source_qemu == SourceQemu::running || world.source_qemu == SourceQemu::migrating;
    if (!world.source_up || gone || !src::under_way(from.source) ||
        moves.mutation != Mutation::none) {
        return;
    }
    if (world.qmp_down) {
        Node& back = moves.add(Nature::heal, {.move = Move::qmp_back});
        back.world.qmp_down = false;
        back.world.source_told = world.source_qemu;
        tell_source(back, src::qmp_back(qemu_found(world)), moves.mutation);
        if (!from.source.qmp_silent) {
            moves.source_event(Nature::fault, {.move = Move::qmp_silent_too_long},
                               src::event(Kind::qmp_silent_too_long));
        }
    } else if (world.destination_up && phase == src::Phase::stopped) {
        // Bounded: alone.cpp explores the loss at any other moment for the machine alone. In this
        // phase the guest is paused. Each further phase would double the number of states.
        Node& lost = moves.add(Nature::fault, {.move = Move::qmp_lost});
        lost.world.qmp_down = true;
        tell_source(lost, src::event(Kind::qmp_lost), moves.mutation);
    }
    if (executes(world) && world.destination_up && phase == src::Phase::converging) {
        Node& next = moves.add(Nature::fault, {.move = Move::others_stop_guest});
        next.world.others_stopped = true;
        if (!world.qmp_down) {
            tell_source(next, src::event(Kind::guest_stopped_by_others), moves.mutation);
        }
    } else if (world.others_stopped && !world.qmp_down && may_run) {
        Node& next = moves.add(Nature::fault, {.move = Move::others_continue_guest});
        next.world.others_stopped = false;
        tell_source(next, src::event(Kind::guest_resumed), moves.mutation);
    }
}

/// A host that starts guests asks the sidecar first: the journal must be closed and the images must
/// have their names. Once COMMIT may have been sent, an autostart or a plain QEMU needs only the
/// names.
void host_moves(Moves& moves) {
    World const& world = moves.from.world;
    if (world.source_qemu != SourceQemu::gone ||
        moves.from.source.guest == sidecar::machine::Guest::stopped_source) {
        return;
    }
    src::Phase const phase = moves.from.source.phase;
    bool const over = phase == src::Phase::done || phase == src::Phase::idle;
    bool const closed =
        world.source_journal == src::Record::none || world.source_journal == src::Record::ended;
    bool const named = world.images == Images::named;
    bool const allowed = world.source_up && over && closed;
    bool const asks_nothing = world.commit_sent && world.source_journal == src::Record::committed;
    if (named && (allowed || asks_nothing)) {
        World& next = moves.add(Nature::fault, {.move = Move::host_starts_guest}).world;
        resume(next);
        next.source_told = SourceQemu::running;  // the sidecar starts with this new QEMU
    }
}

}  // namespace sim
