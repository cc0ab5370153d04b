// The command line that a guest of another host gets here: the source's, with this host's names,
// and only if all of it is known to be safe (qmp/launch_policy.hpp). Used by the checks before a
// guest arrives, and by its launch. Invariant: no QEMU starts for a guest of another host with a
// line that did not pass here.
#pragma once

#include <string>
#include <vector>

#include "qmp/launch_policy.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// Directories that every guest may use; `serve --allow-path` and `--map-path` name more.
std::vector<std::string> const& default_guest_directories();

/// What the guest may use. QEMU inherits its monitor's socket and no taps.
qmp::LaunchPolicy policy_of(HostMaps const& maps, Description const& description);

/// FROM=TO applied to a path: the longest FROM that is the path or a directory above
/// it; else unchanged.
std::string map_path(HostMaps const& maps, std::string const& path);
/// Where the image of the disk is here: what the operator named, else its mapped path.
std::string image_path(HostMaps const& maps, MovedDisk const& disk);
/// The image would be a device that does not exist yet: in the check, `serve --disk-command`.
bool is_device_to_be_made(MovedDisk const& disk);
/// This host's bridge for the source's bridge; unchanged if no map names it.
std::string map_bridge(HostMaps const& maps, std::string const& bridge);
bool is_allowed_bridge(HostMaps const& maps, std::string const& bridge);

/// The source's command line, in which the images that become one are named as one.
core::Result<qmp::CommandLine> flattened(Description const& description);

/// The number under which QEMU inherits its connection to swtpm: after those of its taps, and of
/// so many sockets.
int tpm_descriptor(std::vector<qmp::TapDescriptors> const& taps, std::size_t sockets);

/// The numbers of the descriptors that QEMU inherits for sockets of character devices that were
/// another process's at the source; `taps` have the numbers before.
std::vector<qmp::SocketDescriptor> socket_numbers(qmp::CommandLine const& line,
                                                  std::vector<qmp::TapDescriptors> const& taps);

/// Where this host listens for such a character device. Fails with refused if its id cannot be part
/// of a socket's path.
core::Result<std::string> chardev_socket(Paths const& paths, std::string const& guest,
                                         std::string const& id);

/// QEMU's command line for this host, with the files that it names; taps are `taps`, already
/// opened, and sockets by socket_numbers(). `incoming`: as qmp::Mapping's. Fails with refused:
/// every option that may not run here.
core::Result<qmp::AllowedLine> map_command_line(HostMaps const& maps,
                                                Description const& description,
                                                std::vector<qmp::TapDescriptors> const& taps,
                                                bool incoming = true);

/// The program that runs here where the source ran `program`. Fails with refused.
core::Result<std::string> map_program(HostMaps const& maps, std::string const& program);

}  // namespace sidecar
