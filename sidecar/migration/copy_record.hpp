// CopyRecord: the progress of the disk copy, written to a file during the copy. The file and the
// bitmaps, which QEMU keeps, are all that a sidecar needs to continue the copy of one that was
// killed. Used by SourceDisks. The file is in the run directory and is not synced: if the host goes
// down, QEMU and its bitmaps are lost too.
//
// Invariant: the file exists only in the copying phase. A later sidecar that finds it knows that no
// RAM was sent and that nothing was fired.
#pragma once

#include <optional>
#include <string>

#include "sidecar/migration/source_context.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

class CopyRecord {
public:
    explicit CopyRecord(SourceContext context) : context_(context) {}

    /// Writes the progress, if it differs from the last one written. None: this copy cannot be
    /// continued now, and the file is removed. If the file cannot be written, the log says so.
    void write(std::optional<storage::CopyProgress> const& progress);
    void remove() const;
    /// What an earlier sidecar wrote; none if there is nothing of this migration that
    /// fits its disks.
    [[nodiscard]] std::optional<storage::CopyProgress> read() const;

private:
    [[nodiscard]] std::string path() const;

    SourceContext context_;
    std::string written_;  ///< As last written.
};

}  // namespace sidecar
