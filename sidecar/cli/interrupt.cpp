#include "sidecar/cli/interrupt.hpp"

#include <fmt/core.h>

#include "sidecar/host/limits.hpp"
#include "sidecar/machine/source.hpp"

namespace sidecar {

using core::Deadline;
using core::Task;
using machine::source::Phase;

KnownOutcome known_outcome(std::string_view phase) {
    auto const is = [phase](Phase one) { return phase == machine::source::name(one); };
    if (is(Phase::settling)) return {"the guest has moved", machine::exit_moved};
    if (is(Phase::committed) || is(Phase::in_doubt)) {
        return {"the guest is paused until the destination answers COMMIT", machine::exit_in_doubt};
    }
    if (is(Phase::rolling_back))
        return {"the migration is undone, and the guest stays on the source", machine::exit_failed};
    return {"the guest is on the source", machine::exit_interrupted};
}

KnownOutcome known_outcome_of_dead(JournalEntry const& last) {
    auto const* source = last.source();
    if (source != nullptr && source->record == SourceEntry::Record::committed) {
        return {"COMMIT is recorded: the guest is paused, or runs on the destination",
                machine::exit_in_doubt};
    }
    if (last.moved_away()) return {"the guest has moved", machine::exit_moved};
    return {"the guest stays on the source, where its watchdog resumes it", machine::exit_failed};
}

Task<void> cancel_when_interrupted(Interrupts& interrupts, Connection& connection,
                                   ProgressView& view, std::stop_source& give_up,
                                   std::stop_token done) {
    if (!co_await interrupts.first.wait(Deadline::never(done))) co_return;
    auto patience = Deadline::never(done);
    auto const answer =
        co_await connection.request(protocol::Cancel{}, Deadline::after(limits::qmp_timeout, done));
    view.clear();
    if (answer) {
        fmt::print(stderr, "cancelling... (interrupt again to stop waiting for it)\n");
    } else if (!done.stop_requested()) {
        patience = Deadline::after(limits::outcome_patience, done);
        fmt::print(stderr, "{}; waiting for its outcome for {} s (interrupt again to end)\n",
                   answer.error().sentence(), limits::outcome_patience.count());
    }
    (void)co_await interrupts.second.wait(patience);
    if (!done.stop_requested()) give_up.request_stop();
}

}  // namespace sidecar
