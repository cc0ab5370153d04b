#include "storage/scan.hpp"

#include <algorithm>
#include <iterator>

#include "storage/limits.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

// Bits of the NBD protocol: base:allocation's NBD_STATE_ZERO, and qemu:dirty-bitmap's only one.
constexpr std::uint32_t state_zero = 2;
constexpr std::uint32_t state_dirty = 1;

// How much is asked ahead of the copier: small enough for a source whose answers are slow.
constexpr std::uint64_t window_bytes = limits::block_status_bytes_max;

// `source` with the ranges that are zero in both lists taken out; their bytes are added to
// `skipped`.
std::vector<Extent> without_zeroes_of_both(std::vector<Extent> const& source,
                                           std::vector<Extent> const& target,
                                           std::uint64_t& skipped) {
    std::vector<Extent> rest;
    std::size_t other = 0;
    for (auto const& extent : source) {
        if (!extent.zero) {
            append(rest, extent);
            continue;
        }
        std::uint64_t at = extent.offset;
        while (at < extent.end()) {
            while (other < target.size() && target[other].end() <= at) ++other;
            bool const known = other < target.size() && target[other].offset <= at;
            std::uint64_t const end =
                known ? std::min(extent.end(), target[other].end()) : extent.end();
            if (known && target[other].zero) {
                skipped += end - at;
            } else {
                append(rest, {at, end - at, true});
            }
            at = end;
        }
    }
    return rest;
}

}  // namespace

Extent cut_piece(Extent& extent) {
    std::uint64_t const unit =
        extent.zero ? limits::zero_request_bytes_max : std::uint64_t{limits::request_bytes_max};
    std::uint64_t const boundary = (extent.offset / unit + 1) * unit;
    std::uint64_t const length = std::min(extent.length, boundary - extent.offset);
    Extent const piece{extent.offset, length, extent.zero, extent.in_backing};
    extent.offset += length;
    extent.length -= length;
    return piece;
}

Task<Result<std::vector<Extent>>> allocation(Nbd& nbd, std::uint64_t offset, std::uint64_t length,
                                             Deadline deadline) {
    auto const status = co_await nbd.block_status("base:allocation", offset, length, deadline);
    std::vector<Extent> extents;
    if (!status) {
        // An error of the server only costs reading what is there; everything else ends the copy.
        if (status.error().code != Errc::nbd) co_return std::unexpected(status.error());
        extents.push_back({offset, length, false});
        co_return extents;
    }
    for (auto const& run : *status) {
        append(extents, {run.offset, run.length, (run.flags & state_zero) != 0});
    }
    co_return in_whole_blocks(extents, limits::bitmap_granularity_bytes);
}

// QEMU counts images (and filters) from the top, from 1 on; 0: no image of the chain holds it, so
// that it reads as zeroes with the base as well.
Task<Result<std::vector<Extent>>> held_above(Nbd& nbd, unsigned layers, std::uint64_t offset,
                                             std::uint64_t length, Deadline deadline) {
    auto const status = co_await nbd.block_status(depth_context, offset, length, deadline);
    std::vector<Extent> extents;
    if (!status) {
        if (status.error().code != Errc::nbd) co_return std::unexpected(status.error());
        extents.push_back({offset, length, false});
        co_return extents;
    }
    for (auto const& run : *status) {
        bool const below = run.flags == 0 || run.flags > layers;
        append(extents, {run.offset, run.length, below});
    }
    auto whole = in_whole_blocks(extents, limits::bitmap_granularity_bytes);
    std::erase_if(whole, [](auto const& extent) { return extent.zero; });
    co_return whole;
}

// `ours` without what only the base holds, or with it as held pieces.
Task<Result<std::vector<Extent>>> AllocationScan::above_base(std::vector<Extent> ours,
                                                             Deadline deadline) {
    auto const begin = ours.front().offset;
    CO_TRY(auto const above, co_await held_above(source_.least_loaded(), layers_.above_base, begin,
                                                 ours.back().end() - begin, deadline));
    auto parts = divide(ours, above);
    for (auto& extent : parts.outside) {
        if (!extent.zero) held_bytes_ += extent.length;
        extent.in_backing = !extent.zero && layers_.tell_in_backing;
        if (!extent.in_backing) skipped_ += extent.length;
    }
    std::erase_if(parts.outside, [](auto const& extent) { return !extent.in_backing; });
    std::vector<Extent> all;
    std::ranges::merge(parts.inside, parts.outside, std::back_inserter(all), {}, &Extent::offset,
                       &Extent::offset);
    co_return all;
}

// The target's allocation of `length` bytes from offset_ on.
Task<Result<std::vector<Extent>>> AllocationScan::at_target(std::uint64_t length,
                                                            Deadline deadline) {
    auto const zero = std::min(length, target_zero_end_ - std::min(target_zero_end_, offset_));
    std::vector<Extent> theirs;
    append(theirs, {offset_, zero, true});
    if (zero == length) co_return theirs;
    CO_TRY(auto const rest,
           co_await allocation(target_.least_loaded(), offset_ + zero, length - zero, deadline));
    for (auto const& extent : rest) append(theirs, extent);
    co_return theirs;
}

Task<Result<>> AllocationScan::look_ahead(Deadline deadline) {
    std::uint64_t const length = std::min(window_bytes, source_.traits().size - offset_);
    CO_TRY(auto ours, co_await allocation(source_.least_loaded(), offset_, length, deadline));
    if (layers_.above_base > 0) {
        CO_TRY(ours, co_await above_base(std::move(ours), deadline));
    }
    bool const any_zero = std::ranges::any_of(ours, [](auto const& extent) { return extent.zero; });
    std::vector<Extent> theirs;
    if (any_zero) {
        CO_TRY(theirs, co_await at_target(length, deadline));
    }
    for (auto const& extent : without_zeroes_of_both(ours, theirs, skipped_)) {
        if (!extent.zero && !extent.in_backing) data_bytes_ += extent.length;
        ahead_.push_back(extent);
    }
    offset_ += length;
    co_return Result<>{};
}

Task<Result<std::optional<Extent>>> AllocationScan::next(Deadline deadline) {
    while (ahead_.empty()) {
        if (offset_ >= source_.traits().size) co_return std::optional<Extent>();
        CO_TRY_VOID(co_await look_ahead(deadline));
    }
    Extent const piece = cut_piece(ahead_.front());
    if (ahead_.front().length == 0) ahead_.pop_front();
    co_return std::optional<Extent>(piece);
}

Task<Result<std::optional<Extent>>> DirtyScan::next(Deadline deadline) {
    while (ahead_.empty()) {
        if (index_ >= extents_.size()) co_return std::optional<Extent>();
        Extent const extent = extents_[index_++];
        if (look_up_ && extent.length >= limits::allocation_lookup_bytes_min) {
            CO_TRY(auto const found, co_await allocation(source_.least_loaded(), extent.offset,
                                                         extent.length, deadline));
            ahead_.assign(found.begin(), found.end());
        } else {
            ahead_.push_back(extent);
        }
    }
    Extent const piece = cut_piece(ahead_.front());
    if (ahead_.front().length == 0) ahead_.pop_front();
    co_return std::optional<Extent>(piece);
}

namespace {

// One request's worth of bitmap into its place.
Task<Result<>> dirty_window(Nbd& nbd, std::string const& context, std::uint64_t offset,
                            std::uint64_t length, std::vector<Extent>& found, Deadline deadline) {
    CO_TRY(auto const status, co_await nbd.block_status(context, offset, length, deadline));
    for (auto const& run : status) {
        if ((run.flags & state_dirty) != 0) append(found, {run.offset, run.length, false});
    }
    co_return Result<>{};
}

}  // namespace

Task<Result<std::vector<Extent>>> dirty_ahead(Nbd& nbd, std::string context, std::uint64_t offset,
                                              Deadline deadline) {
    std::vector<Extent> found;
    std::uint64_t const length =
        std::min(limits::block_status_bytes_max, nbd.traits().size - offset);
    CO_TRY_VOID(co_await dirty_window(nbd, context, offset, length, found, deadline));
    co_return found;
}

Task<Result<std::vector<Extent>>> dirty_extents(core::Loop& loop, Nbd& nbd, std::string context,
                                                Deadline deadline) {
    std::vector<Extent> all;
    std::uint64_t const size = nbd.traits().size;
    for (std::uint64_t offset = 0; offset < size;) {
        std::vector<std::vector<Extent>> found(limits::block_status_in_flight_max);
        std::vector<Task<Result<>>> tasks;
        for (auto& window : found) {
            if (offset >= size) break;
            std::uint64_t const length = std::min(limits::block_status_bytes_max, size - offset);
            tasks.push_back(dirty_window(nbd, context, offset, length, window, deadline));
            offset += length;
        }
        CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
        for (auto const& window : found) {
            for (auto const& extent : window) append(all, extent);
        }
        coarsen(all, limits::extents_max);
    }
    co_return all;
}

}  // namespace storage
