// The ports on which the destination's QEMU receives disks and RAM: whether this host reaches them,
// tried before anything is touched. Used by SourceMigration.
#pragma once

#include <string>

#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

/// Connects to the port on which the destination listens for this. Fails with refused, saying what
/// to open. Nothing is tried with a destination whose release has no such port.
core::Task<core::Result<>> check_data_port(SourceContext context, protocol::DataPort there);

/// For `migrate --check`; empty: nothing was tried.
std::string data_port_line(protocol::DataPort const& there, std::string const& destination);

}  // namespace sidecar
