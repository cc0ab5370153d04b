// What SIGINT does to `sidecar migrate`: the first asks the sidecar to cancel, the second ends the
// command at once. In both cases the sidecar goes on with the migration by itself.
#pragma once

#include <stop_token>
#include <string>
#include <string_view>

#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/cli/progress.hpp"
#include "sidecar/host/journal_entry.hpp"

namespace sidecar {

/// SIGINT and SIGTERM, in the order in which they come.
struct Interrupts {
    explicit Interrupts(core::Loop& loop) : first(loop), second(loop) {}
    std::stop_source terminate;  ///< For daemons: with the first.
    core::Event first;
    core::Event second;
};

/// What a command that ends before the migration knows of it.
struct KnownOutcome {
    std::string_view where;  ///< Where the guest is, for a sentence.
    int exit_status;
};
/// `phase`: the last that the sidecar told, machine::source::name(); empty: none.
KnownOutcome known_outcome(std::string_view phase);
/// The same of a sidecar that ended during the migration: from the last record of its journal,
/// which outlives it.
KnownOutcome known_outcome_of_dead(JournalEntry const& last);

/// Cancels on the first interrupt; gives up (`give_up`) on the second, or when it was too late to
/// cancel and no outcome came within limits::outcome_patience. Ends with `done`.
core::Task<void> cancel_when_interrupted(Interrupts& interrupts, Connection& connection,
                                         ProgressView& view, std::stop_source& give_up,
                                         std::stop_token done);

}  // namespace sidecar
