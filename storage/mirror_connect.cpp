// Connecting to the source's QEMU, which is less simple than it sounds. QEMU (7.2 and 10.0 alike)
// quiesces the NBD clients it has when a drain begins; one whose handshake ends during the drain is
// not quiesced, waits for its first request, and the drain waits for it, for ever, with QEMU's main
// loop. Drains come from the guest's devices, from QMP, and from STOP, so one can always coincide.
// Cutting the newborn connection ends it. So after connecting we ask QEMU something; when no answer
// comes we cut, wait until QEMU answers, and try again.
#include <algorithm>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

Task<Result<>> Mirror::Implementation::connect_one(PendingConnection what, std::size_t disk,
                                                   Deadline deadline) {
    MirrorDisk& one = *disks[disk];
    NbdAddress const ours{exports.socket_path(), "", "", "", ""};
    if (what.data) {
        std::vector<std::string> contexts{"base:allocation"};
        if (one.disk.layers_above_base > 0) contexts.emplace_back(depth_context);
        CO_TRY_VOID(co_await one.source.open(ours, exports.export_id("data", disk), contexts,
                                             one.report.reads_image ? 1 : connections(), deadline));
        if (!reads_base(one)) co_return Result<>{};
        co_return co_await one.base.open(ours, exports.export_id("base", disk), {}, 1, deadline);
    }
    if (one.bitmaps[what.slot]) co_return Result<>{};
    unsigned const round = rounds[what.slot];
    std::vector<std::string> const contexts{bitmap_context(round)};
    CO_TRY(one.bitmaps[what.slot],
           co_await Nbd::connect(loop, ours, bitmap_export(round, disk), contexts, deadline));
    co_return Result<>{};
}

Task<void> Mirror::Implementation::discard(PendingConnection what) {
    for (auto const& one : disks) {
        if (what.data) {
            one->source.abort();
            one->base.abort();
        } else if (one->bitmaps[what.slot]) {
            one->bitmaps[what.slot]->abort();
        }
    }
    for (auto const& one : disks) {
        if (what.data) {
            co_await one->source.close();
            co_await one->base.close();
        } else if (one->bitmaps[what.slot]) {
            co_await one->bitmaps[what.slot]->close();
            one->bitmaps[what.slot].reset();
        }
    }
}

Task<Result<>> Mirror::Implementation::connect_source(PendingConnection what, Deadline deadline) {
    // Without the stop token: a handshake that we cut is a client-first disconnect (see
    // Nbd::close).
    deadline = Deadline(deadline.at(), {});
    core::Clock::duration patience = limits::newborn_answer;
    if (iothread) patience = limits::newborn_answer_iothread;
    for (unsigned attempt = 0; attempt < limits::newborn_attempts_max; ++attempt) {
        std::vector<Task<Result<>>> tasks;
        auto const limit = deadline.sooner(patience);
        for (std::size_t i = 0; i < disks.size(); ++i) {
            tasks.push_back(connect_one(what, i, limit));
        }
        auto opened = co_await when_all(loop, std::move(tasks));
        if (!opened && opened.error().code != Errc::timed_out) co_return opened;
        if (opened) {
            // The guest's stop is a drain: then we do not wait to see whether it got stuck.
            auto const token = iothread ? std::stop_token() : keep_converged_stop;
            auto const answered =
                co_await qmp::query_status(client, Deadline(deadline.sooner(patience).at(), token));
            if (answered) co_return Result<>{};
            auto const why = answered.error().code;
            if (why != Errc::timed_out && why != Errc::cancelled) {
                co_return std::unexpected(answered.error());
            }
        }
        if (!keep_converged_stop.stop_requested()) {
            core::log::warning(
                "storage: QEMU did not answer while a new NBD connection was made; the connection "
                "is closed");
        }
        co_await discard(what);
        if (keep_converged_stop.stop_requested())
            co_return core::fail(Errc::cancelled, "cancelled");
        auto const back = co_await qmp::query_status(client, deadline.sooner(limits::qmp_command));
        if (!back) co_return std::unexpected(back.error());
        patience *= 2;
    }
    co_return core::fail(Errc::timed_out, "QEMU does not answer while NBD connections are opened");
}

/// After `lost`: when connections to the destination were cut, makes them anew. What was not
/// acknowledged is still dirty: in the scan of the bulk pass, or in the older bitmap. Fails with
/// `lost` when it is no cut, or when the destination does not come back in time.
Task<Result<>> Mirror::Implementation::reconnect(core::Error lost, Deadline deadline) {
    bool const cut =
        !std::ranges::all_of(disks, [](auto const& one) { return one->target.alive(); });
    // Connections may also be dead because the copier cut them after an error of the destination's
    // storage: that would only come again.
    bool const answered = lost.code == Errc::nbd;
    if (!cut || answered || !options.reexport || deadline.stopped()) {
        co_return std::unexpected(std::move(lost));
    }
    core::log::warning("storage: {}; connecting again", lost.sentence());
    auto const until = deadline.sooner(options.link_timeout);
    regaining = true;
    link_lost.reset();
    auto pause = limits::link_retry_min;
    Result<> opened;
    for (;;) {
        opened = co_await reopen_targets(until);
        bool const over = opened || until.stopped() || until.passed();
        if (over || !co_await core::sleep_for(loop, pause, until.token())) break;
        pause = std::min(pause * 2, limits::link_retry_max);
    }
    regaining = false;
    if (!opened) {
        if (!deadline.stopped()) link_lost = lost;
        co_return std::unexpected(std::move(lost));
    }
    ++cuts;
    core::log::info("storage: connected to the destination again");
    co_return Result<>{};
}

/// The destination first ends what the old connections left under way: see Target::reexport().
Task<Result<>> Mirror::Implementation::reopen_targets(Deadline deadline) {
    for (auto const& one : disks) {
        one->target.abort();
        co_await one->target.close();
    }
    auto const limit = deadline.sooner(limits::connect);
    CO_TRY(auto reexported, co_await options.reexport(limit));
    if (!reexported.port.empty()) destination.port = std::move(reexported.port);
    if (std::exchange(generation, reexported.generation) != reexported.generation)
        forget_unflushed();
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) tasks.push_back(open_target(i, limit));
    co_return co_await when_all(loop, std::move(tasks));
}

/// Another QEMU serves the destination's disks: what the one before had acknowledged and not
/// written is lost. What rounds copied is still in their older bitmap, or was flushed.
void Mirror::Implementation::forget_unflushed() {
    if (bulk_done) return;
    for (auto const& one : disks) {
        if (one->disk.format == "raw" || (!one->bulk && !one->bulk_done)) continue;
        core::log::info("storage: disk={} is copied again from {} MiB, which was flushed",
                        one->disk.name, one->bulk_flushed_offset >> 20);
        if (std::exchange(one->bulk_done, false)) one->report.rounds.pop_back();
        one->begin_bulk(one->bulk_flushed_offset);
    }
}

}  // namespace storage
