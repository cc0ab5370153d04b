// Connecting to the source's QEMU, which is less simple than it sounds. QEMU (7.2 and 10.0 alike)
// quiesces the NBD clients it has when a drain begins; one whose handshake ends during the drain is
// not quiesced, waits for its first request, and the drain waits for it, for ever, with QEMU's main
// loop. Drains come from the guest's devices, from QMP, and from STOP, so one can always coincide.
// Cutting the newborn connection ends it. So after connecting we ask QEMU something; when no answer
// comes we cut, wait until QEMU answers, and try again.
#include "core/log.hpp"
#include "qmp/machine.hpp"
#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"
#include "storage/together.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

Task<Result<>> Mirror::Implementation::connect_one(Newborn what, std::size_t disk,
                                                   Deadline deadline) {
    MirrorDisk& one = *disks[disk];
    NbdAddress const ours{exports.socket_path(), "", "", "", ""};
    if (what.data) {
        std::vector<std::string> const contexts{"base:allocation"};
        co_return co_await one.source.open(ours, exports.export_id("data", disk), contexts,
                                           connections(), deadline);
    }
    if (one.bitmaps[what.slot]) co_return Result<>{};
    unsigned const round = rounds[what.slot];
    std::vector<std::string> const contexts{bitmap_context(round)};
    CO_TRY(one.bitmaps[what.slot],
           co_await Nbd::connect(loop, ours, bitmap_export(round, disk), contexts, deadline));
    co_return Result<>{};
}

Task<void> Mirror::Implementation::discard(Newborn what) {
    for (auto const& one : disks) {
        if (what.data) {
            one->source.abort();
        } else if (one->bitmaps[what.slot]) {
            one->bitmaps[what.slot]->abort();
        }
    }
    for (auto const& one : disks) {
        if (what.data) {
            co_await one->source.close();
        } else if (one->bitmaps[what.slot]) {
            co_await one->bitmaps[what.slot]->close();
            one->bitmaps[what.slot].reset();
        }
    }
}

Task<Result<>> Mirror::Implementation::connect_source(Newborn what, Deadline deadline) {
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
        auto opened = co_await together(loop, std::move(tasks));
        if (!opened && opened.error().code != Errc::timed_out) co_return opened;
        if (opened) {
            auto const answered = co_await qmp::query_status(client, deadline.sooner(patience));
            if (answered) co_return Result<>{};
            if (answered.error().code != Errc::timed_out) {
                co_return std::unexpected(answered.error());
            }
        }
        core::log::warning("storage: QEMU did not answer beside a new NBD connection; cut it");
        co_await discard(what);
        auto const back = co_await qmp::query_status(client, deadline.sooner(limits::qmp_command));
        if (!back) co_return std::unexpected(back.error());
        patience *= 2;
    }
    co_return core::fail(Errc::timed_out, "QEMU does not answer while NBD connections are opened");
}

}  // namespace storage
