// Copier: moves the pieces of one Scan from a Reader to an export, many requests in flight, bounded
// memory. Used by the mirror, one for each disk and pass. Invariant: when run() returns, no write
// of it is in flight any more, acknowledged or its connection dead; so a later write to the same
// bytes cannot be overtaken.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "storage/reader.hpp"
#include "storage/scan.hpp"
#include "storage/verify.hpp"

namespace storage {

/// Bytes per second for all copiers that share it.
class RateLimiter {
public:
    explicit RateLimiter(core::Loop& loop) : loop_(loop) {}
    /// 0: no limit.
    void set(std::uint64_t bytes_per_second) { bytes_per_second_ = bytes_per_second; }
    [[nodiscard]] std::uint64_t bytes_per_second() const { return bytes_per_second_; }
    /// Waits until `bytes` may go.
    core::Task<core::Result<>> pass(std::uint64_t bytes, core::Deadline deadline);

private:
    core::Loop& loop_;
    std::uint64_t bytes_per_second_ = 0;
    core::Clock::time_point free_at_{};
};

/// Counts while a copier runs; read by progress().
struct CopyCounters {
    std::uint64_t data_bytes = 0;  ///< Acknowledged by the target as data.
    std::uint64_t zero_bytes = 0;  ///< Acknowledged by the target as zeroes, or not sent at all.
    std::uint64_t requests = 0;  ///< Writes acknowledged, of either kind.
};

/// Adds to a failed write or flush of the destination what to do about it.
core::Error explain_destination(core::Error error);

class Copier {
public:
    struct Ends {
        std::string disk;  ///< For messages.
        Reader& source;
        NbdPool& target;
        Reader* base = nullptr;  ///< Of held pieces: what the destination has of them already.
    };
    /// `pace` null: no limit of bandwidth. All must outlive the copier.
    Copier(core::Loop& loop, Ends ends, Buffers& buffers, RateLimiter* pace,
           CopyCounters& counters);
    /// Set, while run() goes on, as soon as nothing of the source is needed any more.
    void tell_all_read(core::Event& all_read) { all_read_ = &all_read; }
    /// Hashes of what is sent go into `table`; null: nothing is hashed. Pieces must be whole
    /// blocks.
    void record_in(BlockTable* table) { table_ = table; }

    /// Zeroes that end before that offset are not written: the target has them. See AllocationScan.
    void leave_out_zeroes_before(std::uint64_t offset) { target_zero_end_ = offset; }

    /// Copies until the scan ends. On an error, a stop or the deadline no further piece is begun;
    /// the writes in flight end, or after limits::wind_down the target's connections are cut.
    core::Task<core::Result<>> run(Scan& scan, core::Deadline deadline);
    /// After run() failed: the pieces that were taken from the scan and not acknowledged.
    [[nodiscard]] std::vector<Extent> unfinished() const;
    /// While run() goes on: the first offset that was taken from the scan and is not acknowledged.
    [[nodiscard]] std::optional<std::uint64_t> first_unfinished() const {
        if (unfinished_.empty()) return {};
        return unfinished_.begin()->first;
    }

private:
    static core::Task<void> copy_piece(Copier& self, Extent piece, Buffer buffer);
    static core::Task<void> zero_piece(Copier& self, Extent piece, Buffer place);
    core::Task<core::Result<>> dispatch(Scan& scan);
    [[nodiscard]] std::size_t buffer_bytes(Extent const& piece) const;
    core::Task<core::Result<>> write_parts(Extent piece, Buffer buffer);
    core::Task<core::Result<>> write_zeroes(Extent piece, Buffer buffer);
    core::Error explain(core::Error error, bool writing) const;
    void failed(core::Error error);
    void begin() {
        ++running_;
        ++unread_;
        idle_.reset();
    }
    void note_read() {
        if (--unread_ == 0 && all_dispatched_ && all_read_) all_read_->set();
    }
    void end() {
        if (--running_ == 0) idle_.set();
    }

    Ends ends_;
    Buffers& buffers_;
    RateLimiter* pace_;
    CopyCounters& counters_;
    core::LinkedStop* stop_ = nullptr;
    std::optional<core::Deadline> deadline_;
    std::optional<core::Error> error_;
    std::map<std::uint64_t, Extent> unfinished_;  ///< By offset.
    std::size_t running_ = 0;
    std::size_t unread_ = 0;  ///< Pieces begun and not read.
    bool all_dispatched_ = false;
    core::Event* all_read_ = nullptr;
    BlockTable* table_ = nullptr;
    std::uint64_t target_zero_end_ = 0;
    core::Event idle_;
    core::TaskGroup scope_;
};

}  // namespace storage
