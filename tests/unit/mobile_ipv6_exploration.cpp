// Mobile IPv6's machines of two hosts and the home agent, explored: every order in which the
// messages of a move, or of two, arrive, are lost, doubled or overtaken; a rollback at each point;
// a home agent that restarts. Then the same with weaker rules, each of which must be found.
#include <catch2/catch.hpp>

#include <deque>
#include <set>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tests/unit/mobile_ipv6_world.hpp"

namespace mobile_ipv6_exploration_cases {

using namespace mobile_world;

namespace {

#if __has_feature(address_sanitizer)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif
/// Several times what the largest exploration here needs: a mistake ends, instead of taking all
/// memory. With sanitizers, faults of the code are looked for, which takes ten times as long and
/// needs only some states.
constexpr std::size_t states_max = sanitized ? 3'000 : 500'000;

struct Report {
    std::size_t states = 0;
    std::size_t ends = 0;  ///< Quiet states.
    std::string violation{};  ///< Empty: everything held. Else what did not, and the steps to it.
    std::set<Stage> stages{};  ///< Of the ends.
    std::set<registration::Outcome::Kind> outcomes{};  ///< Of the ends, on either host.
};

struct Visited {
    std::size_t from = 0;
    Label label{};
};

std::string trace(std::vector<Visited> const& visited, std::size_t at) {
    std::string text;
    for (; at != 0; at = visited[at].from) text = "\n  " + describe(visited[at].label) + text;
    return text;
}

/// Breadth first, so that a trace is one of the shortest.
Report explore(Setting const& setting) {
    Report report;
    std::vector<Visited> visited(1);
    std::unordered_set<std::string> seen;
    std::deque<std::pair<World, std::size_t>> queue;
    World const first(setting);
    seen.insert(first.key());
    queue.emplace_back(first, 0);
    while (!queue.empty() && visited.size() < states_max) {
        auto const [world, at] = std::move(queue.front());
        queue.pop_front();
        if (auto const broken = world.broken(); !broken.empty()) {
            report.violation = broken + trace(visited, at);
            break;
        }
        if (world.quiet()) {
            ++report.ends;
            report.stages.insert(world.stage());
            report.outcomes.insert(world.outcome(Host::source));
            report.outcomes.insert(world.outcome(Host::destination));
        }
        for (auto const label : world.labels()) {
            World next = world;
            next.happen(label);
            if (!seen.insert(next.key()).second && !next.has_broken()) continue;
            visited.push_back({at, label});
            queue.emplace_back(std::move(next), visited.size() - 1);
        }
    }
    if (visited.size() >= states_max && !sanitized) report.violation = "more states than expected";
    report.states = visited.size();
    return report;
}

}  // namespace

TEST_CASE("exploration: the binding is in the end where the guest is",
          "[mobile-ipv6][exploration]") {
    // All faults together are more than a million states abroad, so they come in turns there.
    struct Case {
        Scenario scenario;
        std::vector<Faults> faults;
    };
    auto const of = GENERATE(
        values<Case>({{Scenario::abroad,
                       {{.losses = 1, .doubles = 1, .restarts = 1, .early_timers = {0, 0}},
                        {.losses = 0, .doubles = 1, .restarts = 0, .early_timers = {0, 1}},
                        {.losses = 1, .doubles = 0, .restarts = 1, .early_timers = {0, 1}},
                        {.losses = 2, .doubles = 0, .restarts = 0, .early_timers = {0, 0}},
                        {.losses = 0, .doubles = 0, .restarts = 0, .early_timers = {1, 1}}}},
                      {Scenario::leaves_home,
                       {{.losses = 1, .doubles = 1, .restarts = 1, .early_timers = {0, 1}}}},
                      {Scenario::returns_home,
                       {{.losses = 1, .doubles = 1, .restarts = 1, .early_timers = {0, 1}}}}}));
    std::set<Stage> stages;
    std::set<registration::Outcome::Kind> outcomes;
    for (auto const& faults : of.faults) {
        auto const report = explore({.scenario = of.scenario, .faults = faults});
        INFO(report.states << " states, " << report.ends << " ends " << report.violation);
        CHECK(report.violation.empty());
        CHECK((report.ends > 100 || sanitized));
        stages.insert(report.stages.begin(), report.stages.end());
        outcomes.insert(report.outcomes.begin(), report.outcomes.end());
    }
    if (sanitized) return;
    // A search that visits nothing finds nothing.
    CHECK(stages.size() == 5);
    using Kind = registration::Outcome::Kind;
    CHECK(outcomes.contains(Kind::registered));
    CHECK(outcomes.contains(Kind::moved));
    CHECK(outcomes.contains(Kind::superseded) == (of.scenario != Scenario::returns_home));
}

TEST_CASE("exploration: a second move after a rollback", "[mobile-ipv6][exploration]") {
    // Updates of the first destination may still be under way.
    auto const report = explore(
        {.faults = {.losses = 0, .doubles = 0, .restarts = 0, .early_timers = {0, 1}, .moves = 2}});
    INFO(report.violation);
    CHECK(report.violation.empty());
    CHECK((report.ends > 100 || sanitized));
}

TEST_CASE("exploration: a home agent that takes equal numbers does no harm",
          "[mobile-ipv6][exploration]") {
    auto const report =
        explore({.agent_takes_equal_numbers = true,
                 .faults = {.losses = 0, .doubles = 1, .restarts = 0, .early_timers = {0, 1}}});
    INFO(report.violation);
    CHECK(report.violation.empty());
    CHECK((report.ends > 100 || sanitized));
}

TEST_CASE("exploration: each weaker rule is found", "[mobile-ipv6][exploration]") {
    if (sanitized) return;  // Most are found later than there.
    struct Case {
        Weaker weaker;
        Scenario scenario;
        char const* violation;
        Faults faults{};
    };
    auto const of = GENERATE(
        Case{Weaker::rollback_takes_next_number, Scenario::abroad, "an old update was taken"},
        Case{Weaker::rollback_skips_one_too_few, Scenario::abroad, "an old update was taken"},
        Case{Weaker::destination_has_no_limit,
             Scenario::abroad,
             "an old update was taken",
             {.losses = 0, .doubles = 0, .restarts = 0, .early_timers = {0, 2}}},
        Case{Weaker::destination_follows_135, Scenario::abroad, "an old update was taken"},
        Case{Weaker::source_goes_on, Scenario::abroad, "an old update was taken"},
        Case{Weaker::rollback_at_home_is_silent, Scenario::leaves_home, "bound, and the guest"},
        Case{Weaker::any_answer_counts,
             Scenario::abroad,
             "the binding is not where",
             {.losses = 1, .doubles = 1, .restarts = 0, .early_timers = {0, 0}}},
        Case{Weaker::no_retransmission, Scenario::abroad, "the guest's host ends as"},
        Case{Weaker::agent_takes_any_number, Scenario::abroad, "an old update was taken"},
        Case{Weaker::agent_forgets_at_restart, Scenario::abroad, "an old update was taken"},
        Case{Weaker::agent_forgets_at_release, Scenario::leaves_home, "an old update was taken"});
    auto const report =
        explore({.scenario = of.scenario, .weaker = of.weaker, .faults = of.faults});
    INFO("rule " << static_cast<int>(of.weaker) << ", " << report.states
                 << " states: " << report.violation);
    CHECK(report.violation.starts_with(of.violation));
}

}  // namespace mobile_ipv6_exploration_cases
