#include "storage/hot_blocks.hpp"

#include <algorithm>

#include "storage/limits.hpp"

namespace storage {

using core::Clock;
using core::Deadline;
using core::Result;
using core::Task;

void HotBlocks::note(std::vector<Extent> const& dirty) {
    auto const kept = std::min(dirty.size(), limits::heat_extents_max);
    rounds_.emplace_back(dirty.begin(), dirty.begin() + static_cast<std::ptrdiff_t>(kept));
    if (rounds_.size() > limits::heat_rounds_max) rounds_.pop_front();
}

Divided HotBlocks::divide(std::vector<Extent> const& dirty) const {
    std::vector<Extent> seen;
    for (auto const& round : rounds_) seen = united(seen, round);
    return storage::divide(dirty, seen);
}

SkipRedirtied::SkipRedirtied(Scan& inner, Newest newest, CopyCounters const& counters)
    : inner_(inner),
      newest_(std::move(newest)),
      counters_(counters),
      begun_(Clock::now()),
      begun_bytes_(counters.data_bytes),
      looked_at_(begun_) {}

Task<Result<std::optional<Extent>>> SkipRedirtied::next(Deadline deadline) {
    while (ready_.empty()) {
        auto const piece = co_await inner_.next(deadline);
        skipped_ += inner_.take_skipped();
        if (!piece || !*piece || (*piece)->zero || (*piece)->in_backing) co_return piece;
        ready_.push_back(**piece);
        // Hot blocks come after all others: then the pass begins at the disk's start again.
        bool const back = (*piece)->offset < looked_from_;
        if (back || Clock::now() - looked_at_ >= limits::dirty_look_interval) {
            CO_TRY_VOID(co_await look((*piece)->offset, deadline));
        }
        leave_out();
    }
    Extent const piece = ready_.front();
    ready_.pop_front();
    co_return std::optional<Extent>(piece);
}

Task<Result<>> SkipRedirtied::look(std::uint64_t from, Deadline deadline) {
    from -= from % limits::bitmap_granularity_bytes;
    CO_TRY(dirty_, co_await dirty_ahead(newest_.bitmap, newest_.context, from, deadline));
    looked_from_ = from;
    looked_at_ = Clock::now();
    co_return Result<>{};
}

void SkipRedirtied::leave_out() {
    auto const worth = worth_bytes();
    auto const ends_before = [&](Extent const& run) { return run.end() <= ready_.front().offset; };
    std::vector<Extent> runs;
    for (auto run = std::ranges::partition_point(dirty_, ends_before); run != dirty_.end(); ++run) {
        if (run->offset >= ready_.front().end()) break;
        if (run->length >= worth) runs.push_back(*run);
    }
    if (runs.empty()) return;
    auto const parts = divide({ready_.front()}, runs);
    left_out_bytes_ += total_bytes(parts.inside);
    skipped_ += total_bytes(parts.inside);
    ready_.assign(parts.outside.begin(), parts.outside.end());
}

/// From this length on sending a run takes longer than the request that leaving it out costs.
std::uint64_t SkipRedirtied::worth_bytes() const {
    double const seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
    double const bytes = static_cast<double>(counters_.data_bytes - begun_bytes_);
    double const cost = std::chrono::duration<double>(limits::request_cost).count();
    return seconds > 0 ? static_cast<std::uint64_t>(bytes / seconds * cost) : 0;
}

}  // namespace storage
