// `sidecar locate`: where a guest is, from the registry and from what this host has recorded.
#pragma once

#include <CLI/CLI.hpp>

#include "sidecar/cli/commands.hpp"

namespace sidecar {

/// Without --registry: from this host's own record. `terminate` ends --watch. Exit status: 0 found,
/// 1 the registry cannot be read (this host's record is printed), 3 there is no entry, or --repair
/// was refused.
core::Task<int> locate_command(core::Loop& loop, Options options, std::stop_token terminate);

/// Its options, except --registry, into `options`.
void add_locate_options(CLI::App& locate, Options& options);

}  // namespace sidecar
