// The limits of a guest's disks as QEMU has them now: those of its devices (-drive throttling.*,
// block_set_io_throttle) and those of throttle groups (-object throttle-group), which filters use.
// The destination starts with the limits of the command line, and gets these before the guest can
// run there. Not among them: the limits with which a migration slows a guest down (throttle.hpp).
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "qmp/client.hpp"
#include "qmp/command_line.hpp"

namespace sidecar {

struct Description;

struct ThrottleGroup {
    std::string id;
    core::Json limits;  ///< Its QOM property `limits`: {"bps-total": ..., ...}
};

core::Json throttle_groups_json(std::vector<ThrottleGroup> const& groups);
/// From a peer: fails with protocol.
core::Result<std::vector<ThrottleGroup>> throttle_groups_from_json(core::Json const& json);
/// The limits of one device, from a peer: null, or as block_set_io_throttle() takes them. Fails
/// with protocol.
core::Result<core::Json> limits_from_json(core::Json const& json);

/// The groups that are objects of this QEMU.
core::Task<core::Result<std::vector<ThrottleGroup>>> throttle_groups_of(qmp::Client& client,
                                                                        core::Deadline deadline);
/// Fails with refused if a group was made after QEMU's start.
core::Result<> check_groups_as_started(qmp::CommandLine const& line,
                                       std::vector<ThrottleGroup> const& groups);

/// At the destination: sets what differs in this QEMU from the limits of `description`.
core::Task<core::Result<>> set_io_limits(qmp::Client& client, Description const& description,
                                         core::Deadline deadline);

}  // namespace sidecar
