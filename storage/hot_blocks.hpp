// HotBlocks: what a pass over a disk need not copy now, because it will be written again before the
// end: blocks that the newest bitmap holds already (SkipRedirtied), and blocks that are written in
// round after round (HotBlocks). Used by mirror_rounds.cpp. Invariant: whatever is left out is
// dirty by a bitmap that has not been removed, or by MirrorDisk::postponed.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "storage/copier.hpp"

namespace storage {

/// Remembers what the last rounds found dirty.
class HotBlocks {
public:
    /// A round found these dirty, by its bitmap alone.
    void note(std::vector<Extent> const& dirty);
    /// `dirty`, cut into what one of the remembered rounds found dirty too (inside) and the rest.
    [[nodiscard]] Divided divide(std::vector<Extent> const& dirty) const;

private:
    std::deque<std::vector<Extent>> rounds_;
};

/// The pieces of another scan without the blocks that `bitmap` holds already: they will be sent in
/// the next round anyway. The bitmap is looked at every limits::dirty_look_interval, so a pass
/// shorter than that is given unchanged.
class SkipRedirtied : public Scan {
public:
    /// The newest bitmap of the disk, which outlives this pass.
    struct Newest {
        Nbd& bitmap;
        std::string context;
    };
    SkipRedirtied(Scan& inner, Newest newest, CopyCounters const& counters);
    core::Task<core::Result<std::optional<Extent>>> next(core::Deadline deadline) override;
    /// After a failure: pieces that were taken from the inner scan and not given.
    [[nodiscard]] std::vector<Extent> pending() const { return {ready_.begin(), ready_.end()}; }
    /// Every piece before this offset, of an inner scan at `position`, was given or left out.
    [[nodiscard]] std::uint64_t position(std::uint64_t position) const {
        for (auto const& piece : ready_) position = std::min(position, piece.offset);
        return position;
    }
    [[nodiscard]] std::uint64_t left_out_bytes() const { return left_out_bytes_; }

private:
    core::Task<core::Result<>> look(std::uint64_t from, core::Deadline deadline);
    void leave_out();
    [[nodiscard]] std::uint64_t worth_bytes() const;

    Scan& inner_;
    Newest newest_;
    CopyCounters const& counters_;
    core::Clock::time_point begun_;
    std::uint64_t begun_bytes_;
    core::Clock::time_point looked_at_;
    std::uint64_t looked_from_ = 0;
    std::vector<Extent> dirty_;  ///< Of one window, as it was when looked at.
    std::deque<Extent> ready_;
    std::uint64_t left_out_bytes_ = 0;
};

}  // namespace storage
