// The design, explored without a bound: any number of faults, of any kind, in any order and at any
// moment.
#include "tests/sim/explorer.hpp"

#include <catch2/catch.hpp>

using namespace sim;

TEST_CASE("every invariant holds in every reachable state, and every state can reach a good end",
          "[sim][exhaustive]") {
    Report const report = explore(Mutation::none, Check::all);
    INFO(report.violation);
    CHECK(report.violation.empty());
    CHECK(report.complete != sanitized);
    WARN(report.states << " states, " << report.transitions << " steps, " << report.endings
                       << " ends, the guest moved in " << report.moved << " of them");

    if (sanitized) return;

    // The search visited every kind of state that it must visit.
    CHECK(report.moved > 0);
    CHECK(report.endings > report.moved);
    for (unsigned phase = 0; phase <= static_cast<unsigned>(src::Phase::done); ++phase) {
        INFO("source phase " << name(static_cast<src::Phase>(phase)));
        CHECK(report.source_phases.contains(static_cast<src::Phase>(phase)));
    }
    for (unsigned phase = 0; phase <= static_cast<unsigned>(dst::Phase::done); ++phase) {
        INFO("destination phase " << name(static_cast<dst::Phase>(phase)));
        CHECK(report.destination_phases.contains(static_cast<dst::Phase>(phase)));
    }
    for (unsigned move = 0; move <= static_cast<unsigned>(Move::host_starts_guest); ++move) {
        INFO("move " << describe(Label{.move = static_cast<Move>(move)}));
        CHECK(report.moves.at(move));
    }
    for (unsigned index = 0; index < src::action_count; ++index) {
        auto const action = static_cast<src::Action>(index);
        INFO("source action " << name(action));
        CHECK(report.source_actions.contains(action) == (action != src::Action::interrupt));
    }
    for (unsigned index = 0; index < dst::action_count; ++index) {
        auto const action = static_cast<dst::Action>(index);
        INFO("destination action " << name(action));
        bool const at_once = name(action).starts_with("reply_");  // these end with the step itself
        bool const other = action == dst::Action::leave_stopped;
        CHECK(report.destination_actions.contains(action) == (!at_once && !other));
    }
}

TEST_CASE("every invariant holds for a guest that does not run when its migration begins",
          "[sim][exhaustive][stopped-start]") {
    Report const report = explore(Mutation::none, Check::all, Start::stopped);
    INFO(report.violation);
    CHECK(report.violation.empty());
    CHECK(report.complete != sanitized);
    WARN(report.states << " states, " << report.transitions << " steps, " << report.endings
                       << " ends, the guest moved in " << report.moved << " of them");
    if (sanitized) return;
    CHECK(report.moved > 0);
    CHECK(report.endings > report.moved);
    CHECK(report.destination_actions.contains(dst::Action::leave_stopped));
    // Others may continue it before the check. That it is never continued later is I11.
    CHECK(report.destination_actions.contains(dst::Action::start_guest));
}
