// How the drivers report the end of an action to their machines. Used by
// source_migration.cpp and destination_migration.cpp.
#pragma once

#include "core/result.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

/// What a result means for an action: whether it happened. After a lost answer the
/// action may have succeeded. The same holds for a record of the journal whose
/// sync failed: Journal::may_be_recorded().
inline machine::ActionResult action_result_of(core::Result<> const& result, bool may_be_recorded) {
    using core::Errc;
    if (result) return machine::ActionResult::ok;
    bool const lost = result.error().code == Errc::closed ||
                      result.error().code == Errc::timed_out ||
                      result.error().code == Errc::cancelled;
    return may_be_recorded || lost ? machine::ActionResult::unknown : machine::ActionResult::failed;
}

}  // namespace sidecar
