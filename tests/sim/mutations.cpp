// The search must catch each weaker rule of mutation.hpp. The first seven make two copies of a
// guest run. Prints the shortest trace of each.
#include "tests/sim/explorer.hpp"

#include <catch2/catch.hpp>

using namespace sim;

namespace {

void must_be_caught(Mutation mutation) {
    Report const report = explore(mutation, Check::one_guest);
    if (sanitized && report.violation.empty()) return;  // it lies deeper than the limit
    INFO(name(mutation));
    REQUIRE(report.violation.starts_with("I1"));
    WARN(name(mutation) << ", caught after " << report.states << " states by a trace of "
                        << report.trace_length << " steps:\n"
                        << report.violation);
}

/// The violation must begin with `how`: any other one would have been caught by chance.
void must_break(Mutation mutation, Check check, std::string_view how,
                Start start = Start::running) {
    Report const report = explore(mutation, check, start);
    if (sanitized && report.violation.empty()) return;
    INFO(name(mutation) << ": " << report.violation);
    WARN(name(mutation) << ", caught after " << report.states << " states:\n" << report.violation);
    REQUIRE(report.violation.starts_with(how));
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
TEST_CASE("images that keep their names until the destination has answered are caught",
          "[sim][mutation]") {
    must_be_caught(Mutation::stale_disk_named);
}

// The search has to go deep for these two: they run with those that follow.
TEST_CASE("ABORTED answered before it is durable is caught", "[sim][mutation][weaker]") {
    must_be_caught(Mutation::aborted_sent_before_durable);
}
TEST_CASE("an operator who fences nothing is caught", "[sim][mutation][weaker]") {
    must_be_caught(Mutation::operator_fences_nothing);
}

// These do not make a second copy run. They lose the guest's writes or its images, pause the guest
// for ever, leave its addresses at the wrong host, or leave other state.
TEST_CASE("each weaker rule is caught, by the invariant that it breaks",
          "[sim][mutation][weaker]") {
    struct Row {
        Mutation mutation;
        Check check;
        std::string_view how;
    };
    auto const row = GENERATE(values<Row>({
        {Mutation::watchdog_records_nothing, Check::safety, "I4"},
        {Mutation::watchdog_ignores_commit, Check::safety, "I2"},
        {Mutation::unknown_commit_is_failed, Check::safety, "I2"},
        {Mutation::silence_is_aborted, Check::safety, "I2"},
        {Mutation::rollback_not_durable, Check::safety, "I5"},
        {Mutation::guest_before_images, Check::safety, "I5"},
        {Mutation::lost_delta_is_copied, Check::safety, "I4"},
        {Mutation::failed_seal_is_sealed, Check::safety, "I5"},
        {Mutation::owner_not_durable, Check::safety, "I2"},
        {Mutation::watchdog_leaves_switchover, Check::safety, "I3"},
        {Mutation::guest_not_started, Check::all, "I3"},
        {Mutation::failed_migration_not_heard, Check::all, "I3"},
        {Mutation::network_before_stop, Check::safety, "I8"},
        {Mutation::network_not_returned, Check::all, "I8"},
        {Mutation::images_not_marked, Check::all, "I5"},
        {Mutation::source_qemu_left, Check::all, "I6"},
        {Mutation::source_exports_left, Check::all, "I6"},
        {Mutation::destination_left, Check::all, "I6"},
    }));
    must_break(row.mutation, row.check, row.how);
}
TEST_CASE("a guest that did not run before and is continued is caught", "[sim][mutation][weaker]") {
    for (auto const mutation :
         {Mutation::watchdog_forgets_stopped, Mutation::destination_forgets_stopped}) {
        must_break(mutation, Check::safety, "I11", Start::stopped);
    }
}
