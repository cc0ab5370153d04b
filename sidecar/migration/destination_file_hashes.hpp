// DestinationFileHashes: the hash of a file that shall be here as it is at the source: the base of
// a disk (`migrate --base`), or a file that the guest only reads. It changes nothing and does not
// involve the machine. A whole file is read only once, however often it is requested, and its hash
// is kept. Used by DestinationMigration; FileComparison is the source's half.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "storage/file_hash.hpp"

namespace sidecar {

class DestinationFileHashes {
public:
    explicit DestinationFileHashes(DestinationContext context)
        : context_(context), reading_(context.loop) {}

    /// The hash of a file or of a part of it. While a whole file is read, the answer is the
    /// progress, and the source asks again. Fails with refused if these are too many files, or with
    /// the error of reading.
    core::Task<core::Result<protocol::HashFileAnswer>> hash(protocol::HashFile request);
    /// Before anything is created: checks that the files that are not copied are those that were
    /// compared, and that they were the same. Fails with refused.
    [[nodiscard]] core::Result<> check_compared() const;
    /// Joins the tasks. Call before destruction, after the context's `stop` was triggered.
    core::Task<void> join() { return reading_.join(); }

private:
    struct Hashing {
        explicit Hashing(core::Loop& loop) : finished(loop) {}
        std::uint64_t done_bytes = 0;
        core::Event finished;
        core::Result<storage::FileHash> hash = core::fail(core::Errc::closed, "not known yet");
    };
    core::Task<void> read(std::string path, std::shared_ptr<Hashing> into);
    static bool still_right(Hashing const& base, std::string const& path);
    /// `path`: here.
    [[nodiscard]] core::Result<bool> is_compared(std::string const& path,
                                                 std::string const& sha256) const;

    DestinationContext context_;
    std::map<std::string, std::shared_ptr<Hashing>> hashes_;  ///< By path here.
    core::TaskGroup reading_;
};

}  // namespace sidecar
