// Each machine alone, against events in every order, valid or not: a peer, a QEMU or a driver that
// breaks its own rules must not make a machine break the commit rule.
//
// The driver keeps only one promise to the machine: only an action that is in flight ends, and
// `restarted` comes first.
#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"

#include <catch2/catch.hpp>

#include <deque>
#include <map>
#include <set>

namespace src = sidecar::machine::source;
namespace dst = sidecar::machine::destination;
using sidecar::machine::ActionResult;
using sidecar::machine::Outcome;
using sidecar::machine::Side;

namespace {

constexpr std::array<ActionResult, 6> endings{ActionResult::ok,      ActionResult::failed,
                                              ActionResult::unknown, ActionResult::acked,
                                              ActionResult::aborted, ActionResult::link_lost};

std::vector<src::Event> source_events() {
    std::vector<src::Event> events;
    using Kind = src::Event::Kind;
    for (auto kind = static_cast<unsigned>(Kind::migrate_requested);
         kind <= static_cast<unsigned>(Kind::downtime_limit_exceeded); ++kind) {
        events.push_back(src::event(static_cast<Kind>(kind)));
    }
    events.push_back(src::operator_resolved(Side::source));
    events.push_back(src::operator_resolved(Side::destination));
    for (unsigned action = 0; action < src::action_count; ++action) {
        for (ActionResult result : endings) {
            events.push_back(src::action_ended(static_cast<src::Action>(action), result));
        }
    }
    for (unsigned qemu = 0; qemu <= static_cast<unsigned>(src::Qemu::gone); ++qemu) {
        events.push_back(src::qmp_back(static_cast<src::Qemu>(qemu)));
    }
    for (unsigned record = 0; record <= static_cast<unsigned>(src::Record::ended); ++record) {
        for (unsigned qemu = 0; qemu <= static_cast<unsigned>(src::Qemu::gone); ++qemu) {
            for (bool const stopped : {false, true}) {
                events.push_back(src::restarted(static_cast<src::Record>(record),
                                                static_cast<src::Qemu>(qemu), stopped));
            }
        }
    }
    return events;
}

std::vector<dst::Event> destination_events() {
    std::vector<dst::Event> events;
    using Kind = dst::Event::Kind;
    for (auto kind = static_cast<unsigned>(Kind::prepare_requested);
         kind <= static_cast<unsigned>(Kind::qemu_silent_too_long); ++kind) {
        events.push_back(dst::event(static_cast<Kind>(kind)));
    }
    events.push_back(dst::prepare_requested(true));
    events.push_back(dst::qemu_gone(dst::Qemu::waiting));
    for (unsigned action = 0; action < dst::action_count; ++action) {
        for (ActionResult result : endings) {
            events.push_back(dst::action_ended(static_cast<dst::Action>(action), result));
        }
    }
    for (unsigned record = 0; record <= static_cast<unsigned>(dst::Record::ended_aborted);
         ++record) {
        for (unsigned qemu = 0; qemu <= static_cast<unsigned>(dst::Qemu::gone); ++qemu) {
            for (bool const stopped : {false, true}) {
                events.push_back(dst::restarted(static_cast<dst::Record>(record),
                                                static_cast<dst::Qemu>(qemu), stopped));
            }
        }
    }
    return events;
}

/// The error in asking for `action` on the way to `after`; empty if there is none.
std::string wrong(src::State const& before, src::State const& after, src::Action action) {
    using Action = src::Action;
    bool const committed = after.record == src::Record::committed;
    switch (action) {
        case Action::prepare_destination:
        case Action::prepare_network:
        case Action::prepare_storage:
            return after.record == src::Record::begun ? "" : "made before it was written down";
        case Action::record_commit:
            return after.sealed && after.completed ? "" : "COMMIT before all is there";
        case Action::send_commit:
            return committed && !after.guest_ran && after.images_aside
                       ? ""
                       : "COMMIT sent too early, or of a guest that ran on";
        case Action::resume_source:
        case Action::cancel_migration:
            if (!after.qmp_up) {
                return "asked of a QEMU that is not connected";
            }
            if (action == Action::resume_source && after.guest_stopped) {
                return "a guest resumed that another stopped";
            }
            if (after.resources.contains(src::Resource::images_aside)) {
                return "the guest brought back before its images";
            }
            [[fallthrough]];
        case Action::restore_images:
        case Action::rollback_network: {
            bool const may_count = committed || after.void_commit;
            return (may_count && !after.destination_aborted) ||
                           after.in_flight.contains(Action::record_commit)
                       ? "the guest brought back after COMMIT"
                       : "";
        }
        case Action::record_rollback:
            return committed || after.void_commit ? "" : "nothing to void";
        case Action::tombstone_disks:
            return before.record == src::Record::committed ? "" : "tombstone without COMMIT";
        case Action::quit_source:
            return after.tombstoned ? "" : "quit before the tombstone";
        case Action::finish: {
            bool const closed =
                after.record == src::Record::none || after.record == src::Record::ended;
            bool const clean = after.resources.empty() && after.outcome != Outcome::none &&
                               after.outcome != Outcome::in_doubt;
            return closed && clean ? "" : "finished with something left over";
        }
        default:
            return "";
    }
}

std::string wrong(dst::State const&, dst::State const& after, dst::Action action) {
    using Action = dst::Action;
    bool const nothing_recorded = after.record == dst::Record::none && !after.owner_unknown &&
                                  !after.in_flight.contains(Action::record_owner);
    bool const aborted =
        after.record == dst::Record::aborted || after.record == dst::Record::ended_aborted;
    switch (action) {
        case Action::record_owner:
            return after.record == dst::Record::none && after.loaded && after.exports_gone
                       ? ""
                       : "OWNER before loaded and sealed";
        case Action::start_guest:
        case Action::leave_stopped:
            if (after.stopped != (action == Action::leave_stopped)) {
                return "a stopped guest is started, or another is not";
            }
            [[fallthrough]];
        case Action::reply_ack:
        case Action::announce_network:
            return dst::owns_guest(after) ? "" : "started, acknowledged or announced before OWNER";
        case Action::record_aborted:
            return nothing_recorded ? "" : "ABORTED over a possible OWNER";
        case Action::destroy:
        case Action::reply_aborted:
            return aborted ? "" : "ABORTED told or acted on before it is durable";
        default:
            return "";
    }
}

/// Explores one machine alone. Returns the error with the shortest trace to it; counts the states.
template <typename Step, typename State, typename Event>
std::string explore_alone(State const& first, std::vector<Event> const& events,
                          Step (*step)(State const&, Event const&), std::size_t& states) {
    std::map<State, std::pair<State, Event>> reached;
    std::deque<State> queue{first};
    reached.emplace(first, std::pair{first, events.front()});
    while (!queue.empty()) {
        State const state = queue.front();
        queue.pop_front();
        for (Event const& event : events) {
            if (event.kind == Event::Kind::restarted && state != first) {
                continue;
            }
            Step const taken = step(state, event);
            std::string broken;
            for (auto const action : taken.actions) {
                broken = broken.empty() ? wrong(state, taken.state, action) : broken;
            }
            bool const fresh = reached.emplace(taken.state, std::pair{state, event}).second;
            if (fresh) {
                queue.push_back(taken.state);
            }
            if (broken.empty()) {
                continue;
            }
            broken += "\n  " + describe(event);
            for (State at = state; at != first; at = reached.at(at).first) {
                broken += "\n  after " + describe(reached.at(at).second);
            }
            return broken;
        }
    }
    states = reached.size();
    return "";
}

} // namespace

TEST_CASE("the source alone keeps the commit rule after any sequence of events", "[sim][alone]") {
    std::size_t states = 0;
    std::string const broken =
        explore_alone<src::Step>(src::State{}, source_events(), src::step, states);
    INFO(broken);
    CHECK(broken.empty());
    CHECK(states > 1000);
    WARN("source alone: " << states << " states");
}

TEST_CASE("the destination alone keeps the commit rule after any sequence of events",
          "[sim][alone]") {
    std::size_t states = 0;
    std::string const broken =
        explore_alone<dst::Step>(dst::State{}, destination_events(), dst::step, states);
    INFO(broken);
    CHECK(broken.empty());
    CHECK(states > 100);
    WARN("destination alone: " << states << " states");
}
