// How the end of an action of the drivers is told to their machines. Used by source_migration.cpp
// and destination_migration.cpp.
#pragma once

#include "core/result.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

/// What a result says about whether the action happened. An answer that was lost may hide a
/// success, and so may a write of the journal (`record`) that the disk reported as failed: it may
/// be durable all the same.
inline machine::ActionResult action_result_of(core::Result<> const& result, bool record) {
    using core::Errc;
    if (result) return machine::ActionResult::ok;
    bool const lost = result.error().code == Errc::closed ||
                      result.error().code == Errc::timed_out ||
                      result.error().code == Errc::cancelled;
    return record || lost ? machine::ActionResult::unknown : machine::ActionResult::failed;
}

}  // namespace sidecar
