// The exit statuses are those that docs/man/sidecar.1 lists.
#include <catch2/catch.hpp>

#include "sidecar/cli/commands.hpp"
#include "sidecar/machine/source.hpp"

namespace exit_status_cases {

using namespace sidecar;
using machine::Outcome;
using machine::source::Phase;

TEST_CASE("exit status: of a migration's outcome", "[exit]") {
    std::pair<Outcome, int> const rows[] = {{Outcome::moved, 0},    {Outcome::none, 1},
                                            {Outcome::failed, 1},   {Outcome::refused, 3},
                                            {Outcome::in_doubt, 4}, {Outcome::cancelled, 5}};
    for (auto const& [outcome, status] : rows) {
        INFO(machine::name(outcome));
        CHECK(machine::exit_status(outcome) == status);
    }
}

TEST_CASE("exit status: 3 is only for a check that refuses", "[exit]") {
    using core::Errc;
    std::pair<Errc, int> const rows[] = {
        {Errc::io, 1},       {Errc::closed, 1},       {Errc::timed_out, 1}, {Errc::cancelled, 5},
        {Errc::protocol, 1}, {Errc::qemu_refused, 1}, {Errc::nbd, 1},       {Errc::netlink, 1},
        {Errc::refused, 3},  {Errc::invalid, 2}};
    for (auto const& [code, status] : rows) {
        INFO(core::name(code));
        CHECK(complain({code, 0, "a test", {}}) == status);
    }
}

TEST_CASE("exit status: of a command that ends before the migration does", "[exit]") {
    std::pair<Phase, int> const rows[] = {{Phase::checking, 130}, {Phase::preparing, 130},
                                          {Phase::copying, 130},  {Phase::converging, 130},
                                          {Phase::stopped, 130},  {Phase::switching, 130},
                                          {Phase::committed, 4},  {Phase::in_doubt, 4},
                                          {Phase::settling, 0},   {Phase::rolling_back, 1}};
    for (auto const& [phase, status] : rows) {
        INFO(name(phase));
        CHECK(known_outcome(name(phase)).exit_status == status);
    }
    CHECK(known_outcome("").exit_status == 130);
}

TEST_CASE("exit status: of a command whose sidecar ended during the migration", "[exit]") {
    using Record = sidecar::SourceEntry::Record;
    using Outcome = sidecar::SourceEntry::Outcome;
    auto const status = [](auto what) {
        return known_outcome_of_dead({"m1", std::move(what)}).exit_status;
    };
    CHECK(known_outcome_of_dead({}).exit_status == 1);
    CHECK(status(sidecar::SourceEntry{Record::begun}) == 1);
    CHECK(status(sidecar::SourceEntry{Record::rolled_back}) == 1);
    CHECK(status(sidecar::SourceEntry{Record::committed}) == 4);
    CHECK(status(sidecar::SourceEntry{Record::ended, Outcome::moved}) == 0);
    CHECK(status(sidecar::SourceEntry{Record::ended, Outcome::failed}) == 1);
    CHECK(status(sidecar::DestinationEntry{sidecar::DestinationEntry::Record::ended_owner}) == 1);
}

}  // namespace exit_status_cases
