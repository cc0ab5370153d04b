// Used to write the steps of the two machines: a step under construction, and queries about an
// event that ends an action. Used by source.cpp and destination.cpp only.
#pragma once

#include <cassert>
#include <vector>

#include "sidecar/machine/common.hpp"

namespace sidecar::machine {

/// `State` has `in_flight`, the set of actions asked for and not ended.
template <typename State, typename Action>
struct StepBuilder {
    State state;
    std::vector<Action> actions;

    [[nodiscard]] bool busy(Action action) const { return state.in_flight.contains(action); }

    void ask(Action action) {
        assert(!busy(action));
        state.in_flight.insert(action);
        actions.push_back(action);
    }
    void ask_once(Action action) {
        if (!busy(action)) {
            ask(action);
        }
    }
};

template <typename Event, typename Action>
[[nodiscard]] bool ended(Event const& event, Action action) {
    return event.kind == Event::Kind::action_ended && event.action == action;
}
template <typename Event, typename Action>
[[nodiscard]] bool ended_ok(Event const& event, Action action) {
    return ended(event, action) && event.result == ActionResult::ok;
}
template <typename Event, typename Action>
[[nodiscard]] bool ended_badly(Event const& event, Action action) {
    return ended(event, action) && event.result != ActionResult::ok;
}

}  // namespace sidecar::machine
