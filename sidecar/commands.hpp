// The commands that talk to a guest's sidecar and show a person what it says. Each returns the exit
// status.
#pragma once

#include "sidecar/connection.hpp"
#include "sidecar/options.hpp"

namespace sidecar {

/// The exit statuses of every command.
enum ExitStatus : int {
    moved = 0,
    failed = 1,
    usage = 2,
    refused = 3,
    in_doubt = 4,
    cancelled = 5
};

/// Asks for the migration, shows its progress, writes the report. An interrupt (SIGINT, SIGTERM)
/// cancels the migration and waits for its end.
core::Task<int> migrate_command(core::Loop& loop, Options options, core::Event& interrupted);
core::Task<int> status_command(core::Loop& loop, Options options);
core::Task<int> set_command(core::Loop& loop, Options options);
core::Task<int> cancel_command(core::Loop& loop, Options options);
core::Task<int> resolve_command(core::Loop& loop, Options options);
/// What this host offers; 0 when it can run and receive guests, 3 when something is missing.
core::Task<int> check_command(core::Loop& loop, Options options);

/// Prints `error: SENTENCE` and gives the exit status for it.
int complain(core::Error const& error);

}  // namespace sidecar
