// Option ROMs and firmware of a guest, compared between two hosts. QEMU loads them from the host's
// files into memory of the guest, and refuses the memory of a guest whose ROM has another size:
// after everything was copied. So their sizes are compared before. Used by the description and by
// the checks of the destination.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/loop.hpp"
#include "qmp/client.hpp"
#include "qmp/launch_policy.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

struct Description;

/// The option ROM of a PCI device.
struct OptionRom {
    std::string device;  ///< For people: its id, or "the device at 00:02.0".
    std::string file;  ///< Its property `romfile`: a path, or a name in QEMU's data directories.
    std::uint64_t bytes = 0;  ///< Of its memory in the guest: a power of two.
};

/// A file of -bios, or the read-only image of a flash.
struct Firmware {
    std::string path;  ///< At the source, absolute.
    std::uint64_t bytes = 0;
    std::string sha256;  ///< Empty: larger than limits::firmware_bytes_max, or not read in time.
};

core::Json option_roms_json(std::vector<OptionRom> const& roms);
core::Json firmware_json(std::vector<Firmware> const& firmware);
/// From a peer: fail with protocol. Null: none, of an older release.
core::Result<std::vector<OptionRom>> option_roms_from_json(core::Json const& json);
core::Result<std::vector<Firmware>> firmware_from_json(core::Json const& json);

/// Of the running guest, also those whose size the command line fixes (romsize=).
core::Task<core::Result<std::vector<OptionRom>>> option_roms_of(qmp::Client& client,
                                                                core::Deadline deadline);
/// Files that the line names and that can be read here.
core::Task<std::vector<Firmware>> firmware_of(core::Loop& loop, qmp::CommandLine line,
                                              std::string working_directory,
                                              core::Deadline deadline);

/// At the destination. Fails with refused if a ROM or a firmware has another size here: QEMU would
/// not load the guest. `line`: QEMU's here; nothing is said of files that it does not name.
core::Task<core::Result<>> check_roms(core::Loop& loop, HostMaps maps, qmp::AllowedLine line,
                                      Description const& description, core::Deadline deadline);
/// Firmware with the same size and another content, a sentence for each: the guest keeps its own
/// until QEMU starts again.
core::Task<std::vector<std::string>> firmware_warnings(core::Loop& loop, HostMaps maps,
                                                       qmp::AllowedLine line,
                                                       Description const& description,
                                                       core::Deadline deadline);

}  // namespace sidecar
