// Scan: what of a disk is to be copied, piece after piece. AllocationScan walks the whole disk for
// the bulk pass; DirtyScan walks what a bitmap says. Used by the copier.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "storage/limits.hpp"
#include "storage/nbd.hpp"

namespace storage {

/// A source of pieces: each at most one request long, in order of offset, never twice.
class Scan {
public:
    virtual ~Scan() = default;
    /// The next piece, or none at the end.
    virtual core::Task<core::Result<std::optional<Extent>>> next(core::Deadline deadline) = 0;
    /// Bytes passed over without anything to do, since the last call.
    std::uint64_t take_skipped() { return std::exchange(skipped_, 0); }

protected:
    std::uint64_t skipped_ = 0;
};

/// Cuts the first piece off `extent`: data at multiples of limits::request_bytes_max, zeroes at
/// limits::zero_request_bytes_max.
Extent cut_piece(Extent& extent);

/// Which part of a disk's backing chain the destination does not have.
struct Layers {
    unsigned above_base = 0;  ///< Images above the base that both hosts have; 0: there is none.
    bool tell_in_backing = false;  ///< What the base holds is given as pieces too, marked as held.
};

/// The whole disk by base:allocation of the source. Where source and target both read as zeroes
/// there is no piece, nor where no layer above the base says anything. A server that cannot tell
/// its allocation is read as if all were data.
class AllocationScan : public Scan {
public:
    /// From offset `from` on: what is before was copied by an earlier scan.
    AllocationScan(NbdPool& source, NbdPool& target, std::uint64_t from = 0, Layers layers = {})
        : source_(source), target_(target), layers_(layers), offset_(from) {}
    core::Task<core::Result<std::optional<Extent>>> next(core::Deadline deadline) override;
    /// The target reads as zeroes up to there, but for what was copied since. A zero that is left
    /// out because of that, where an earlier pass copied data, is in a dirty bitmap: the guest has
    /// written it since.
    void target_is_zero_before(std::uint64_t offset) {
        // in whole blocks of our bitmaps, as allocations are
        target_zero_end_ =
            offset / limits::bitmap_granularity_bytes * limits::bitmap_granularity_bytes;
    }
    /// Pieces that next() gave and that were not copied: they come first again.
    void put_back(std::vector<Extent> const& pieces) {
        ahead_.insert(ahead_.begin(), pieces.begin(), pieces.end());
    }
    /// Every piece before this offset has been given out.
    [[nodiscard]] std::uint64_t position() const {
        return ahead_.empty() ? offset_ : ahead_.front().offset;
    }
    /// Data bytes seen so far.
    [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
    /// Data bytes that were left to the base so far.
    [[nodiscard]] std::uint64_t held_bytes() const { return held_bytes_; }

private:
    core::Task<core::Result<>> look_ahead(core::Deadline deadline);
    core::Task<core::Result<std::vector<Extent>>> above_base(std::vector<Extent> ours,
                                                             core::Deadline deadline);
    core::Task<core::Result<std::vector<Extent>>> at_target(std::uint64_t length,
                                                            core::Deadline deadline);

    NbdPool& source_;
    NbdPool& target_;
    Layers layers_;
    std::uint64_t offset_;  ///< Up to here the allocation has been asked.
    std::uint64_t target_zero_end_ = 0;
    std::uint64_t data_bytes_ = 0;
    std::uint64_t held_bytes_ = 0;
    std::deque<Extent> ahead_;
};

/// The given extents; long ones are looked up in base:allocation first, so that discarded space is
/// not read.
class DirtyScan : public Scan {
public:
    DirtyScan(NbdPool& source, std::vector<Extent> extents, bool look_up)
        : source_(source), extents_(std::move(extents)), look_up_(look_up) {}
    core::Task<core::Result<std::optional<Extent>>> next(core::Deadline deadline) override;
    [[nodiscard]] std::uint64_t total_bytes() const { return storage::total_bytes(extents_); }

private:
    NbdPool& source_;
    std::vector<Extent> extents_;
    std::size_t index_ = 0;
    bool look_up_;
    std::deque<Extent> ahead_;
};

/// The dirty extents of the whole export, by its one bitmap context; several requests in flight. At
/// most limits::extents_max of them, coarser when there are more.
core::Task<core::Result<std::vector<Extent>>> dirty_extents(core::Loop& loop, Nbd& nbd,
                                                            std::string context,
                                                            core::Deadline deadline);

/// What the bitmap holds dirty of one window of the export, from `offset` on. Never more than that,
/// which dirty_extents() may say.
core::Task<core::Result<std::vector<Extent>>> dirty_ahead(Nbd& nbd, std::string context,
                                                          std::uint64_t offset,
                                                          core::Deadline deadline);

/// The meta context with which QEMU reports how deep in a backing chain a byte's image is.
inline constexpr char const* depth_context = "qemu:allocation-depth";

/// What of [offset, offset + length) one of the first `layers` images of the chain holds, be it
/// data or zeroes, in whole blocks of our bitmaps. Needs the context depth_context; all of it when
/// the server cannot tell.
core::Task<core::Result<std::vector<Extent>>> held_above(Nbd& nbd, unsigned layers,
                                                         std::uint64_t offset, std::uint64_t length,
                                                         core::Deadline deadline);

/// The allocation of [offset, offset + length), in whole blocks of our bitmaps; all data when the
/// server cannot tell.
core::Task<core::Result<std::vector<Extent>>> allocation(Nbd& nbd, std::uint64_t offset,
                                                         std::uint64_t length,
                                                         core::Deadline deadline);

}  // namespace storage
