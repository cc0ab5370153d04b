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

void must_break(Mutation mutation) {
    Report const report = explore(mutation, Check::safety);
    if (sanitized && report.violation.empty()) return;
    WARN(name(mutation) << ", caught after " << report.states << " states:\n" << report.violation);
    REQUIRE_FALSE(report.violation.empty());
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
TEST_CASE("images that keep their names until the destination has answered are caught",
          "[sim][mutation]") {
    must_be_caught(Mutation::stale_disk_named);
}

// These make no second copy run; they lose what the guest wrote since, or its images.
TEST_CASE("a watchdog that continues without a record loses what the guest wrote since",
          "[sim][mutation]") {
    must_break(Mutation::watchdog_records_nothing);
}
TEST_CASE("a COMMIT that may be durable and is taken for one that is not there is caught",
          "[sim][mutation]") {
    must_break(Mutation::unknown_commit_is_failed);
}
TEST_CASE("a silent destination that is taken for ABORTED is caught", "[sim][mutation]") {
    must_break(Mutation::silence_is_aborted);
}
TEST_CASE("a guest that goes on before its images have their names again is caught",
          "[sim][mutation]") {
    must_break(Mutation::guest_before_images);
}
