// Whether a file that a guest of another host names lies where it says: symbolic links and `..` may
// not lead out of the directories that `serve` allows. A link to a block device in /dev may, if it
// is for a disk that moves. Used by the checks before a guest arrives. Changes nothing. Invariant:
// who may write to the allowed directories on this host is trusted; a guest and its source are not.
#pragma once

#include "qmp/launch_policy.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// Fails with refused, naming the option: the file is in no directory of the policy, its path leads
/// out of it, or into sidecar's own directories; it would be overwritten, unless it is a log or a
/// pidfile; it is the socket of a running program; or it is an image that names such a file. With
/// io if the kernel does not say.
core::Result<> check_file_use(Paths const& paths, qmp::LaunchPolicy const& policy,
                              qmp::FileUse const& use);

}  // namespace sidecar
