#include "sidecar/migration/base_comparison.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "storage/when_all.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<>> BaseComparison::compare() {
    // Disks may share a base: it is one file, and compared once.
    std::map<std::string, Base*> compared;
    total_bytes_ = before_bytes_ = here_bytes_ = there_bytes_ = 0;
    for (auto& disk : context_.description.disks) {
        for (auto& base : disk.bases) {
            if (compared.emplace(base.path, &base).second) {
                total_bytes_ += base.bytes;
            }
        }
    }
    for (auto const& [path, base] : compared) {
        CO_TRY_VOID(co_await compare_one(*base));
        before_bytes_ += base->bytes;
        here_bytes_ = there_bytes_ = 0;
    }
    for (auto& disk : context_.description.disks) {
        for (auto& base : disk.bases) base.sha256 = compared[base.path]->sha256;
    }
    co_return Result<>{};
}

BaseComparison::Progress BaseComparison::progress() const {
    return {total_bytes_, before_bytes_ + std::min(here_bytes_, there_bytes_)};
}

Task<Result<>> BaseComparison::compare_one(Base& base) {
    std::string there;
    std::vector<Task<Result<>>> both;
    both.push_back(hash_here(base, base.sha256));
    both.push_back(hash_there(base, there));
    CO_TRY_VOID(co_await storage::when_all(context_.guest.loop, std::move(both)));
    if (there == base.sha256) co_return Result<>{};
    CO_TRY(auto const offset, co_await first_difference(base));
    co_return fail(Errc::refused,
                   "the base {} differs at byte {} (within {} bytes) from the destination's: copy "
                   "it again, or omit --base",
                   base.path, offset, limits::base_block_bytes);
}

Task<Result<>> BaseComparison::hash_here(Base const& base, std::string& hash) {
    storage::HashMemory const memory(context_.guest.paths.file_hashes());
    auto const begun = std::chrono::system_clock::now();
    if (auto const known = memory.find(base.identity)) {
        hash = *known;
        here_bytes_ = base.bytes;
        co_return Result<>{};
    }
    CO_TRY(auto const made,
           co_await storage::hash_file(context_.guest.loop, base.path, here_bytes_,
                                       context_.within(limits::base_hash_timeout)));
    if (made.identity != base.identity) {
        co_return fail(Errc::refused, "the base {} changed while it was compared", base.path);
    }
    memory.remember(made, begun);
    hash = made.sha256;
    co_return Result<>{};
}

Task<Result<>> BaseComparison::hash_there(Base const& base, std::string& hash) {
    protocol::HashBase const question{base.path, 0, 0};
    auto const until = context_.within(limits::base_hash_timeout);
    auto patience = until.sooner(limits::base_patience);
    while (!until.passed()) {
        auto const reply =
            co_await context_.peer.request(question, until.sooner(limits::base_patience));
        if (!reply) co_return std::unexpected(reply.error());
        hash = reply->sha256;
        auto const done = reply->done_bytes;
        if (!hash.empty()) there_bytes_ = base.bytes;
        if (!hash.empty()) co_return Result<>{};
        if (done > there_bytes_) patience = until.sooner(limits::base_patience);
        there_bytes_ = std::max(there_bytes_, done);
        if (patience.passed()) break;
    }
    co_return fail(Errc::timed_out, "the destination makes no progress with reading the base {}",
                   base.path);
}

/// The offset of the first block of the base that differs at the destination. First compares part
/// by part, then bisects the part.
Task<Result<std::uint64_t>> BaseComparison::first_difference(Base const& base) {
    constexpr std::uint64_t block = limits::base_block_bytes;
    std::uint64_t offset = 0;
    std::uint64_t length = limits::base_part_bytes_max;
    while (offset < base.bytes) {
        auto const deadline = context_.within(limits::base_patience);
        CO_TRY(auto const here, co_await storage::hash_part(context_.guest.loop, base.path, offset,
                                                            length, deadline));
        protocol::HashBase const question{base.path, offset, length};
        CO_TRY(auto const there, co_await context_.peer.request(question, deadline));
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

}  // namespace sidecar
