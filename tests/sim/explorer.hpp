// Breadth-first search over every Node that the model world can reach, and the invariants that each
// of them must satisfy.
//
// Used by the exhaustive tests and the mutation tests. A violation is reported with the shortest
// trace to it.
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

/// Three times the number of states, so that a mistake in the model ends in a failure instead of
/// using all memory. With sanitizers the search looks for faults of the code. It reaches all of the
/// code long before the end, and takes ten times as long.
constexpr std::size_t states_max = sanitized ? 300'000 : 60'000'000;

/// The result of an exploration.
struct Report {
    std::size_t states = 0;
    std::size_t transitions = 0;
    std::size_t endings = 0;  ///< States with nothing left to do once faults have ceased.
    std::size_t moved = 0;  ///< The part of them in which the guest belongs to the destination.
    // What the search visited, so that a test can tell an exhaustive search from an empty one.
    EnumSet<src::Phase> source_phases;
    EnumSet<dst::Phase> destination_phases;
    EnumSet<src::Action> source_actions;
    EnumSet<dst::Action> destination_actions;
    std::array<bool, 64> moves{};

    bool complete = false;  ///< Every reachable state was visited.
    std::string violation;  ///< Empty if everything held, else what was violated and how.
    std::size_t trace_length = 0;  ///< The number of steps of that trace.
};

/// What an exploration checks.
enum class Check : std::uint8_t {
    one_guest,  ///< I1 only: two copies run, or the source runs while OWNER is recorded.
    safety,  ///< Every invariant, in every state and step.
    all,  ///< And liveness: once faults cease, every order of steps ends, and ends well.
};

/// Explores until every reachable state was visited, an invariant is violated, or `states_max`
/// states were visited (then the report is not complete).
[[nodiscard]] Report explore(Mutation mutation, Check check, Start start = Start::running);

/// I1: the violation in `node`, or empty. invariants.cpp.
[[nodiscard]] std::string two_guests_in(Node const& node);

/// The violation in `node`, or empty. invariants.cpp.
[[nodiscard]] std::string broken_in(Node const& node);

/// The violation in the step from `before` to `after`, or empty. invariants.cpp.
[[nodiscard]] std::string broken_by_step(Node const& before, Node const& after);

/// I3 with a dead source sidecar that never starts again. In every state in which the guest is
/// paused and belongs to the source, the watchdog must have a step, and each of its steps must make
/// progress. `steps` are all next steps of `node`. Returns the violation, or empty. invariants.cpp.
[[nodiscard]] std::string paused_without_sidecar(Node const& node,
                                                 std::vector<Transition> const& steps);

/// The violation in `node` as an end, with nothing left to do, or empty. invariants.cpp.
[[nodiscard]] std::string broken_at_end(Node const& node);

/// I6: a second migration without faults, begun where `node` has ended, must move the guest.
/// Returns the violation, or empty; also empty if the source has no guest to move.
[[nodiscard]] std::string broken_second_migration(Node const& node);

/// Keeps the steps of `list` that are possible once faults have ceased: the heal steps if there are
/// any, else the healthy ones.
void keep_healthy(std::vector<Transition>& list);

}  // namespace sim
