// DiskCommand: `serve --disk-command PROGRAM`. The administrator of this host gives each disk that
// comes its place: a block device, or the path of a file that is then created. A source names
// neither the program nor the place. Used by DestinationMigration, and for what a killed sidecar
// has left.
//
//   PROGRAM check GUEST DISK BYTES    prints where `create` would put the disk; makes nothing
//   PROGRAM create GUEST DISK BYTES   makes the device, and prints its path
//   PROGRAM remove GUEST DISK BYTES   the migration has failed: what `create` made goes
//
// Invariant: the record names a disk before `create` runs for it, and `remove` runs for each disk
// that the record names, unless the guest belongs to this host.
#pragma once

#include <functional>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "sidecar/migration/incoming_record.hpp"

namespace sidecar {

class DiskCommand {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit DiskCommand(DestinationContext context) : context_(context) {}

    [[nodiscard]] bool is_set() const { return !context_.options.disk_command.empty(); }
    /// Fills in the targets of those disks for which the operator of `migrate` named none. Fails
    /// with refused, quoting the program.
    Outcome<> ask(Description& description) const;
    /// The same, and makes them, for the context's description. `record` is called before the
    /// first.
    Outcome<> create(std::function<core::Result<>()> record);
    /// Removes what create() made, or an earlier sidecar did. The log has the failures.
    core::Task<void> remove();

    /// For the record of this migration.
    void add_to(IncomingRecord& record) const { record.made_disks = made_; }
    /// As an earlier sidecar recorded them.
    void restore(IncomingRecord const& record) { made_ = record.made_disks; }

private:
    DestinationContext context_;
    std::vector<MadeDisk> made_;
};

/// Runs `remove` for disks of another migration of this guest. The log has the failures.
core::Task<void> remove_made_disks(DestinationContext context, std::vector<MadeDisk> disks);

}  // namespace sidecar
