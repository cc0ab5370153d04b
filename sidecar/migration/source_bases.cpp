// `migrate --base` at the source, in `check`: both hosts read each base at the same time and
// compare its SHA-256; where they differ, the first block that does is looked for and named.
#include <algorithm>

#include "sidecar/migration/source_migration.hpp"
#include "storage/when_all.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<>> SourceMigration::compare_bases() {
    // Disks may share a base: it is one file, and compared once.
    std::map<std::string, Base*> compared;
    base_progress_ = {};
    for (auto& disk : description_.disks) {
        for (auto& base : disk.bases) {
            if (compared.emplace(base.path, &base).second) {
                base_progress_.total_bytes += base.bytes;
            }
        }
    }
    for (auto const& [path, base] : compared) {
        CO_TRY_VOID(co_await compare_base(*base));
        base_progress_.before_bytes += base->bytes;
        base_progress_.here_bytes = base_progress_.there_bytes = 0;
    }
    for (auto& disk : description_.disks) {
        for (auto& base : disk.bases) base.sha256 = compared[base.path]->sha256;
    }
    co_return Result<>{};
}

Task<Result<>> SourceMigration::compare_base(Base& base) {
    std::string there;
    std::vector<Task<Result<>>> both;
    both.push_back(hash_here(base, base.sha256));
    both.push_back(hash_there(base, there));
    CO_TRY_VOID(co_await storage::when_all(loop_, std::move(both)));
    if (there == base.sha256) co_return Result<>{};
    CO_TRY(auto const offset, co_await first_difference(base));
    co_return fail(Errc::refused,
                   "the base {} differs at byte {} (within {} bytes) from the destination's: copy "
                   "it there again, or leave out --base",
                   base.path, offset, limits::base_block_bytes);
}

Task<Result<>> SourceMigration::hash_here(Base const& base, std::string& hash) {
    storage::HashMemory const memory(guest_.paths.file_hashes());
    auto const begun = std::chrono::system_clock::now();
    if (auto const known = memory.find(base.identity)) {
        hash = *known;
        base_progress_.here_bytes = base.bytes;
        co_return Result<>{};
    }
    CO_TRY(auto const made, co_await storage::hash_file(loop_, base.path, base_progress_.here_bytes,
                                                        within(limits::base_hash_timeout)));
    if (made.identity != base.identity) {
        co_return fail(Errc::refused, "the base {} changed while it was compared", base.path);
    }
    memory.remember(made, begun);
    hash = made.sha256;
    co_return Result<>{};
}

Task<Result<>> SourceMigration::hash_there(Base const& base, std::string& hash) {
    protocol::HashBase const question{base.path, 0, 0};
    auto const until = within(limits::base_hash_timeout);
    auto patience = until.sooner(limits::base_patience);
    while (!until.passed()) {
        auto const reply = co_await peer_->request(question, until.sooner(limits::base_patience));
        if (!reply) co_return std::unexpected(reply.error());
        hash = reply->sha256;
        auto const done = reply->done_bytes;
        if (!hash.empty()) base_progress_.there_bytes = base.bytes;
        if (!hash.empty()) co_return Result<>{};
        if (done > base_progress_.there_bytes) patience = until.sooner(limits::base_patience);
        base_progress_.there_bytes = std::max(base_progress_.there_bytes, done);
        if (patience.passed()) break;
    }
    co_return fail(Errc::timed_out, "the destination does not get on with reading the base {}",
                   base.path);
}

/// The first block of the base that the destination has otherwise, by its offset: part by part,
/// then by halves.
Task<Result<std::uint64_t>> SourceMigration::first_difference(Base const& base) {
    constexpr std::uint64_t block = limits::base_block_bytes;
    std::uint64_t offset = 0;
    std::uint64_t length = limits::base_part_bytes_max;
    while (offset < base.bytes) {
        auto const deadline = within(limits::base_patience);
        CO_TRY(auto const here,
               co_await storage::hash_part(loop_, base.path, offset, length, deadline));
        protocol::HashBase const question{base.path, offset, length};
        CO_TRY(auto const there, co_await peer_->request(question, deadline));
        if (there.sha256 == here) {
            offset += length;
        } else if (length == block) {
            co_return offset;
        } else {
            length /= 2;
        }
    }
    co_return fail(Errc::refused, "the base {} changed while it was compared", base.path);
}

/// A job puts nodes into a chain while it runs, and QEMU then counts its layers otherwise: what it
/// says of a disk over a base counts only when there was none.
Result<> SourceMigration::check_no_job() const {
    bool const any_base = std::ranges::any_of(description_.disks,
                                              [](auto const& disk) { return !disk.bases.empty(); });
    if (!any_base || job_.empty()) return {};
    return fail(Errc::refused,
                "the block job {} ran while the guest was copied, and a disk lies over a base: "
                "migrate again when no job runs",
                job_);
}

}  // namespace sidecar
