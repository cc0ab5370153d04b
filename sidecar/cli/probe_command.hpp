// `sidecar probe`: watches addresses of a guest, or is their echo. Used by main.cpp. Invariant: the
// exit status says whether something was measured, never how good it was.
#pragma once

#include "core/sync.hpp"
#include "core/task.hpp"
#include "sidecar/cli/options.hpp"

namespace sidecar {

/// 0: measured (or the echo was ended), 1: could not measure, 2: usage. An interrupt ends it
/// with its report.
core::Task<int> probe_command(core::Loop& loop, Options options, std::stop_token interrupted);

}  // namespace sidecar
