// What of QEMU's command line is not there any more: devices that were unplugged while the guest
// ran, and what only they used. Used by running_line.hpp. Pure.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "qmp/block.hpp"
#include "qmp/command_line.hpp"

namespace sidecar {

/// A device that an option of the line makes.
struct StartedDevice {
    std::size_t option = 0;  ///< Its place among the options.
    std::string id;  ///< Empty: none.
    int number = -1;  ///< Of one without an id: QEMU counts those as it makes them. Else -1.

    [[nodiscard]] std::string path() const;  ///< In QOM.
};
/// By -device, and by -drive if=virtio.
core::Result<std::vector<StartedDevice>> started_devices(qmp::CommandLine const& line);

/// The drives, nodes and netdevs that the options `gone` use and no others do: their places among
/// the options. `kept`: ids and node-names that other devices use.
std::set<std::size_t> only_used_by(qmp::CommandLine const& line, std::set<std::size_t> const& gone,
                                   std::set<std::string> const& kept);
/// The places of the options that make these drives, nodes and netdevs.
std::set<std::size_t> makers_of(qmp::CommandLine const& line, std::set<std::string> const& names);

}  // namespace sidecar
