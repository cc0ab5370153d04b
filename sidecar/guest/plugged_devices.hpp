// The options of QEMU's command line that make hot-plugged devices again, at the same place: the
// devices themselves, and the drives, taps, character devices and objects that they use and that
// were made after QEMU's start too. Used by running_line.hpp.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

#include "qmp/block.hpp"
#include "qmp/block_graph.hpp"
#include "qmp/command_line.hpp"
#include "sidecar/guest/qom_devices.hpp"

namespace sidecar {

/// What a QEMU has besides its devices.
struct Backends {
    pid_t qemu = -1;
    std::string working_directory;  ///< QEMU's.
    std::vector<qmp::BlockDevice> drives;
    qmp::BlockGraph graph;
    std::vector<qmp::NetClient> network;
    /// Queues of vhost-net that taps have which came after QEMU's start.
    std::size_t later_vhost_queues = 0;
};
core::Task<core::Result<Backends>> backends_of(qmp::Client& client, pid_t qemu,
                                               std::string working_directory,
                                               core::Deadline deadline);
/// The host's name of a tap that this QEMU has.
core::Result<std::string> tap_name(Backends const& backends, qmp::NetClient const& client);

class PluggedDevices {
public:
    /// `line`: the guest's, which says what need not be made.
    PluggedDevices(qmp::Client& client, qmp::CommandLine const& line, Backends const& backends,
                   core::Deadline deadline)
        : client_(client), line_(line), backends_(backends), deadline_(std::move(deadline)) {}

    /// Fails with refused, in a sentence that names the device, if it cannot be made again.
    core::Task<core::Result<>> add(QomDevice device);

    /// Of a drive for CDs that the line makes: the medium that is in it now. Returns the name of
    /// its node or drive; empty: there is none.
    core::Result<std::string> add_medium(QomDevice const& device);

    [[nodiscard]] std::vector<qmp::Option> const& options() const { return options_; }
    /// What differs at the destination.
    [[nodiscard]] std::vector<std::string> const& warnings() const { return warnings_; }
    /// Ids and node-names that these devices use, also those of the line.
    [[nodiscard]] std::set<std::string> const& used() const { return used_; }
    /// Those of them that have another file or tap than the line says, under the same name.
    [[nodiscard]] std::set<std::string> const& replaced() const { return replaced_; }

private:
    core::Task<core::Result<>> add_place(QomDevice device, core::Json& given);
    /// Returns the name of its drive or node; empty: it has none.
    core::Result<std::string> add_drive(QomDevice const& device);
    core::Result<> add_nodes(QomDevice const& device, qmp::BlockDevice const& drive,
                             std::string const& name);
    core::Result<core::Json> node_options(QomDevice const& device, std::string const& name,
                                          bool read_only);
    /// The name that the node of a drive has on the line.
    [[nodiscard]] std::string name_on_line(std::string const& node) const;
    void add_drive_option(qmp::BlockDevice const& drive);
    core::Result<> add_netdev(QomDevice const& device, std::string const& id);
    core::Task<core::Result<>> add_object(QomDevice device, std::string id);
    core::Task<core::Result<>> add_chardev(QomDevice device, std::string id);
    core::Task<core::Result<>> add_links(QomDevice device, core::Json given);
    [[nodiscard]] bool line_has(std::string_view kind, std::string_view key,
                                std::string const& id) const;
    /// Once each.
    void add_option(std::string name, std::string value);

    qmp::Client& client_;
    qmp::CommandLine const& line_;
    Backends const& backends_;
    core::Deadline deadline_;
    std::vector<QomDevice> added_;
    std::vector<qmp::Option> options_;
    std::vector<std::string> warnings_;
    std::set<std::string> used_;
    std::set<std::string> replaced_;
    std::size_t vhost_queues_ = 0;  ///< That were given to a tap.
};

}  // namespace sidecar
