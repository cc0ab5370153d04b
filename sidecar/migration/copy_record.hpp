// CopyRecord: how far the disks are, written to a file while they are copied. Together with the
// bitmaps, which QEMU keeps, this is all that a sidecar needs to continue the copy of one that was
// killed. Used by SourceDisks. The file is in the run directory and is not synced: when the host
// goes down, so does QEMU with its bitmaps.
//
// Invariant: the file exists only in the copying phase. A later sidecar that finds it knows that no
// RAM travels and that nothing was fired.
#pragma once

#include <optional>
#include <string>

#include "sidecar/migration/source_context.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

class CopyRecord {
public:
    explicit CopyRecord(SourceContext context) : context_(context) {}

    /// Writes it, if it differs from what was written last. None: this copy cannot be continued
    /// now, and the file is removed. If it cannot be written, the log says so.
    void write(std::optional<storage::CopyProgress> const& progress);
    void remove() const;
    /// What an earlier sidecar wrote; none if there is nothing of this migration that fits its
    /// disks.
    [[nodiscard]] std::optional<storage::CopyProgress> read() const;

private:
    [[nodiscard]] std::string path() const;

    SourceContext context_;
    std::string written_;  ///< As last written.
};

}  // namespace sidecar
