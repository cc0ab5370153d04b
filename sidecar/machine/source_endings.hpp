// How a migration ends on the source: COMMIT is sent; or what was created is undone; or the guest
// has moved and the rest is cleaned up. Used by source.cpp only, which has the phases before these.
#pragma once

#include "sidecar/machine/source.hpp"
#include "sidecar/machine/step_builder.hpp"

namespace sidecar::machine::source {

struct Builder : StepBuilder<State, Action> {
    /// Asks all actions in flight to end soon.
    void interrupt_others() {
        if (!state.in_flight.empty()) {
            ask_once(Action::interrupt);
        }
    }
    /// Asks for an action that creates something; from now on it may exist.
    void make(Action action, Resource resource) {
        state.resources.insert(resource);
        ask(action);
    }
};

/// Sends COMMIT if the peer is connected, but never while an image of the source has its name.
void send_commit(Builder& builder);
/// The guest stays. Actions in flight are asked to end; cancel_migration does not wait for them.
void roll_back(Builder& builder, Outcome outcome);
/// The guest has moved: only forward.
void settle(Builder& builder);

/// The two final phases.
void rolling_back(Builder& builder, Event const& event);
void settling(Builder& builder, Event const& event);

}  // namespace sidecar::machine::source
