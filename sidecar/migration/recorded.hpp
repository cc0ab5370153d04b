// The journal's record as an enumerator of the source's machine. Used by the source's driver after
// a restart, and by the watchdog.
#pragma once

#include "sidecar/host/journal_entry.hpp"
#include "sidecar/machine/source.hpp"

namespace sidecar {

/// Also `none` if the last migration is over, or was one into this host.
[[nodiscard]] machine::source::Record recorded_by_source(JournalEntry const& last);

}  // namespace sidecar
