// Verification of what arrived, for `migrate --verify`. The table of each disk holds the hash of
// what was last sent for each block. One pass over everything, once the disks are near: the
// destination is asked for the hashes of all of it; and the source is read again, which must give
// what was sent wherever no bitmap says that the guest wrote since. So both a block that did not
// arrive and a write that was missed are found. After that each round is verified once the
// destination has flushed it, the last delta included. A round that is cut short is not: its blocks
// are still dirty, and are verified when they are sent again.
#include <algorithm>

#include "core/log.hpp"
#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::Result;
using core::Task;

namespace {

constexpr std::uint64_t block_bytes = limits::bitmap_granularity_bytes;

// The whole disk in parts of one BLOCK_STATUS each.
std::vector<Extent> windows_of(std::uint64_t size) {
    std::vector<Extent> windows;
    for (std::uint64_t offset = 0; offset < size; offset += limits::block_status_bytes_max) {
        windows.push_back({offset, std::min(limits::block_status_bytes_max, size - offset), false});
    }
    return windows;
}

/// Compares what is read of the source now with what was sent.
class SourceCheck : public HashSink {
public:
    SourceCheck(core::Loop& loop, MirrorDisk& one, std::string context, Deadline deadline)
        : loop_(loop), one_(one), context_(std::move(context)), deadline_(std::move(deadline)) {}

    // QEMU sets a block's bit after it has written the block and before the guest hears of it. So
    // what differs and is not dirty is a write still under way, whose bit will come, or one that
    // was missed.
    Task<Result<>> take(Extent piece, std::vector<std::uint64_t> hashes) override {
        auto differing = compare(piece, hashes);
        auto const patience = deadline_.sooner(limits::write_patience);
        while (!differing.empty()) {
            CO_TRY(auto const status, co_await one_.bitmaps.back()->block_status(
                                          context_, piece.offset, piece.length, deadline_));
            for (auto const& run : status) {
                if (run.flags != 0) remove(differing, run.offset, run.offset + run.length);
            }
            if (differing.empty()) break;
            if (patience.passed()) co_return missed(differing.front());
            CO_TRY_VOID(
                co_await core::sleep_for(loop_, limits::write_look_pause, deadline_.token()));
        }
        co_return Result<>{};
    }

private:
    [[nodiscard]] std::vector<std::uint64_t> compare(
        Extent piece, std::vector<std::uint64_t> const& hashes) const {
        auto const sent = one_.disk.table->blocks(piece);
        std::vector<std::uint64_t> differing;
        for (std::size_t i = 0; i < hashes.size(); ++i) {
            if (hashes[i] != sent[i]) differing.push_back(piece.offset + i * block_bytes);
        }
        return differing;
    }
    static void remove(std::vector<std::uint64_t>& blocks, std::uint64_t begin, std::uint64_t end) {
        std::erase_if(blocks, [&](std::uint64_t at) { return at >= begin && at < end; });
    }
    [[nodiscard]] Result<> missed(std::uint64_t offset) const {
        return fail(Errc::io,
                    "disk {} holds other bytes here than were copied, at byte {}, and QEMU does "
                    "not say that the guest wrote there: look for what else writes to the image, "
                    "and at this host's storage; then migrate again",
                    one_.disk.name, offset);
    }

    core::Loop& loop_;
    MirrorDisk& one_;
    std::string context_;
    Deadline deadline_;
};

}  // namespace

Verification::Verification(core::Loop& loop) : slots(loop, limits::hash_requests_in_flight) {}

bool Mirror::Implementation::verifies() const {
    return options.hash &&
           std::ranges::all_of(disks, [](auto const& one) { return one->disk.table != nullptr; });
}

bool Mirror::Implementation::verify_owed() const {
    return verifies() && !verification.whole_verified;
}

MirrorPhase Mirror::Implementation::told_phase() const {
    bool const amid = phase == MirrorPhase::rounds || phase == MirrorPhase::converged;
    if (!verifies() || !amid) return phase;
    if (verification.whole_verified && phase == MirrorPhase::converged) return phase;
    return verification.whole_begun ? MirrorPhase::verifying : MirrorPhase::rounds;
}

Task<Result<>> Mirror::Implementation::verify_whole(Deadline deadline) {
    auto const begun = Clock::now();
    verification.whole_begun = true;
    while (!verification.whole_verified) {
        verification.verified_bytes = 0;
        core::LinkedStop stop(deadline.token());
        Deadline const until(deadline.at(), stop.token());
        std::vector<Task<Result<>>> tasks;
        for (std::size_t i = 0; i < disks.size(); ++i) {
            tasks.push_back(stop_when_failed(
                verify_extents(i, windows_of(disks[i]->report.virtual_bytes), until), stop));
            tasks.push_back(stop_when_failed(verify_source(i, until), stop));
        }
        auto verified = co_await when_all(loop, std::move(tasks));
        if (!verified) CO_TRY_VOID(co_await reconnect(std::move(verified.error()), deadline));
        verification.whole_verified = verified.has_value();
    }
    verification.whole_took = Clock::now() - begun;
    core::log::info("phase=verified bytes={} ms={}", verification.verified_bytes,
                    std::chrono::ceil<core::milliseconds>(verification.whole_took).count());
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::verify_source(std::size_t index, Deadline deadline) {
    MirrorDisk& one = *disks[index];
    DirtyScan scan(one.source, windows_of(one.report.virtual_bytes), true);
    SourceCheck check(loop, one, bitmap_context(rounds.back()), deadline);
    co_return co_await hash_scan(loop, scan, *one.reader, buffers, check, deadline);
}

/// What the last round, or the last delta, wrote. Before the whole was verified there is no need.
Task<Result<>> Mirror::Implementation::verify_copied(Deadline deadline) {
    if (!verification.whole_verified) co_return Result<>{};
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(verify_extents(i, disks[i]->written, deadline));
    }
    co_return co_await when_all(loop, std::move(tasks));
}

Task<Result<>> Mirror::Implementation::verify_final(Deadline deadline) {
    if (!verifies()) co_return Result<>{};
    if (verify_owed()) {
        co_return fail(Errc::invalid, "the last delta cannot be verified before the disks were");
    }
    auto const begun = Clock::now();
    CO_TRY_VOID(co_await verify_copied(deadline));
    verification.final_took = Clock::now() - begun;
    verification.identical = true;
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::verify_extents(std::size_t index,
                                                      std::vector<Extent> extents,
                                                      Deadline deadline) {
    HashPlan plan(std::move(extents));
    std::optional<Error> error;
    core::TaskGroup scope(loop);
    while (!error) {
        auto ranges = plan.next();
        if (ranges.empty()) break;
        if (auto turn = co_await verification.slots.acquire(deadline); !turn) {
            if (!error) error = std::move(turn.error());
            break;
        }
        scope.spawn(verify_ranges(index, std::move(ranges), error, deadline));
    }
    co_await scope.join();
    if (error) co_return std::unexpected(std::move(*error));
    co_return Result<>{};
}

/// Gives back the place in `slots` that it was given.
Task<void> Mirror::Implementation::verify_ranges(std::size_t index, std::vector<Extent> ranges,
                                                 std::optional<Error>& error, Deadline deadline) {
    auto const bytes = total_bytes(ranges);
    auto const same = co_await same_there(index, ranges, deadline);
    Result<> done;
    if (!same) done = std::unexpected(same.error());
    if (same && !*same) done = co_await find_difference(index, std::move(ranges), deadline);
    if (same && *same) verification.verified_bytes += bytes;
    verification.slots.release();
    if (!done && !error) error = std::move(done.error());
}

Task<Result<bool>> Mirror::Implementation::same_there(std::size_t index, std::vector<Extent> ranges,
                                                      Deadline deadline) {
    // Taken now: the answer is about what is there now.
    auto const sent = disks[index]->disk.table->combined(ranges);
    CO_TRY(auto const there,
           co_await options.hash(index, std::move(ranges), deadline.sooner(limits::hash_answer)));
    co_return there == sent;
}

/// These blocks are not the same: says which is the first that is not.
Task<Result<>> Mirror::Implementation::find_difference(std::size_t index,
                                                       std::vector<Extent> ranges,
                                                       Deadline deadline) {
    for (;;) {
        auto split = halves(ranges);
        if (split.second.empty()) break;
        auto const same = co_await same_there(index, split.first, deadline);
        if (!same) break;  // where it is is said less exactly then
        ranges = std::move(*same ? split.second : split.first);
    }
    auto const& name = disks[index]->disk.name;
    std::uint64_t const offset = ranges.front().offset;
    // A round that was cut short may have been overtaken by the last delta.
    if (!deadline.stopped()) verification.difference = Difference{name, offset};
    co_return fail(
        Errc::io,
        "disk {} is not at the destination what was sent there: it differs within the {} "
        "bytes at byte {}; look at that host's storage and memory, and for what else "
        "writes to the image there; then migrate again",
        name, ranges.back().end() - offset, offset);
}

/// After the end, when nothing waits for it: for a large disk this takes a second.
Task<void> Mirror::Implementation::digest_tables() {
    if (!verification.identical || !verification.hash.empty()) co_return;
    for (auto const& one : disks) {
        auto const digest = co_await one->disk.table->digest(loop);
        one->report.hash = digest.value_or("");
        if (!verification.hash.empty()) verification.hash += ' ';
        verification.hash += one->report.hash;
    }
}

}  // namespace storage
