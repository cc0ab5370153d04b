// Where the operator wants the disks of a guest at the destination (`migrate --disk`), and whether
// the destination knows block devices. Used by the source's driver, in the check.
#pragma once

#include "sidecar/migration/source_context.hpp"

namespace sidecar {

/// Puts the targets of the options into the description. Fails with refused if the guest has no
/// such disk, and names those that it has.
core::Result<> take_disk_targets(SourceContext context);

/// Fails with refused if a disk is on a block device, or has a target, and the destination's
/// release is too old for that. The destination is connected.
core::Result<> check_targets_known(SourceContext context);

}  // namespace sidecar
