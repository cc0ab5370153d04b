// Whether the disks of a guest that arrives, and the files that it reads, may be put where they are
// to go on this host: in a file that is created, or on a block device that is overwritten. Used by
// the checks before a guest arrives. Changes nothing. Invariant: a device is overwritten only if
// the operator named it, or if this same guest left it and it is unused since.
#pragma once

#include <vector>

#include "core/result.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/settings.hpp"
#include "storage/destination_image.hpp"

namespace sidecar {

/// Fails with refused: no directory, a file in the way, too little space; a device that was not
/// named, is too small, in use, or made read-only by someone else. `leftovers`: images of an
/// earlier migration of this guest, which is undone first.
core::Result<> check_places(Paths const& paths, HostMaps const& maps,
                            Description const& description,
                            std::vector<storage::DestinationImage> const& leftovers);

}  // namespace sidecar
