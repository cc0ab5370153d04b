// `sidecar libvirt-hook`: libvirt asks it before it starts a guest (/etc/libvirt/hooks/qemu.d/). It
// refuses one that has moved away, or that a sidecar runs. Invariant: it refuses nothing else.
#pragma once

#include <CLI/CLI.hpp>

#include "core/task.hpp"
#include "sidecar/cli/options.hpp"

namespace sidecar {

/// Exit status: 0, libvirt may go on; 1, it must not. libvirt prints what is on stderr.
core::Task<int> libvirt_hook_command(core::Loop& loop, Options options);

/// The commands that deal with libvirt, as CLI11 parses them.
struct LibvirtCommands {
    void add_to(CLI::App& app, Options& options);

    CLI::App* monitor = nullptr;  ///< Hidden: a guest's sidecar starts it.
    CLI::App* definition = nullptr;  ///< Hidden, too.
    CLI::App* hook = nullptr;
};

}  // namespace sidecar
