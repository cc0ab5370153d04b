// BaseComparison: `migrate --base` at the source, in `check`. Both hosts read each base at the same
// time and compare its SHA-256. If the hashes differ, the first block that differs is found and
// named. Used by SourceMigration.
#pragma once

#include <cstdint>
#include <string>

#include "core/sync.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class BaseComparison {
public:
    /// Bytes of base files. A byte is done when both hosts have read it.
    struct Progress {
        std::uint64_t total_bytes = 0;  ///< 0: there is no base.
        std::uint64_t done_bytes = 0;
    };

    explicit BaseComparison(SourceContext context) : context_(context) {}

    /// Compares every base of the context's description and fills in its SHA-256. A file that is
    /// the base of several disks is compared once. Fails with refused if a base differs at the
    /// destination or changed meanwhile; with timed_out if the destination makes no progress; with
    /// cancelled if the action is interrupted; otherwise with the peer's error.
    core::Task<core::Result<>> compare();
    /// How far compare() is, on both hosts together.
    [[nodiscard]] Progress progress() const;

private:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    Outcome<> compare_one(Base& base);
    Outcome<> hash_here(Base const& base, std::string& hash);
    Outcome<> hash_there(Base const& base, std::string& hash);
    Outcome<std::uint64_t> first_difference(Base const& base);

    SourceContext context_;
    std::uint64_t total_bytes_ = 0;
    std::uint64_t before_bytes_ = 0;  ///< Of the bases that are already compared.
    std::uint64_t here_bytes_ = 0;  ///< Of the current base, read by this host,
    std::uint64_t there_bytes_ = 0;  ///< and by the destination.
};

}  // namespace sidecar
