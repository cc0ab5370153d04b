// What SIGINT does to `sidecar migrate`: the first asks the sidecar to cancel, the second ends the
// command at once. In both cases the sidecar continues by itself.
#pragma once

#include <stop_token>
#include <string>
#include <string_view>

#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/cli/progress.hpp"
#include "sidecar/host/journal_entry.hpp"

namespace sidecar {

/// SIGINT and SIGTERM, in the order in which they arrive.
struct Interrupts {
    explicit Interrupts(core::Loop& loop) : first(loop), second(loop) {}
    std::stop_source terminate;  ///< For daemons: set together with `first`.
    core::Event first;
    core::Event second;
};

/// What a command that ends before the migration knows about it.
struct KnownOutcome {
    std::string_view where;  ///< Where the guest is, for a sentence.
    int exit_status;
};
/// `phase`: the last one that the sidecar reported, machine::source::name(); empty: none.
KnownOutcome known_outcome(std::string_view phase);
/// The same for a sidecar that ended during the migration, from the last record of its journal.
KnownOutcome known_outcome_of_dead(JournalEntry const& last);

/// Cancels on the first interrupt. Gives up (`give_up`) on the second, or if it was too late to
/// cancel and no outcome came within limits::outcome_patience. Ends with `done`.
core::Task<void> cancel_when_interrupted(Interrupts& interrupts, Connection& connection,
                                         ProgressView& view, std::stop_source& give_up,
                                         std::stop_token done);

}  // namespace sidecar
