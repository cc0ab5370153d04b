#include "storage/copier.hpp"

#include <algorithm>
#include <cerrno>

#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Error;
using core::Result;
using core::Task;

namespace {

// A burst above the rate, in time: below it sleeping would cost more precision than it brings.
constexpr core::milliseconds pace_slack{5};

// Memory counted for a request that carries no data, so that the number of these is bounded too.
constexpr std::size_t placeholder_bytes = 512;

}  // namespace

Task<Result<>> RateLimiter::pass(std::uint64_t bytes, Deadline deadline) {
    if (bytes_per_second_ == 0) co_return Result<>{};
    auto const now = core::Clock::now();
    free_at_ = std::max(free_at_, now);
    auto const wait = free_at_ - now;
    free_at_ += std::chrono::nanoseconds(bytes * 1'000'000'000 / bytes_per_second_);
    if (wait < pace_slack) co_return Result<>{};
    CO_TRY_VOID(co_await core::sleep_for(loop_, wait, deadline.token()));
    co_return Result<>{};
}

Copier::Copier(core::Loop& loop, Ends ends, Buffers& buffers, RateLimiter* pace,
               CopyCounters& counters)
    : ends_(std::move(ends)),
      buffers_(buffers),
      pace_(pace),
      counters_(counters),
      idle_(loop),
      scope_(loop) {
    idle_.set();
}

Task<Result<>> Copier::run(Scan& scan, Deadline deadline) {
    core::LinkedStop stop(deadline.token());
    stop_ = &stop;
    deadline_.emplace(deadline.at(), stop.token());
    auto dispatched = co_await dispatch(scan);
    if (!dispatched) failed(std::move(dispatched.error()));
    all_dispatched_ = true;
    if (unread_ == 0 && all_read_) all_read_->set();
    if (!error_ && !co_await idle_.wait(*deadline_) && !error_) {
        failed(core::fail(deadline.stopped() ? Errc::cancelled : Errc::timed_out,
                          "the copy was stopped")
                   .error());
    }
    // Whatever went wrong: a write may still be under way to the disk.
    if (!co_await idle_.wait(Deadline::after(limits::wind_down))) {
        ends_.target.abort(
            fmt::format("was cut here, for writes were not acknowledged within {} ms",
                        limits::wind_down.count()));
    }
    co_await scope_.join();
    stop_ = nullptr;
    if (error_) {
        co_return std::unexpected(std::move(*error_).while_doing("copying disk " + ends_.disk));
    }
    co_return Result<>{};
}

std::vector<Extent> Copier::unfinished() const {
    std::vector<Extent> pieces;
    for (auto const& [offset, piece] : unfinished_) pieces.push_back(piece);
    return pieces;
}

Task<Result<>> Copier::dispatch(Scan& scan) {
    while (!error_) {
        CO_TRY(auto const piece, co_await scan.next(*deadline_));
        counters_.zero_bytes += scan.take_skipped();
        if (!piece) break;
        unfinished_.emplace(piece->offset, *piece);
        std::size_t const bytes = buffer_bytes(*piece);
        if (pace_ != nullptr) CO_TRY_VOID(co_await pace_->pass(bytes, *deadline_));
        CO_TRY(auto buffer, co_await buffers_.take(bytes, *deadline_));
        begin();
        scope_.spawn(piece->zero ? zero_piece(*this, *piece, std::move(buffer))
                                 : copy_piece(*this, *piece, std::move(buffer)));
    }
    co_return Result<>{};
}

std::size_t Copier::buffer_bytes(Extent const& piece) const {
    if (piece.zero && ends_.target.traits().can_zero) return placeholder_bytes;
    return static_cast<std::size_t>(
        std::min<std::uint64_t>(piece.length, limits::request_bytes_max));
}

Task<void> Copier::copy_piece(Copier& self, Extent piece, Buffer buffer) {
    auto const length = static_cast<std::size_t>(piece.length);
    // Not from the disk, which the guest may have written since: it is what the destination has
    // that is recorded.
    Reader& source = piece.in_backing ? *self.ends_.base : self.ends_.source;
    auto read = co_await source.read(buffer, length, piece.offset, *self.deadline_);
    self.note_read();
    if (!read) {
        self.failed(self.explain(std::move(read.error()), false));
    } else if (!self.error_) {
        if (self.table_) self.table_->record(piece.offset, buffer.bytes().first(length));
        Result<> written;
        if (piece.in_backing) {
            self.counters_.zero_bytes += piece.length;
        } else {
            written = co_await self.write_parts(piece, std::move(buffer));
        }
        if (written) self.unfinished_.erase(piece.offset);
        if (!written) self.failed(self.explain(std::move(written.error()), true));
    }
    self.end();
}

Task<void> Copier::zero_piece(Copier& self, Extent piece, Buffer place) {
    self.note_read();
    if (self.table_) self.table_->record_zeroes(piece.offset, piece.length);
    auto written = co_await self.write_zeroes(piece, std::move(place));
    if (written) self.unfinished_.erase(piece.offset);
    if (!written) self.failed(self.explain(std::move(written.error()), true));
    self.end();
}

// Writes are waited for without deadline and stop: see the invariant at the head of copier.hpp.
Task<Result<>> Copier::write_parts(Extent piece, Buffer buffer) {
    auto const bytes = buffer.bytes().first(static_cast<std::size_t>(piece.length));
    for (auto const& part : split_zeroes(bytes, limits::zero_run_bytes_min)) {
        Extent const place{piece.offset + part.offset, part.length, part.zero};
        if (part.zero && place.end() <= target_zero_end_) {
            counters_.zero_bytes += part.length;
            continue;
        }
        // Where the target knows no zeroes they are written as the data they are.
        if (part.zero && part.length >= limits::zero_run_bytes_min &&
            ends_.target.traits().can_zero) {
            CO_TRY_VOID(co_await write_zeroes(place, buffer));
            continue;
        }
        CO_TRY_VOID(co_await ends_.target.least_loaded().pwrite(
            buffer, static_cast<std::size_t>(part.offset), static_cast<std::size_t>(part.length),
            place.offset, Deadline::never()));
        counters_.data_bytes += part.length;
        ++counters_.requests;
    }
    co_return Result<>{};
}

// `buffer` is held while the request is in flight: it is what bounds their number. It is
// overwritten where the target knows no zeroes.
Task<Result<>> Copier::write_zeroes(Extent piece, Buffer buffer) {
    if (ends_.target.traits().can_zero) {
        CO_TRY_VOID(co_await ends_.target.least_loaded().zero(piece.offset, piece.length,
                                                              Deadline::never()));
        counters_.zero_bytes += piece.length;
        ++counters_.requests;
        co_return Result<>{};
    }
    std::ranges::fill(buffer.bytes(), std::byte{0});
    for (std::uint64_t at = 0; at < piece.length;) {
        std::size_t const length =
            static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), piece.length - at));
        CO_TRY_VOID(co_await ends_.target.least_loaded().pwrite(
            buffer, 0, length, piece.offset + at, Deadline::never()));
        at += length;
        counters_.zero_bytes += length;
        ++counters_.requests;
    }
    co_return Result<>{};
}

Error Copier::explain(Error error, bool writing) const {
    if (writing) return explain_destination(std::move(error));
    if (error.code == Errc::nbd || error.code == Errc::io) {
        error.what += "; the source's image cannot be read there";
    }
    return error;
}

Error explain_destination(Error error) {
    if (error.os == ENOSPC) {
        error.what += "; the destination has no space left: make room there and start again";
    } else if (error.code == Errc::closed) {
        error.what += "; the destination's NBD server is gone or the link to it is cut";
    } else if (error.code == Errc::nbd) {
        error.what += "; the destination's storage refused it: look at its QEMU and disk";
    }
    return error;
}

void Copier::failed(Error error) {
    if (!error_) error_ = std::move(error);
    if (stop_ != nullptr) stop_->request_stop();
}

}  // namespace storage
