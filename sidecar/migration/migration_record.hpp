// MigrationRecord: the file migration.json in the guest's state directory: what a migration is, and
// which of the user's settings it changed in QEMU. Written by the source's driver and its parts,
// read by a later sidecar and by the watchdog. Invariant: a setting is in the durable file before
// it is changed.
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

    /// Writes all of it durably, as it is now. Fails with io.
    [[nodiscard]] core::Result<> write() const;
    /// The same with the I/O limits that the disks had before the migration changed them.
    core::Result<> note_throttle(core::Json found);
    /// The same with QEMU's migration settings.
    core::Result<> note_ram_settings(core::Json found);
    /// Best effort: the journal has the last word, and the next migration overwrites the file.
    void remove() const;

    /// {migration_id, options, description, throttle?, ram_settings?} as an earlier sidecar wrote
    /// it; null: there is none. Fails with io, or when it is no JSON.
    static core::Result<core::Json> read(Paths const& paths, std::string const& guest);

private:
    SourceContext context_;
    core::Json throttle_;  ///< Null: nothing was changed.
    core::Json ram_settings_;  ///< Null: nothing was changed.
};

}  // namespace sidecar
