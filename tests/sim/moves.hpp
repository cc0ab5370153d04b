// How the parts of the model world add their steps: shared by world.cpp and the two sides only.
#pragma once

#include "tests/sim/world.hpp"

namespace sim {

/// Collects the steps out of one Node.
struct Moves {
    Node const& from;
    Mutation mutation;
    std::vector<Transition>& list;

    /// Adds a step that leads to a copy of `from`. The caller changes the copy at once: the
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

/// The steps of the QEMUs by themselves, and the steps in which the sidecars learn of them.
void source_qemu_moves(Moves& moves);      // world_source.cpp
void destination_qemu_moves(Moves& moves); // world_destination.cpp

// Events that reach the source from outside: world_outside.cpp

void monitor_moves(Moves& moves);
void host_moves(Moves& moves);
/// What a query to the source's QEMU returns.
src::Qemu qemu_found(World const& world);

// The effects of the source's actions and its QEMU: world_source_effects.cpp

/// Whether `action` itself changes nothing in the world.
bool only_tells(src::Action action);
bool migration_active(SourceQemu qemu);
/// The migration has ended without success: the guest of the source's QEMU resumes, unless others
/// have stopped it.
void resume(World& world);
/// `cont`, by a sidecar or the watchdog.
void continue_guest(World& world);
/// Every record has its own place in the journal; the highest one counts.
void record(World& world, src::Record written);
/// Applies the effect of `action`. Returns false if it is impossible in this world.
bool takes_effect(World& world, src::Action action);

[[nodiscard]] inline bool ended(DestinationQemu qemu) {
    return qemu == DestinationQemu::gone || qemu == DestinationQemu::gone_waiting;
}

/// QEMU exists, and its guest has not run.
[[nodiscard]] inline bool takes_blocks(DestinationQemu qemu) {
    return qemu == DestinationQemu::waiting || qemu == DestinationQemu::receiving ||
           qemu == DestinationQemu::loaded;
}

/// The destination's QEMU ends, by a kill or by `destroy`; its exports end too.
void end_destination_qemu(World& world, DestinationQemu end);

} // namespace sim
