// Media of CD drives that were changed, inserted or ejected since QEMU's start. Used by
// running_line.hpp.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "sidecar/guest/plugged_devices.hpp"
#include "sidecar/guest/unplugged_devices.hpp"

namespace sidecar {

/// Makes each -drive and -cdrom name the medium that is in it now.
void put_media_of_drives(std::vector<qmp::Option>& options, Backends const& backends);

/// The same for CD drives whose media are block nodes: `devices` of the line. The nodes come from
/// `plugged`. Returns the names of the nodes that are in no drive any more.
core::Result<std::set<std::string>> put_media_of_nodes(std::vector<qmp::Option>& options,
                                                       std::vector<StartedDevice> const& devices,
                                                       Backends const& backends,
                                                       PluggedDevices& plugged);

}  // namespace sidecar
