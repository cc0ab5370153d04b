// Each of the weaker commit rules, put in on purpose, must make two copies of a guest run; that the
// search finds it, and how, is what shows that the search can see. The shortest trace of each is
// printed.
#include "tests/sim/explorer.hpp"

#include <catch2/catch.hpp>

using namespace sim;

namespace {

void must_be_caught(Mutation mutation) {
    Report const report = explore(mutation, Check::one_guest);
    if (sanitized && report.violation.empty()) return;  // it is deeper than is looked then
    INFO(name(mutation));
    REQUIRE(report.violation.starts_with("I1"));
    WARN(name(mutation) << ", caught after " << report.states << " states by a trace of "
                        << report.trace_length << " steps:\n"
                        << report.violation);
}

}  // namespace

TEST_CASE("a destination without -S is caught", "[sim][mutation]") {
    must_be_caught(Mutation::destination_without_S);
}
TEST_CASE("a destination that starts on its own completed is caught", "[sim][mutation]") {
    must_be_caught(Mutation::destination_starts_on_loaded);
}
TEST_CASE("a source that resumes on silence after COMMIT is caught", "[sim][mutation]") {
    must_be_caught(Mutation::source_resumes_on_silence);
}
TEST_CASE("COMMIT sent before it is durable is caught", "[sim][mutation]") {
    must_be_caught(Mutation::commit_sent_before_durable);
}
TEST_CASE("ABORTED answered before it is durable is caught", "[sim][mutation]") {
    must_be_caught(Mutation::aborted_sent_before_durable);
}
TEST_CASE("a source host that starts the guest from its stale disk is caught", "[sim][mutation]") {
    must_be_caught(Mutation::stale_disk_started);
}

// Not one of the six, but as needful: a write of a dead sidecar may land late.
TEST_CASE("a watchdog that continues without a record loses what the guest wrote since",
          "[sim][mutation]") {
    Report const report = explore(Mutation::watchdog_records_nothing, Check::safety);
    if (sanitized && report.violation.empty()) return;
    WARN(report.violation);
    REQUIRE_FALSE(report.violation.empty());
}
