// The images of guests that left this host, or are leaving it: which of them must get their names
// back, and which must not be started. Used by `sidecar run` and the watchdog, when they have no
// migration of their own.
#pragma once

#include <string>
#include <vector>

#include "core/result.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// Gives the images of the guest's migration their names back (storage::restore_images), from what
/// its sidecar recorded. Ok if it recorded none. Call only if COMMIT of that migration cannot
/// count: the journal says `begun` or `rolled_back`.
core::Result<> restore_recorded_images(Paths const& paths, std::string const& guest,
                                       std::string const& migration_id);

/// Whether QEMU may be started with the command line `argv`: none of its disks is the image of a
/// guest that moved away, or of any guest of this host whose migration is in doubt. Fails with
/// refused and names the image.
core::Result<> check_no_stale_image(Paths const& paths, std::vector<std::string> const& argv);

}  // namespace sidecar
