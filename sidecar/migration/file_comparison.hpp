// FileComparison: the files that both hosts have and that must be the same, at the source, in
// `check`: bases (`migrate --base`), and files that the guest only reads. Both hosts read each at
// the same time and compare its SHA-256. If the hashes differ, the first block that differs is
// found and named. Used by SourceMigration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class FileComparison {
public:
    /// Bytes of the files. A byte is done when both hosts have read it.
    struct Progress {
        std::uint64_t total_bytes = 0;  ///< 0: there is none.
        std::uint64_t done_bytes = 0;
    };

    explicit FileComparison(SourceContext context) : context_(context) {}

    /// Compares every base of the context's description, and every file that is not copied, and
    /// fills in its SHA-256. A file that is the base of several disks is compared once. Fails with
    /// refused if one differs at the destination, unless the guest has it in its memory already, or
    /// changed meanwhile; with timed_out if the destination makes no progress; with cancelled if
    /// the action is interrupted; otherwise with the peer's error.
    core::Task<core::Result<>> compare();
    /// A sentence for each file that differs and that the guest has in its memory.
    [[nodiscard]] std::vector<std::string> const& warnings() const { return warnings_; }
    /// How far compare() is, on both hosts together.
    [[nodiscard]] Progress progress() const;

private:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// One of them, as it is here.
    struct File {
        std::string path;
        storage::FileIdentity identity;
        std::string what;  ///< "the base /srv/base.raw"
        std::string remedy;  ///< The end of the refusal.
        bool may_differ = false;
        std::string sha256 = {};
    };
    [[nodiscard]] std::vector<File> files() const;
    void take(File const& compared);
    Outcome<> compare_one(File& file);
    Outcome<> hash_here(File const& file, std::string& hash);
    Outcome<> hash_there(File const& file, std::string& hash);
    Outcome<std::uint64_t> first_difference(File const& file);

    SourceContext context_;
    std::uint64_t total_bytes_ = 0;
    std::uint64_t before_bytes_ = 0;  ///< Of the files that are already compared.
    std::uint64_t here_bytes_ = 0;  ///< Of the current file, read by this host,
    std::uint64_t there_bytes_ = 0;  ///< and by the destination.
    std::vector<std::string> warnings_;
};

}  // namespace sidecar
