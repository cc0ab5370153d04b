// SharedDisks: the disks on storage that both hosts see. They are not copied: the destination's
// QEMU opens the same images, and takes them over when the guest runs there. Used by the source's
// driver, in the check and when the destination is prepared. Invariant: only a disk that the
// destination has found by the source's mark, with the same inode, counts as shared.
#pragma once

#include <string>

#include "sidecar/migration/source_context.hpp"
#include "storage/shared_storage.hpp"

namespace sidecar {

class SharedDisks {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit SharedDisks(SourceContext context) : context_(context) {}

    /// Asks the destination which disks it sees, and moves them from `disks` to `shared` of the
    /// description. The marks must live until the destination has checked the guest. Fails with
    /// refused if a disk must be copied and `--with-storage` does not say so, or if both hosts
    /// would cache a disk; with the error of the request.
    Outcome<storage::DirectoryMarks> find();
    /// The marks once more, for the destination's checks before it opens the disks.
    [[nodiscard]] storage::DirectoryMarks mark() const;

private:
    Outcome<protocol::FindSharedAnswer> ask();
    Outcome<> check_caches();

    SourceContext context_;
};

}  // namespace sidecar
