// The invariants of docs/architecture.md as predicates on the model world.
//
// Part of explorer.hpp. The names I1..I8 are those of the table in that document.
#include "tests/sim/explorer.hpp"

#include <algorithm>

namespace sim {

namespace {

bool guest_runs_at_source(World const& world) { return executes(world); }
bool guest_is_at_destination(World const& world) { return has_guest(world.destination_qemu); }

/// Whether the guest belongs to the destination in the end.
bool moved(World const& world) {
    return world.fenced ? world.images != Images::named : is_owner(world.destination_journal);
}

std::string broken_at_end_moved(Node const& node) {
    World const& world = node.world;
    if (world.source_qemu != SourceQemu::gone && !world.untidy) {
        return "I6: moved, and the source's QEMU is left over";
    }
    if (executes(world)) {
        return "I1: moved, and the guest runs on the source";
    }
    if (world.images == Images::named || (world.images == Images::leaving && !world.untidy)) {
        return "I5: moved, and the source's images are not marked";
    }
    bool const untidy = (world.source_storage || world.source_movers) && !world.untidy;
    if (untidy || world.destination_exports) {
        return "I6: moved, and bitmaps, exports or movers are left over";
    }
    if (world.network_at != Side::destination) {
        return "I8: the guest is at the destination, its addresses are not";
    }
    if (node.source.phase == src::Phase::done &&
        (node.source.outcome != Outcome::moved || node.source.guest != Guest::destination)) {
        return "I10: moved, and the source says something else";
    }
    bool const alive =
        guest_is_at_destination(world) || world.destination_qemu == DestinationQemu::gone;
    return alive ? "" : "I3: moved, and the guest is paused for ever";
}

std::string broken_at_end_kept(Node const& node) {
    World const& world = node.world;
    if (!guest_runs_at_source(world) && world.source_qemu != SourceQemu::gone &&
        !world.others_stopped) {
        return "I3: the guest belongs to the source, and is paused for ever";
    }
    if (world.images != Images::named) {
        return "I5: the guest belongs to the source, and its images have no names";
    }
    if (world.source_storage || world.source_movers) {
        return "I6: not moved, and bitmaps, exports or movers are left over at the source";
    }
    bool const fenced_owner = world.fenced && is_owner(world.destination_journal);
    bool const remains = world.destination_made || world.destination_exports ||
                         world.destination_qemu != DestinationQemu::none;
    if (remains && !fenced_owner) {
        return "I6: not moved, and something is left over at the destination";
    }
    if (world.network_at != Side::source) {
        return "I8: the guest is at the source, its addresses are not";
    }
    if (node.source.phase != src::Phase::done) {
        return "";
    }
    Outcome const outcome = node.source.outcome;
    bool const told =
        outcome == Outcome::failed || outcome == Outcome::refused || outcome == Outcome::cancelled;
    Guest const kept = world.others_stopped ? Guest::stopped_source : Guest::source;
    bool const ended = world.source_qemu == SourceQemu::gone;  // perhaps after the migration
    bool const placed = node.source.guest == kept || node.source.guest == Guest::crashed_source ||
                        (ended && node.source.guest == Guest::stopped_source);
    return told && placed ? "" : "I10: not moved, and the source says something else";
}

} // namespace

std::string two_guests_in(Node const& node) {
    World const& world = node.world;
    if (!guest_runs_at_source(world)) {
        return "";
    }
    if (guest_is_at_destination(world)) {
        return "I1: two copies run";
    }
    bool const owned = is_owner(world.destination_journal) && !world.fenced;
    return owned ? "I1: the source runs while OWNER is recorded" : "";
}

std::string broken_in(Node const& node) {
    if (std::string broken = two_guests_in(node); !broken.empty()) {
        return broken;
    }
    World const& world = node.world;
    if (world.continued_wrongly) {
        return "I11: the guest was stopped by others, and sidecar has continued it";
    }
    bool const owner = is_owner(world.destination_journal);
    if (guest_is_at_destination(world)) {
        bool const committed = world.source_journal == src::Record::committed ||
                               world.source_journal == src::Record::ended;
        if (!owner || !committed) {
            return "I2: the destination runs without COMMIT and OWNER recorded";
        }
        if (!world.data_complete) {
            return "I4: the destination runs on disks that differ from the source's at STOP";
        }
        if (world.destination_exports) {
            return "I5: the destination runs while its disks are exported";
        }
    }
    if (guest_runs_at_source(world) && world.images != Images::named) {
        return "I5: the guest runs on the source, and its images have no names";
    }
    bool const may_be_sent = world.commit_sent && world.source_journal == src::Record::committed;
    if (may_be_sent && world.images == Images::named) {
        return "I5: COMMIT was sent, and the stale images can be opened by their names";
    }
    src::Phase const phase = node.source.phase;
    bool const before_stop = phase >= src::Phase::checking && phase <= src::Phase::converging;
    if (before_stop && world.network_at != Side::source) {
        return "I8: the addresses moved before STOP";
    }
    src::Step const cancelled =
        src::step(node.source, src::event(src::Event::Kind::cancel_requested));
    if (src::may_cancel(node.source) != (cancelled.state != node.source)) {
        return "may_cancel says something else than step does";
    }
    return "";
}

std::string broken_by_step(Node const& before, Node const& after) {
    World const& was = before.world;
    World const& is = after.world;
    bool const source_starts = !guest_runs_at_source(was) && guest_runs_at_source(is);
    bool const refused = is_aborted(is.destination_journal) || is.fenced;
    if (source_starts && is.source_journal == src::Record::committed && !refused) {
        return "I2: the source continues after COMMIT";
    }
    bool const voided = was.source_journal == src::Record::committed &&
                        is.source_journal == src::Record::rolled_back;
    if (voided && was.commit_sent && !is_aborted(is.destination_journal) && !is.fenced) {
        return "I2: COMMIT was sent, and is voided without ABORTED or an operator's word";
    }
    if (!guest_is_at_destination(was) && guest_is_at_destination(is) &&
        is.network_at != Side::destination) {
        return "I8: the destination runs, its addresses are elsewhere";
    }
    return "";
}

std::string paused_without_sidecar(Node const& node, std::vector<Transition> const& steps) {
    World const& world = node.world;
    bool const ours = world.source_journal == src::Record::begun ||
                      world.source_journal == src::Record::rolled_back;
    bool const paused =
        !executes(world) && !world.others_stopped && world.source_qemu != SourceQemu::gone;
    if (world.source_up || !ours || !paused) {
        return "";
    }
    bool const acts = std::any_of(steps.begin(), steps.end(), [](Transition const& step) {
        return step.label.move >= Move::watchdog_cancels &&
               step.label.move <= Move::watchdog_resumes;
    });
    return acts ? "" : "I3: the guest is paused without a sidecar, and its watchdog does nothing";
}

std::string broken_at_end(Node const& node) {
    World const& world = node.world;
    src::Phase const source = node.source.phase;
    dst::Phase const destination = node.destination.phase;
    if (!world.source_up || !world.destination_up) {
        return "the end is reached with a sidecar down";
    }
    if (source != src::Phase::done && source != src::Phase::idle) {
        return "I3: the source's machine waits for ever";
    }
    if (destination != dst::Phase::done && destination != dst::Phase::idle) {
        return "I6: the destination's machine waits for ever";
    }
    bool const open =
        world.source_journal != src::Record::none && world.source_journal != src::Record::ended;
    if (open && !world.untidy) {
        return "I6: the source's journal is left open";
    }
    if (world.destination_journal == dst::Record::owner ||
        world.destination_journal == dst::Record::aborted) {
        return "I6: the destination's journal is left open";
    }
    return moved(world) ? broken_at_end_moved(node) : broken_at_end_kept(node);
}

std::string broken_second_migration(Node const& node) {
    World const& world = node.world;
    // QEMU itself refuses to migrate a guest once more that its completed migration has stopped.
    bool const may = guest_runs_at_source(world) ||
                     (world.others_stopped && world.source_qemu == SourceQemu::running);
    if (!may || world.fenced) {
        return "";
    }
    Node at = initial();  // new machines and new journals; the rest of the world stays
    at.world.network_at = world.network_at;
    at.world.destination_qemu = world.destination_qemu;
    at.world.destination_told = world.destination_told;
    at.world.source_storage = world.source_storage;
    at.world.source_movers = world.source_movers;
    at.world.destination_made = world.destination_made;
    at.world.destination_exports = world.destination_exports;
    at.world.images = world.images;
    at.world.others_stopped = world.others_stopped;
    constexpr int steps_max = 200;  // several times the length of a migration
    std::vector<Transition> steps;
    for (int step = 0; step < steps_max; ++step) {
        steps.clear();
        transitions(at, Mutation::none, steps);
        keep_healthy(steps);
        if (steps.empty()) {
            return guest_is_at_destination(at.world) ? broken_at_end(at)
                                                     : "I6: a second migration fails";
        }
        at = steps.front().next;
    }
    return "I6: a second migration does not end";
}

}  // namespace sim
