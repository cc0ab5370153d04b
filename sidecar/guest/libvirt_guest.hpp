// The QEMU of a guest that libvirt has started, as its sidecar joins it: its monitor, its process,
// and its command line without what is libvirt's own. Used by Guest::attach.
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/process.hpp"
#include "core/task.hpp"
#include "qmp/command_line.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

/// A domain of libvirt.
struct LibvirtGuest {
    std::string uri;
    std::string uuid;
    std::vector<std::string> lost = {};  ///< What the guest does not have elsewhere: sentences.

    [[nodiscard]] core::Json to_json() const;
};

struct LibvirtQemu {
    core::Process process;
    std::string qmp_socket;
    qmp::CommandLine command_line;
    LibvirtGuest guest;
};

/// Where the guest's libvirt is: as the options say, or the manifest of an earlier sidecar. Empty:
/// it is no guest of libvirt.
std::string libvirt_uri_of(AttachOptions const& options, core::Json const& manifest);

/// Finds the QEMU of the domain `name`. Its monitor is one that the domain's definition adds
/// (-qmp unix:PATH), or a process that passes QMP through libvirt. Fails with refused, and with
/// closed if the QEMU of the manifest has ended.
core::Task<core::Result<LibvirtQemu>> join_libvirt(core::Loop& loop, Paths paths, std::string name,
                                                   AttachOptions options, core::Json manifest,
                                                   core::Deadline deadline);

}  // namespace sidecar
