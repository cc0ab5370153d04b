#include "storage/hasher.hpp"

#include <algorithm>
#include <cassert>

#include "storage/limits.hpp"
#include "storage/verify.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

// Puts the hashes of pieces in the order of the ranges they are of.
class InOrder : public HashSink {
public:
    explicit InOrder(std::vector<Extent> const& ranges) : ranges_(ranges) {
        for (auto const& range : ranges_) {
            first_.push_back(hashes_.size());
            hashes_.resize(hashes_.size() + block_count(range.length));
        }
    }
    Task<Result<>> take(Extent piece, std::vector<std::uint64_t> hashes) override {
        auto const after = std::ranges::upper_bound(ranges_, piece.offset, {}, &Extent::offset);
        auto const index = static_cast<std::size_t>(after - ranges_.begin()) - 1;
        auto const place = first_[index] + block_count(piece.offset - ranges_[index].offset);
        std::ranges::copy(hashes, hashes_.begin() + static_cast<std::ptrdiff_t>(place));
        co_return Result<>{};
    }
    [[nodiscard]] std::vector<std::uint64_t> const& hashes() const { return hashes_; }

private:
    std::vector<Extent> const& ranges_;
    std::vector<std::size_t> first_;  ///< Of each range: where its hashes begin.
    std::vector<std::uint64_t> hashes_;
};

}  // namespace

Hasher::Hasher(core::Loop& loop, NbdAddress server, std::vector<HashedDisk> disks)
    : loop_(loop),
      server_(std::move(server)),
      buffers_(loop, limits::in_flight_bytes_local, limits::in_flight_requests_max),
      idle_(loop) {
    idle_.set();
    for (auto& disk : disks) disks_.push_back(std::make_unique<Open>(loop, std::move(disk)));
}

Hasher::~Hasher() {
    assert(running_ == 0);
    for (auto const& one : disks_) assert(one->pool.size() == 0);
}

Task<Result<>> Hasher::open(Deadline deadline) {
    std::vector<std::string> const contexts{"base:allocation"};
    for (auto const& one : disks_) {
        CO_TRY_VOID(co_await one->pool.open(server_, one->disk.export_name, contexts,
                                            limits::hash_connections, deadline));
        if (one->disk.image) {
            one->reader =
                std::make_unique<ImageReader>(loop_, std::move(*one->disk.image), one->pool);
        } else {
            one->reader = std::make_unique<NbdReader>(one->pool);
        }
    }
    co_return Result<>{};
}

Task<Result<std::string>> Hasher::hash(std::size_t disk, std::vector<Extent> ranges,
                                       Deadline deadline) {
    if (closing_) co_return fail(Errc::closed, "the disks of the destination are being closed");
    if (disk >= disks_.size()) {
        co_return fail(Errc::invalid, "there is no disk {}; there are {}", disk, disks_.size());
    }
    CO_TRY_VOID(check_ranges(ranges, disks_[disk]->pool.traits().size));
    if (running_ >= limits::hash_requests_max) {
        co_return fail(Errc::refused, "{} hashes are being computed already", running_);
    }
    core::LinkedStop stop(deadline.token());
    std::stop_callback const forward(stop_.get_token(), [&stop] { stop.request_stop(); });
    ++running_;
    idle_.reset();
    auto made =
        co_await read(*disks_[disk], std::move(ranges), Deadline(deadline.at(), stop.token()));
    if (--running_ == 0) idle_.set();
    co_return made;
}

Task<Result<std::string>> Hasher::read(Open& one, std::vector<Extent> ranges, Deadline deadline) {
    std::vector<Extent> joined;
    for (auto const& range : ranges) append(joined, range);
    InOrder sink(joined);
    DirtyScan scan(one.pool, joined, true);
    CO_TRY_VOID(co_await hash_scan(loop_, scan, *one.reader, buffers_, sink, deadline));
    CombinedHash hash;
    hash.add(sink.hashes());
    co_return hash.text();
}

Task<void> Hasher::close() {
    closing_ = true;
    stop_.request_stop();
    while (running_ != 0) (void)co_await idle_.wait(Deadline::never());
    for (auto const& one : disks_) {
        one->pool.abort();
        co_await one->pool.close();
    }
}

}  // namespace storage
