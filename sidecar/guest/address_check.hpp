// Whether this host has, and has free, the addresses on which QEMU is to listen for a guest that
// arrives. Used by the checks before it arrives: QEMU itself would find out after the disks exist.
#pragma once

#include "qmp/command_line.hpp"

namespace sidecar {

/// `line`: of this host. Tries to listen on each address and port, and stops again. Fails with
/// refused: which option, which address, and what to do. Names of hosts are left to QEMU.
core::Result<> check_bound_addresses(qmp::CommandLine const& line);

}  // namespace sidecar
