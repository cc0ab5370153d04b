// VerifyTables: `migrate --verify` at the source: one file for each disk, in the guest's state
// directory, with the hashes of the data that was sent. Used by SourceDisks. A later sidecar that
// continues the copy opens them again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "sidecar/migration/source_context.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

class VerifyTables {
public:
    explicit VerifyTables(SourceContext context) : context_(context) {}

    /// Creates new tables for the disks of the context's description; none without --verify. Called
    /// in `check`, before anything is changed, because they need space. Fails with io.
    core::Result<> make();
    /// Opens those of an earlier sidecar. Fails with io, or if they do not fit the disks.
    core::Result<> open();
    /// Removes the files, also those left from before a power loss. Open tables remain usable.
    void remove() const;
    /// Null without --verify.
    [[nodiscard]] std::shared_ptr<storage::BlockTable> table(std::size_t disk) const {
        return disk < tables_.size() ? tables_[disk] : nullptr;
    }

private:
    [[nodiscard]] std::string path(std::size_t disk) const;

    SourceContext context_;
    std::vector<std::shared_ptr<storage::BlockTable>> tables_;
};

}  // namespace sidecar
