// `sidecar home-agent`: the home agent of Mobile IPv6 on this router, and its status. Used by
// main.cpp.
#pragma once

#include "core/loop.hpp"
#include "core/task.hpp"
#include "sidecar/cli/options.hpp"

namespace sidecar {

/// Runs until SIGTERM or SIGINT; or checks, or prints the status. Returns a machine::ExitStatus.
core::Task<int> home_agent_command(core::Loop& loop, Options options, std::stop_token terminate);

}  // namespace sidecar
