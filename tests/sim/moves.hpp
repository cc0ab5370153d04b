// How the parts of the model world add their steps: shared by world.cpp and the two sides, nobody
// else.
#pragma once

#include "tests/sim/world.hpp"

namespace sim {

/// The steps out of one Node, being collected.
struct Moves {
    Node const& from;
    Mutation mutation;
    std::vector<Transition>& list;

    /// Adds a step that leads to a copy of `from`, to be changed by the caller at once: the
    /// reference does not outlive the next add().
    Node& add(Nature nature, Label label) {
        list.push_back({.nature = nature, .label = label, .next = from});
        return list.back().next;
    }
    /// Adds a step that is one event for the source's machine.
    void source_event(Nature nature, Label label, src::Event const& event) {
        tell_source(add(nature, label), event, mutation);
    }
    /// Adds a step that is one event for the destination's machine.
    void destination_event(Nature nature, Label label, dst::Event const& event) {
        tell_destination(add(nature, label), event, mutation);
    }
};

template <typename Enumeration>
[[nodiscard]] std::uint8_t code(Enumeration value) {
    return static_cast<std::uint8_t>(value);
}

void source_moves(Moves& moves);      // world_source.cpp
void destination_moves(Moves& moves); // world_destination.cpp

/// The QEMUs by themselves and what their sidecars hear of them.
void source_qemu_moves(Moves& moves);      // world_source.cpp
void destination_qemu_moves(Moves& moves); // world_destination.cpp

// What reaches the source from outside: world_outside.cpp

void monitor_moves(Moves& moves);
void host_moves(Moves& moves);
/// What a sidecar that asks the source's QEMU is told.
src::Qemu qemu_found(World const& world);

// What the source's actions do, and its QEMU: world_source_effects.cpp

/// Whether `action` changes nothing in the world by itself.
bool only_tells(src::Action action);
bool migration_active(SourceQemu qemu);
/// The guest of the source's QEMU runs.
void resume(World& world);
/// Every record has its own place in the journal; the highest one counts.
void record(World& world, src::Record written);
/// Does what `action` does. Returns false when it cannot happen as the world is.
bool takes_effect(World& world, src::Action action);

[[nodiscard]] inline bool ended(DestinationQemu qemu) {
    return qemu == DestinationQemu::gone || qemu == DestinationQemu::gone_waiting;
}

/// It is there, and its guest has not run.
[[nodiscard]] inline bool takes_blocks(DestinationQemu qemu) {
    return qemu == DestinationQemu::waiting || qemu == DestinationQemu::receiving ||
           qemu == DestinationQemu::loaded;
}

/// The destination's QEMU ends, by a kill or by `destroy`: its exports end with it.
void end_destination_qemu(World& world, DestinationQemu end);

} // namespace sim
