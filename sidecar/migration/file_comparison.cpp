#include "sidecar/migration/file_comparison.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "storage/when_all.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

/// Disks may share a base: it is one file, and compared once.
std::vector<FileComparison::File> FileComparison::files() const {
    std::vector<File> all;
    for (auto const& disk : context_.description.disks) {
        for (auto const& base : disk.bases) {
            if (std::ranges::find(all, base.path, &File::path) != all.end()) continue;
            all.push_back({base.path, base.identity, "the base " + base.path,
                           "copy it again, or omit --base"});
        }
    }
    for (auto const& file : context_.description.files) {
        if (file.copied) continue;
        all.push_back({file.path, file.identity, fmt::format("{} ({})", file.what, file.path),
                       "remove or rename the file there, or map the source's path to another one "
                       "(`serve --map-path`)",
                       file.kind == GuestFile::Kind::loaded});
    }
    return all;
}

void FileComparison::take(File const& compared) {
    for (auto& disk : context_.description.disks) {
        for (auto& base : disk.bases) {
            if (base.path == compared.path) base.sha256 = compared.sha256;
        }
    }
    for (auto& file : context_.description.files) {
        if (file.path == compared.path) file.sha256 = compared.sha256;
    }
}

Task<Result<>> FileComparison::compare() {
    auto all = files();
    total_bytes_ = before_bytes_ = here_bytes_ = there_bytes_ = 0;
    warnings_.clear();
    for (auto const& file : all) total_bytes_ += file.identity.bytes;
    for (auto& file : all) {
        CO_TRY_VOID(co_await compare_one(file));
        take(file);
        before_bytes_ += file.identity.bytes;
        here_bytes_ = there_bytes_ = 0;
    }
    co_return Result<>{};
}

FileComparison::Progress FileComparison::progress() const {
    return {total_bytes_, before_bytes_ + std::min(here_bytes_, there_bytes_)};
}

Task<Result<>> FileComparison::compare_one(File& file) {
    std::string there;
    std::vector<Task<Result<>>> both;
    both.push_back(hash_here(file, file.sha256));
    both.push_back(hash_there(file, there));
    CO_TRY_VOID(co_await storage::when_all(context_.guest.loop, std::move(both)));
    if (there == file.sha256) co_return Result<>{};
    if (file.may_differ) {
        warnings_.push_back(fmt::format(
            "{} differs from the destination's, which the guest has after a reset", file.what));
        co_return Result<>{};
    }
    CO_TRY(auto const offset, co_await first_difference(file));
    co_return fail(Errc::refused,
                   "{} differs at byte {} (within {} bytes) from the destination's: {}", file.what,
                   offset, limits::compared_block_bytes, file.remedy);
}

Task<Result<>> FileComparison::hash_here(File const& file, std::string& hash) {
    storage::HashMemory const memory(context_.guest.paths.file_hashes());
    auto const begun = std::chrono::system_clock::now();
    if (auto const known = memory.find(file.identity)) {
        hash = *known;
        here_bytes_ = file.identity.bytes;
        co_return Result<>{};
    }
    CO_TRY(auto const made,
           co_await storage::hash_file(context_.guest.loop, file.path, here_bytes_,
                                       context_.within(limits::file_hash_timeout)));
    if (made.identity != file.identity) {
        co_return fail(Errc::refused, "{} changed while it was compared", file.what);
    }
    memory.remember(made, begun);
    hash = made.sha256;
    co_return Result<>{};
}

Task<Result<>> FileComparison::hash_there(File const& file, std::string& hash) {
    protocol::HashFile const question{file.path, 0, 0};
    auto const until = context_.within(limits::file_hash_timeout);
    auto patience = until.sooner(limits::file_hash_patience);
    while (!until.passed()) {
        auto const reply =
            co_await context_.peer.request(question, until.sooner(limits::file_hash_patience));
        if (!reply) co_return std::unexpected(reply.error());
        hash = reply->sha256;
        auto const done = reply->done_bytes;
        if (!hash.empty()) there_bytes_ = file.identity.bytes;
        if (!hash.empty()) co_return Result<>{};
        if (done > there_bytes_) patience = until.sooner(limits::file_hash_patience);
        there_bytes_ = std::max(there_bytes_, done);
        if (patience.passed()) break;
    }
    co_return fail(Errc::timed_out, "the destination makes no progress with reading {}", file.what);
}

/// The offset of the first block of the file that differs at the destination. First compares part
/// by part, then bisects the part.
Task<Result<std::uint64_t>> FileComparison::first_difference(File const& file) {
    constexpr std::uint64_t block = limits::compared_block_bytes;
    std::uint64_t offset = 0;
    std::uint64_t length = limits::compared_part_bytes_max;
    while (offset < file.identity.bytes) {
        auto const deadline = context_.within(limits::file_hash_patience);
        CO_TRY(auto const here, co_await storage::hash_part(context_.guest.loop, file.path, offset,
                                                            length, deadline));
        protocol::HashFile const question{file.path, offset, length};
        CO_TRY(auto const there, co_await context_.peer.request(question, deadline));
        if (there.sha256 == here) {
            offset += length;
        } else if (length == block) {
            co_return offset;
        } else {
            length /= 2;
        }
    }
    co_return fail(Errc::refused, "{} changed while it was compared", file.what);
}

}  // namespace sidecar
