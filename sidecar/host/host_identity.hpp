// HostIdentity: which host this is, for the records that other hosts read. The id belongs to the
// state directory: a host that has lost its journals is another host, because it no longer knows
// which guests have left it.
#pragma once

#include <string>

#include "core/result.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

struct HostIdentity {
    std::string id;  ///< 16 hex digits, random; empty: a release that has none.
    std::string name;  ///< uname(2)'s nodename: for people.
    friend bool operator==(HostIdentity const&, HostIdentity const&) = default;
};

/// Checks the identity that another host has sent. Fails with protocol.
core::Result<HostIdentity> checked_identity(std::string id, std::string name);

/// This host's identity; the first call makes the id, durably. Several processes may do so at once.
/// Fails with io, or with invalid when the file is not ours.
core::Result<HostIdentity> host_identity(Paths const& paths);

}  // namespace sidecar
