#include <algorithm>

#include "core/log.hpp"
#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

double in_seconds(Clock::duration span) { return std::chrono::duration<double>(span).count(); }

// In order, as a scan goes through them.
std::vector<Extent> one_after_the_other(std::vector<Extent> first,
                                        std::vector<Extent> const& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

Task<Result<>> flush_one(Nbd& nbd, Deadline deadline) {
    if (!nbd.traits().can_flush) co_return Result<>{};
    co_return co_await nbd.flush(std::move(deadline));
}

}  // namespace

void Rates::note(std::uint64_t bytes, std::uint64_t requests, Clock::duration took) {
    double const span = std::max(in_seconds(took), 1e-6);
    if (bytes >= limits::rate_bytes_min) bytes_per_second = static_cast<double>(bytes) / span;
    if (requests >= limits::rate_requests_min && bytes / requests < limits::request_bytes_max / 4) {
        requests_per_second = static_cast<double>(requests) / span;
    }
}

void Rates::note_round(std::uint64_t bytes, std::uint64_t requests, Clock::duration took) {
    note(bytes, requests, took);
    // A very small round says nothing, because shapers allow bursts; a short one says only that the
    // rate is no less.
    if (bytes < limits::request_bytes_max) return;
    double const measured = static_cast<double>(bytes) / std::max(in_seconds(took), 1e-6);
    bool const long_enough = took >= limits::rate_time_min;
    bytes_per_second = long_enough ? measured : std::max(bytes_per_second, measured);
}

Clock::duration Rates::copy_time(std::uint64_t bytes, std::uint64_t requests) const {
    double const per_second =
        requests_per_second > 0 ? requests_per_second : limits::requests_per_second_assumed;
    double const rate = bytes_per_second > 0 ? bytes_per_second : limits::bytes_per_second_assumed;
    double const span =
        std::max(static_cast<double>(requests) / per_second, static_cast<double>(bytes) / rate);
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(span));
}

void Delta::Part::add(std::vector<Extent> const& extents) {
    for (auto const& extent : extents) {
        bytes += extent.length;
        requests += extent.length / limits::request_bytes_max + 1;  // as the copier makes them
    }
}

Task<Result<>> Mirror::Implementation::bulk(Deadline deadline) {
    phase = MirrorPhase::bulk;
    auto const begun = Clock::now();
    auto const before = counters();
    // A disk that fails ends the copy: the others, which may need hours, are not waited for.
    core::LinkedStop stop(deadline.token());
    Deadline const until(deadline.at(), stop.token());
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(stop_when_failed(bulk_disk(i, until), stop));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    auto const after = counters();
    // Requests that became small because blocks between them were left out tell nothing of the rate
    // in requests: the link set theirs.
    bool const whole =
        std::ranges::all_of(disks, [](auto const& one) { return one->bulk_left_out_bytes == 0; });
    rates.note(after.data_bytes - before.data_bytes, whole ? after.requests - before.requests : 0,
               Clock::now() - begun);
    CO_TRY_VOID(co_await flush_targets(deadline));
    for (auto const& one : disks) one->bulk_flushed_offset = one->report.virtual_bytes;
    bulk_done = true;
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::bulk_disk(std::size_t index, Deadline deadline) {
    MirrorDisk& one = *disks[index];
    if (one.bulk_done) co_return Result<>{};
    if (!one.bulk) {
        one.begin_bulk(one.report.resumed_at_bytes);
        one.bulk_begun = Clock::now();
    }
    BaseReader base(one.base);
    Copier copier(loop, {one.disk.name, *one.reader, one.target, &base}, buffers, &pace,
                  one.counters);
    copier.record_in(one.disk.table.get());
    copier.leave_out_zeroes_before(one.disk.target_zero_bytes);
    // What is left out stays in the first bitmap, which only a round that copied it removes.
    SkipRedirtied scan(*one.bulk, {*one.bitmaps.front(), bitmap_context(rounds.front())},
                       one.counters);
    auto const copied = co_await copy_bulk(one, scan, copier, deadline);
    one.bulk_left_out_bytes += scan.left_out_bytes();
    one.report.base_bytes = one.bulk->held_bytes();
    if (!copied) {
        one.bulk->put_back(one_after_the_other(copier.unfinished(), scan.pending()));
        co_return copied;
    }
    one.report.rounds.push_back({one.bulk->data_bytes(), one.counters.data_bytes,
                                 one.bulk_left_out_bytes, in_ms(Clock::now() - one.bulk_begun)});
    one.bulk_done = true;
    one.bulk.reset();
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::copy_bulk(MirrorDisk& one, SkipRedirtied& scan,
                                                 Copier& copier, Deadline deadline) {
    one.copier = &copier;
    one.fresh = &scan;
    core::LinkedStop failed(deadline.token());
    std::stop_source copied;
    auto copy = [&](Deadline until) -> Task<Result<>> {
        auto result = co_await copier.run(scan, until);
        copied.request_stop();
        co_return result;
    };
    std::vector<Task<Result<>>> both;
    both.push_back(copy(Deadline(deadline.at(), failed.token())));
    // A raw image needs none: what QEMU has acknowledged is the kernel's.
    if (one.disk.format != "raw") {
        both.push_back(stop_when_failed(flush_bulk(one, copied.get_token(), deadline), failed));
    }
    auto ended = co_await when_all(loop, std::move(both));
    one.copier = nullptr;
    one.fresh = nullptr;
    co_return ended;
}

/// Until it is copied. Flushing at the end alone would let a QEMU that is killed take all with it.
Task<Result<>> Mirror::Implementation::flush_bulk(MirrorDisk& one, std::stop_token copied,
                                                  Deadline deadline) {
    while (co_await core::sleep_for(loop, limits::bulk_flush_interval, copied)) {
        auto const acknowledged = bulk_progress(one).offset;
        CO_TRY_VOID(co_await flush_target(one, deadline));
        one.bulk_flushed_offset = acknowledged;
    }
    co_return Result<>{};
}

// The newest bitmap begins; the one before goes on recording and stays exported, so that from here
// on both hold every write. It must not be interrupted half way: a handshake that we cut is a
// client-first disconnect (see Nbd::close), so the stop token is left out and only time bounds it.
Task<Result<>> Mirror::Implementation::rotate(Deadline deadline) {
    deadline = Deadline(deadline.at(), {});
    while (rounds.size() >
           1) {  // a round that failed: its older bitmap holds all that the newer does
        CO_TRY_VOID(co_await drop_bitmaps(rounds.size() - 1, deadline));
    }
    CO_TRY_VOID(co_await exports.add_bitmaps(nodes(), next_round, deadline));
    rounds.push_back(next_round++);
    rotated_at = Clock::now();
    co_return co_await open_bitmaps(rounds.size() - 1, deadline);
}

Task<Result<>> Mirror::Implementation::open_bitmaps(std::size_t slot, Deadline deadline) {
    deadline = Deadline(deadline.at(), {});
    unsigned const round = rounds[slot];
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        disks[i]->bitmaps.resize(rounds.size());
        if (disks[i]->bitmaps[slot]) continue;
        tasks.push_back(exports.add_export(bitmap_export(round, i), disks[i]->disk.node,
                                           exports.bitmap_name(round), deadline));
    }
    if (tasks.empty()) co_return Result<>{};
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    co_return co_await connect_source({false, slot}, deadline);
}

Task<Result<>> Mirror::Implementation::drop_bitmaps(std::size_t slot, Deadline deadline) {
    unsigned const round = rounds[slot];
    if (slot == 0 && rounds.size() > 1) {
        owed_slot = 1;
        for (auto const& one : disks) one->postponed = std::exchange(one->postponing, {});
    }
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < disks.size(); ++i) ids.push_back(bitmap_export(round, i));
    CO_TRY_VOID(co_await exports.remove_exports(std::move(ids), deadline));
    // Of all disks in one moment: STOP may come in between, and list_final() looks at the slots.
    std::vector<std::unique_ptr<Nbd>> gone;
    for (auto const& one : disks) {
        if (slot >= one->bitmaps.size()) continue;
        gone.push_back(std::move(one->bitmaps[slot]));
        one->bitmaps.erase(one->bitmaps.begin() + static_cast<std::ptrdiff_t>(slot));
    }
    rounds.erase(rounds.begin() + static_cast<std::ptrdiff_t>(slot));
    owed_slot = 0;
    for (auto const& nbd : gone) {
        if (nbd) co_await nbd->close();
    }
    co_return co_await exports.remove_bitmaps(nodes(), round, deadline);
}

Task<Result<>> Mirror::Implementation::list_owed(std::size_t index, Nbd& bitmap,
                                                 std::string context, Deadline deadline) {
    MirrorDisk& one = *disks[index];
    CO_TRY(auto const dirty, co_await dirty_extents(loop, bitmap, std::move(context), deadline));
    one.dirty = united(dirty, one.postponed);
    coarsen(one.dirty, limits::extents_max);
    auto parts = one.hot_blocks.divide(one.dirty);
    one.hot = std::move(parts.inside);
    if (phase != MirrorPhase::final_delta) one.hot_blocks.note(dirty);
    co_return Result<>{};
}

bool Mirror::Implementation::hot_may_wait(std::uint64_t bytes, std::uint64_t requests) const {
    // Before the stop everything is copied once more: that makes the pause shortest.
    if (stop_expected) return false;
    // What waits is not there yet, so it could not be verified with the rest.
    if (verifies()) return false;
    auto const budget = options.downtime_limit * limits::hot_budget_percent / 100;
    return rates.copy_time(bytes, requests) + rates.flush <= budget;
}

void Mirror::Implementation::put_off_hot(std::vector<RoundReport>& reports) {
    Delta::Part hot;
    for (auto const& one : disks) hot.add(one->hot);
    bool const wait = hot_may_wait(hot.bytes, hot.requests);
    for (std::size_t i = 0; i < disks.size(); ++i) {
        MirrorDisk& one = *disks[i];
        if (one.disk.table) one.written = one.dirty;  // in order, as it is asked for
        auto cold = divide(one.dirty, one.hot).outside;
        reports[i].left_out_bytes = wait ? total_bytes(one.hot) : 0;
        one.postponing = wait ? one.hot : std::vector<Extent>();
        one.dirty = wait ? std::move(cold) : one_after_the_other(std::move(cold), one.hot);
        one.hot.clear();
    }
}

Task<Result<>> Mirror::Implementation::copy_owed(std::size_t index, RoundReport& report,
                                                 Deadline deadline) {
    MirrorDisk& one = *disks[index];
    DirtyScan scan(one.source, std::exchange(one.dirty, {}), true);
    report.dirty_bytes = scan.total_bytes();
    // What is left out stays in the newest bitmap, which the next round copies.
    SkipRedirtied fresh(scan, {*one.bitmaps.back(), bitmap_context(rounds.back())}, one.counters);
    auto copied = co_await run_copier(one, fresh, &pace, report, deadline);
    report.left_out_bytes += fresh.left_out_bytes();
    co_return copied;
}

Task<Result<>> Mirror::Implementation::copy_last(std::size_t index, RoundReport& report,
                                                 Deadline deadline) {
    MirrorDisk& one = *disks[index];
    if (one.disk.table) one.written = one.dirty;
    DirtyScan scan(one.source, std::exchange(one.dirty, {}), false);
    report.dirty_bytes = scan.total_bytes();
    co_return co_await run_copier(one, scan, nullptr, report, deadline);
}

Task<Result<>> Mirror::Implementation::run_copier(MirrorDisk& one, Scan& scan, RateLimiter* limit,
                                                  RoundReport& report, Deadline deadline) {
    auto const begun = Clock::now();
    one.dirty_bytes_total += report.dirty_bytes;
    std::uint64_t const before = one.counters.data_bytes;
    Copier copier(loop, {one.disk.name, *one.reader, one.target}, buffers, limit, one.counters);
    copier.tell_all_read(one.all_read);
    copier.record_in(one.disk.table.get());
    auto copied = co_await copier.run(scan, deadline);
    report.copied_bytes = one.counters.data_bytes - before;
    report.took = in_ms(Clock::now() - begun);
    co_return copied;
}

Task<Result<>> Mirror::Implementation::flush_target(MirrorDisk& one, Deadline deadline) {
    auto flushed = co_await flush_one(one.target.first(), std::move(deadline));
    if (flushed) co_return flushed;
    auto error = explain_destination(std::move(flushed.error()));
    co_return std::unexpected(std::move(error).while_doing("flushing disk " + one.disk.name));
}

Task<Result<>> Mirror::Implementation::flush_targets(Deadline deadline) {
    auto const begun = Clock::now();
    std::vector<Task<Result<>>> tasks;
    for (auto const& one : disks) tasks.push_back(flush_target(*one, deadline));
    auto flushed = co_await when_all(loop, std::move(tasks));
    if (flushed) rates.flush = Clock::now() - begun;
    co_return flushed;
}

Task<Result<>> Mirror::Implementation::flush_both(Deadline deadline) {
    std::vector<Task<Result<>>> tasks;
    tasks.push_back(flush_targets(deadline));
    for (auto const& one : disks) {
        tasks.push_back(flush_one(one->source.least_loaded(), deadline));
    }
    co_return co_await when_all(loop, std::move(tasks));
}

Task<Result<>> Mirror::Implementation::copy_round(std::vector<RoundReport>& reports,
                                                  Deadline deadline) {
    std::vector<Task<Result<>>> tasks;
    auto const context = bitmap_context(rounds.front());
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(list_owed(i, *disks[i]->bitmaps.front(), context, deadline));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    if (deadline.stopped()) co_return core::fail(Errc::cancelled, "cancelled");
    put_off_hot(reports);
    auto const begun = Clock::now();
    auto const before = counters();
    tasks.clear();
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(copy_owed(i, reports[i], deadline));
    }
    no_round_copies.reset();
    auto copied = co_await when_all(loop, std::move(tasks));
    no_round_copies.set();
    auto const after = counters();
    rates.note_round(after.data_bytes - before.data_bytes, after.requests - before.requests,
                     Clock::now() - begun);
    co_return copied;
}

// One round. The older bitmap is removed only when the destination has flushed what was copied for
// it. When it is stopped, list_final() may be reading a bitmap: none is removed any more.
Task<Result<>> Mirror::Implementation::round(Deadline deadline) {
    CO_TRY_VOID(co_await rotate(deadline));
    std::vector<RoundReport> reports(disks.size());
    CO_TRY_VOID(co_await copy_round(reports, deadline));
    CO_TRY_VOID(co_await flush_targets(deadline));
    CO_TRY_VOID(co_await verify_copied(deadline));
    if (deadline.stopped()) co_return core::fail(Errc::cancelled, "cancelled");
    core::log::debug("storage: round copied_bytes={} ms={}", reports[0].copied_bytes,
                     in_ms(Clock::now() - rotated_at).count());
    for (std::size_t i = 0; i < disks.size(); ++i) disks[i]->report.rounds.push_back(reports[i]);
    co_return co_await drop_bitmaps(0, Deadline(deadline.at(), {}));
}

Task<Result<>> Mirror::Implementation::count_dirty(std::size_t index, Delta& delta,
                                                   Deadline deadline) {
    MirrorDisk const& one = *disks[index];
    CO_TRY(auto const dirty, co_await dirty_extents(loop, *one.bitmaps.back(),
                                                    bitmap_context(rounds.back()), deadline));
    auto const all_dirty = united(dirty, one.postponed);
    auto const parts = one.hot_blocks.divide(all_dirty);
    delta.dirty_bytes += total_bytes(dirty);
    delta.all.add(all_dirty);
    delta.hot.add(parts.inside);
    delta.cold.add(parts.outside);
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::measure(Deadline deadline) {
    Delta delta;
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(count_dirty(i, delta, deadline));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    double const recording = std::max(in_seconds(Clock::now() - rotated_at), 1e-3);
    bool const wait = hot_may_wait(delta.hot.bytes, delta.hot.requests);
    auto const& next = wait ? delta.cold : delta.all;
    convergence.delta_bytes = delta.all.bytes;
    convergence.hot_bytes = delta.hot.bytes;
    convergence.next_round_bytes = next.bytes;
    convergence.predicted_copy = rates.copy_time(delta.all.bytes, delta.all.requests);
    convergence.next_round_copy = rates.copy_time(next.bytes, next.requests);
    convergence.predicted = in_ms(convergence.predicted_copy + rates.flush);
    convergence.rate_bytes_per_second = static_cast<std::uint64_t>(rates.bytes_per_second);
    convergence.dirty_bytes_per_second =
        static_cast<std::uint64_t>(static_cast<double>(delta.dirty_bytes) / recording);
    convergence.converged = convergence.predicted <= options.downtime_limit;
    co_return Result<>{};
}

Task<Result<ConvergenceReport>> Mirror::Implementation::copy_until_converged(Deadline deadline) {
    if (link_lost) CO_TRY_VOID(co_await reconnect(core::Error(*link_lost), deadline));
    while (!bulk_done) {
        if (auto copied = co_await bulk(deadline); !copied) {
            CO_TRY_VOID(co_await reconnect(std::move(copied.error()), deadline));
        }
    }
    phase = MirrorPhase::rounds;
    unsigned stagnant = 0;
    std::uint64_t before = UINT64_MAX;
    convergence.converging = true;
    for (unsigned i = 0; i < limits::rounds_max; ++i) {
        CO_TRY_VOID(co_await measure(deadline));
        auto const next = convergence.next_round_bytes;
        bool const shrank = before == UINT64_MAX || next <= before / 100 * limits::shrink_percent;
        stagnant = shrank ? 0 : stagnant + 1;
        before = next;
        bool const small = next <= limits::delta_small_bytes ||
                           convergence.next_round_copy <= limits::final_copy_aim;
        if (convergence.converged && (small || !shrank)) break;
        if (stagnant >= stagnant_rounds) {
            convergence.converging = false;
            break;
        }
        if (auto copied = co_await round(deadline); !copied) {
            CO_TRY_VOID(co_await reconnect(std::move(copied.error()), deadline));
        }
    }
    if (convergence.converged) phase = MirrorPhase::converged;
    core::log::info("phase=rounds near={} delta_bytes={} hot_bytes={} predicted_ms={}",
                    convergence.converged, convergence.delta_bytes, convergence.hot_bytes,
                    convergence.predicted.count());
    co_return convergence;
}

Task<Result<>> Mirror::Implementation::look_at_delta(Deadline deadline) {
    bool const expected = stop_expected;  // a round begun before then is not the last
    CO_TRY_VOID(co_await measure(deadline));
    // Where an iothread serves a disk, connecting has a risk (see connect_source): only when it
    // must be.
    Clock::duration aim = limits::final_copy_aim;
    if (expected)
        aim = settled ? Clock::duration(limits::settled_copy_max) : limits::settled_copy_aim;
    if (iothread) aim = options.downtime_limit;
    // Before that hot blocks wait, and while all fits the pause only cold ones are worth a round.
    bool const all = expected || iothread || !convergence.converged;
    if ((all ? convergence.predicted_copy : convergence.next_round_copy) > aim) {
        CO_TRY_VOID(co_await round(Deadline(Clock::now() + limits::near_round, deadline.token())));
    }
    if (expected && !settled) core::log::debug("storage: settled");
    settled = expected;
    co_return Result<>{};
}

Task<void> Mirror::Implementation::keep_converged(std::stop_token stop) {
    phase = MirrorPhase::converged;
    keep_converged_stop = stop;
    auto const deadline = Deadline::never(stop);
    auto next_look = Clock::now();
    while (!stop.stop_requested()) {
        auto result = co_await flush_both(deadline);
        if (result && (Clock::now() >= next_look || (stop_expected && !settled))) {
            result = co_await look_at_delta(deadline);
            next_look = Clock::now() + limits::delta_check_pause;
        }
        if (!result && !stop.stop_requested()) {
            result = co_await reconnect(std::move(result.error()), deadline);
        }
        if (result) result = co_await core::sleep_for(loop, limits::flush_pause, stop);
        if (!result && !stop.stop_requested()) {
            broken = std::move(result.error()).while_doing("keeping the disks near");
            break;
        }
    }
}

}  // namespace storage
