// How the end of an action of the drivers is told to their machines. Used by source_migration.cpp
// and destination_migration.cpp.
#pragma once

#include "core/result.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

/// What a result says about whether the action happened. An answer that was lost may hide a
/// success, and so may a record of the journal whose sync failed: Journal::may_be_recorded().
inline machine::ActionResult action_result_of(core::Result<> const& result, bool may_be_recorded) {
    using core::Errc;
    if (result) return machine::ActionResult::ok;
    bool const lost = result.error().code == Errc::closed ||
                      result.error().code == Errc::timed_out ||
                      result.error().code == Errc::cancelled;
    return may_be_recorded || lost ? machine::ActionResult::unknown : machine::ActionResult::failed;
}

}  // namespace sidecar
