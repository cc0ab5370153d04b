// How a migration ends on the source: COMMIT is sent, what was made is undone, or the guest has
// moved and the rest is tidied up. Used by source.cpp only; the phases that lead here are there.
#pragma once

#include "sidecar/machine/source.hpp"
#include "sidecar/machine/step_builder.hpp"

namespace sidecar::machine::source {

struct Builder : StepBuilder<State, Action> {
    /// Asks whatever is in flight to end soon.
    void interrupt_others() {
        if (!state.in_flight.empty()) {
            ask_once(Action::interrupt);
        }
    }
    /// Asks for an action that makes something: from now on it may exist.
    void make(Action action, Resource resource) {
        state.resources.insert(resource);
        ask(action);
    }
};

/// Sends COMMIT when the peer is there, but never while an image of the source has its name.
void send_commit(Builder& builder);
/// The guest stays. What is in flight is asked to end; cancel_migration does not wait for it.
void roll_back(Builder& builder, Outcome outcome);
/// The guest has moved: only forward.
void settle(Builder& builder);

/// The two phases of the end.
void rolling_back(Builder& builder, Event const& event);
void settling(Builder& builder, Event const& event);

}  // namespace sidecar::machine::source
