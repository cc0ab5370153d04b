// Breadth-first search over every Node the model world can reach, and what must hold in each of
// them.
//
// Used by the exhaustive tests and the mutation tests. A violation comes with the shortest trace to
// it.
#pragma once

#include "tests/sim/world.hpp"

#include <cstddef>
#include <string>

namespace sim {

#if __has_feature(address_sanitizer)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

/// Three times what there is to see; so that a mistake in the model ends in a failure and not in
/// all of the machine's memory. With sanitizers the search is for faults of the code, all of which
/// is seen long before the end, and takes ten times as long.
constexpr std::size_t states_max = sanitized ? 300'000 : 60'000'000;

/// What an exploration found.
struct Report {
    std::size_t states = 0;
    std::size_t transitions = 0;
    std::size_t endings = 0;  ///< States with nothing left to do once faults have ceased.
    std::size_t moved = 0;  ///< Of these: the guest belongs to the destination.
    // What was seen on the way, so that a test can tell an exhaustive search from an empty one.
    EnumSet<src::Phase> source_phases;
    EnumSet<dst::Phase> destination_phases;
    EnumSet<src::Action> source_actions;
    EnumSet<dst::Action> destination_actions;
    std::array<bool, 64> moves{};

    bool complete = false;  ///< Every reachable state was seen.
    std::string violation;  ///< Empty when everything held, else what did not and how.
    std::size_t trace_length = 0;  ///< Steps of that trace.
};

/// What an exploration checks.
enum class Check : std::uint8_t {
    one_guest,  ///< I1 only: two copies run, or the source runs while OWNER is recorded.
    safety,  ///< Every invariant, in every state and step.
    all,  ///< And liveness: once faults cease, whatever order follows ends, and ends well.
};

/// Explores until everything reachable was seen, something is broken, or `states_max` states were
/// seen (then the report is not complete).
[[nodiscard]] Report explore(Mutation mutation, Check check);

/// I1: what is wrong with `node`, or empty. invariants.cpp.
[[nodiscard]] std::string two_guests_in(Node const& node);

/// What is wrong with `node`, or empty. invariants.cpp.
[[nodiscard]] std::string broken_in(Node const& node);

/// What is wrong with the step from `before` to `after`, or empty. invariants.cpp.
[[nodiscard]] std::string broken_by_step(Node const& before, Node const& after);

/// I3 with a source's sidecar that is dead and never starts again: what is wrong with `node`, of
/// which `steps` are all next steps; or empty. In every such state in which the guest is paused and
/// belongs to the source, the watchdog has something to do; each of its steps leads on.
/// invariants.cpp.
[[nodiscard]] std::string paused_without_sidecar(Node const& node,
                                                 std::vector<Transition> const& steps);

/// What is wrong with `node` as an end, nothing being left to do, or empty. invariants.cpp.
[[nodiscard]] std::string broken_at_end(Node const& node);

/// I6: a second migration, begun where `node` has ended and with nothing going wrong, must move the
/// guest. What is wrong with it, or empty; empty also where there is no guest at the source to
/// move.
[[nodiscard]] std::string broken_second_migration(Node const& node);

/// Keeps of `list` what can happen once faults have ceased: the heal steps if there is one, else
/// the healthy ones.
void keep_healthy(std::vector<Transition>& list);

}  // namespace sim
