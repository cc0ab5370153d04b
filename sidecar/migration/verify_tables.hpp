// VerifyTables: `migrate --verify` at the source: one file for each disk, in the guest's state
// directory, with the hashes of what was sent. Used by SourceDisks. A later sidecar that continues
// the copy opens them again.
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

    /// New ones for the disks of the context's description; none without --verify. In `check`, when
    /// nothing was touched yet: they need room. Fails with io.
    core::Result<> make();
    /// Those of an earlier sidecar. Fails with io, or if they do not fit the disks.
    core::Result<> open();
    /// Removes the files, also those that are left from before a power loss. Tables that are open
    /// can be used further.
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
