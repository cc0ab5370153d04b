// MigrationRecord: the file migration.json in the guest's state directory. It describes a
// migration, and the user's settings that it changed in QEMU. Written by the source's driver and
// its parts, read by a later sidecar and by the watchdog. Invariant: a setting is in the durable
// file before it is changed.
#pragma once

#include <string>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class MigrationRecord {
public:
    explicit MigrationRecord(SourceContext context) : context_(context) {}

    /// Writes the whole record durably, in its current state. Fails with io.
    [[nodiscard]] core::Result<> write() const;
    /// Adds the I/O limits that the disks had before the migration changed them, and writes it.
    core::Result<> note_throttle(core::Json found);
    /// Adds QEMU's earlier migration settings, and writes it.
    core::Result<> note_ram_settings(core::Json found);
    /// Adds the addresses that the guest's name has in the DNS (null: none), and writes it.
    core::Result<> note_dns(core::Json found);
    /// Best effort: the journal decides, and the next migration overwrites the file.
    void remove() const;

    /// {migration_id, options, description, throttle?, ram_settings?, dns?} as an earlier sidecar
    /// wrote it; null: there is none. Fails with io, or if it is not JSON.
    static core::Result<core::Json> read(Paths const& paths, std::string const& guest);

private:
    SourceContext context_;
    core::Json throttle_;  ///< Null: nothing was changed.
    core::Json ram_settings_;  ///< Null: nothing was changed.
    core::Json dns_;  ///< Of DnsUpdate.
};

}  // namespace sidecar
