#include "storage/disk_replicator.hpp"

#include <cassert>
#include <deque>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "qmp/vm.hpp"
#include "storage/copier.hpp"
#include "storage/exports.hpp"
#include "storage/limits.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

struct Connections {
    explicit Connections(core::Loop& loop) : source(loop), target(loop) {}
    NbdPool source;
    NbdPool target;
    CopyCounters counters;
    std::uint64_t owed_bytes = 0;
};

std::vector<PointDisk> points_of(std::vector<WarmDisk> const& disks) {
    std::vector<PointDisk> all;
    for (auto const& disk : disks) all.push_back(disk.point);
    return all;
}

}  // namespace

struct DiskReplicator::Implementation {
    Implementation(core::Loop& loop_, qmp::Client& client_, std::vector<WarmDisk> disks_,
                   WarmOptions options_)
        : loop(loop_),
          client(client_),
          disks(std::move(disks_)),
          options(std::move(options_)),
          exports(loop_, client_, options.directory, options.migration_id),
          point(loop_, client_, points_of(disks), options.fleecing_directory),
          buffers(loop_, limits::in_flight_bytes_max, limits::in_flight_requests_max),
          pace(loop_) {
        pace.set(options.bandwidth_bytes_per_second);
    }

    [[nodiscard]] std::vector<std::string> nodes() const {
        std::vector<std::string> all;
        for (auto const& disk : disks) all.push_back(disk.point.node);
        return all;
    }
    Task<Result<>> rotate(Deadline deadline);
    Task<Result<>> add_exports(Deadline deadline);
    Task<Result<>> connect_source(Deadline deadline);
    Task<Result<>> open_source(std::size_t disk, Deadline deadline);
    Task<Result<>> connect_target(std::size_t disk, Destination destination, std::string name,
                                  Deadline deadline);
    Task<Result<>> copy_disk(std::size_t disk, bool full, Deadline deadline);
    Task<Result<>> copy(Destination destination, std::vector<std::string> names, bool full,
                        Deadline deadline);
    Task<Result<>> end_round(Deadline deadline);

    core::Loop& loop;
    qmp::Client& client;
    std::vector<WarmDisk> disks;
    WarmOptions options;
    SourceExports exports;
    RecoveryPoint point;
    Buffers buffers;
    RateLimiter pace;
    std::vector<std::unique_ptr<Connections>> connections;  ///< Only within a round.
    /// Numbers of the bitmaps there are, oldest first: that one holds all that is dirty.
    std::deque<unsigned> rounds;
    unsigned next_round = 0;
    bool untidy = false;  ///< A round may have left something in QEMU.
    std::uint64_t copied = 0;
};

Task<Result<>> DiskReplicator::Implementation::rotate(Deadline deadline) {
    while (rounds.size() > 1) {  // of a round that came to nothing
        CO_TRY_VOID(co_await exports.remove_bitmaps(nodes(), rounds.back(), deadline));
        rounds.pop_back();
    }
    CO_TRY_VOID(co_await exports.add_bitmaps(nodes(), next_round, deadline));
    rounds.push_back(next_round++);
    co_return Result<>{};
}

Task<Result<>> DiskReplicator::Implementation::add_exports(Deadline deadline) {
    auto const count = disks.size() * limits::connections_default + disks.size();
    CO_TRY_VOID(co_await exports.start_server(static_cast<std::uint32_t>(count), deadline));
    for (std::size_t i = 0; i < disks.size(); ++i) {
        qmp::NbdExport nbd_export;
        nbd_export.id = exports.export_id("point", i);
        nbd_export.name = nbd_export.id;
        nbd_export.node = RecoveryPoint::node(i);
        nbd_export.bitmaps.push_back({disks[i].point.node, exports.bitmap_name(rounds.front())});
        CO_TRY_VOID(co_await qmp::block_export_add(client, std::move(nbd_export), deadline));
    }
    co_return Result<>{};
}

Task<Result<>> DiskReplicator::Implementation::open_source(std::size_t disk, Deadline deadline) {
    std::vector<std::string> const contexts{
        "base:allocation", "qemu:dirty-bitmap:" + exports.bitmap_name(rounds.front())};
    co_return co_await connections[disk]->source.open({exports.socket_path(), "", "", "", ""},
                                                      exports.export_id("point", disk), contexts,
                                                      limits::connections_default, deadline);
}

// As Mirror's connect_source (mirror_connect.cpp says why QEMU is asked something afterwards), but
// a round can be given up: it comes again.
Task<Result<>> DiskReplicator::Implementation::connect_source(Deadline deadline) {
    bool iothread = false;
    CO_TRY(auto const devices, co_await qmp::query_block(client, deadline));
    for (auto const& device : devices) {
        if (device.qdev.empty()) continue;
        auto const found = co_await qmp::iothread_of(client, device, deadline);
        if (!found || !found->empty()) iothread = true;
    }
    Clock::duration const patience = iothread ? Clock::duration(limits::newborn_answer_iothread)
                                              : Clock::duration(limits::newborn_answer_round);
    auto const limit = Deadline(deadline.sooner(patience).at(), {});
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) tasks.push_back(open_source(i, limit));
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    auto const answered =
        co_await qmp::query_status(client, Deadline(deadline.sooner(patience).at(), {}));
    if (answered) co_return Result<>{};
    for (auto const& one : connections) one->source.abort();
    co_return std::unexpected(answered.error());
}

Task<Result<>> DiskReplicator::Implementation::connect_target(std::size_t disk,
                                                              Destination destination,
                                                              std::string name, Deadline deadline) {
    NbdPool& target = connections[disk]->target;
    std::vector<std::string> const contexts{"base:allocation"};
    CO_TRY_VOID(co_await target.open(
        {"", destination.host, destination.port, destination.psk_username, destination.psk_file},
        name, contexts, limits::connections_default, deadline));
    if (target.traits().size == disks[disk].point.virtual_bytes) co_return Result<>{};
    co_return fail(Errc::refused, "disk {} has {} bytes here and {} at the destination",
                   disks[disk].name, disks[disk].point.virtual_bytes, target.traits().size);
}

Task<Result<>> DiskReplicator::Implementation::copy_disk(std::size_t disk, bool full,
                                                         Deadline deadline) {
    Connections& one = *connections[disk];
    NbdReader reader(one.source);
    Copier copier(loop, {disks[disk].name, reader, one.target}, buffers, &pace, one.counters);
    if (full) {
        AllocationScan scan(one.source, one.target);
        auto const copied_all = co_await copier.run(scan, deadline);
        one.owed_bytes = scan.data_bytes();
        CO_TRY_VOID(copied_all);
    } else {
        auto const context = "qemu:dirty-bitmap:" + exports.bitmap_name(rounds.front());
        CO_TRY(auto dirty, co_await dirty_extents(loop, one.source.first(), context, deadline));
        DirtyScan scan(one.source, std::move(dirty), true);
        one.owed_bytes = scan.total_bytes();
        CO_TRY_VOID(co_await copier.run(scan, deadline));
    }
    auto flushed = co_await one.target.first().flush(deadline);
    if (flushed) co_return flushed;
    co_return std::unexpected(explain_destination(std::move(flushed.error()))
                                  .while_doing("flushing disk " + disks[disk].name));
}

Task<Result<>> DiskReplicator::Implementation::copy(Destination destination,
                                                    std::vector<std::string> names, bool full,
                                                    Deadline deadline) {
    connections.clear();
    for (std::size_t i = 0; i < disks.size(); ++i) {
        connections.push_back(std::make_unique<Connections>(loop));
    }
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(connect_target(i, destination, names[i], deadline.sooner(limits::connect)));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    // Only now: from here on the guest's writes cost more.
    CO_TRY_VOID(co_await point.take(options.quiescence, deadline.sooner(limits::qmp_command)));
    CO_TRY_VOID(co_await add_exports(deadline.sooner(limits::qmp_command)));
    CO_TRY_VOID(co_await connect_source(deadline));
    core::LinkedStop stop(deadline.token());
    Deadline const until(deadline.at(), stop.token());
    tasks.clear();
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(stop_when_failed(copy_disk(i, full, until), stop));
    }
    co_return co_await when_all(loop, std::move(tasks));
}

// Exports are deleted in QEMU before our ends of them are closed: see Nbd::close.
Task<Result<>> DiskReplicator::Implementation::end_round(Deadline deadline) {
    Result<> ended;
    if (client.open()) {
        auto ids = co_await own_exports(client, deadline);
        ended = ids ? co_await exports.remove_exports(std::move(*ids), deadline)
                    : std::unexpected(ids.error());
        if (ended) ended = co_await exports.stop_server(deadline);
    }
    std::vector<Task<Result<>>> tasks;
    for (auto const& one : connections) {
        copied += one->counters.data_bytes;
        tasks.push_back(surely(one->source.close()));
        tasks.push_back(surely(one->target.close()));
    }
    (void)co_await when_all(loop, std::move(tasks));  // closing cannot fail
    connections.clear();
    if (client.open()) {
        auto released = co_await point.release(deadline);
        if (ended) ended = std::move(released);
    }
    if (!client.open()) ended = Result<>{};
    untidy = !ended;
    co_return ended;
}

DiskReplicator::DiskReplicator(core::Loop& loop, qmp::Client& client, std::vector<WarmDisk> disks,
                               WarmOptions options)
    : implementation_(
          std::make_unique<Implementation>(loop, client, std::move(disks), std::move(options))) {}

DiskReplicator::~DiskReplicator() { assert(implementation_->connections.empty()); }

Task<Result<>> DiskReplicator::begin(Deadline deadline) {
    auto& self = *implementation_;
    CO_TRY_VOID(co_await self.exports.clear_leftovers(deadline));
    CO_TRY_VOID(co_await self.exports.stop_left_server(deadline));
    CO_TRY_VOID(co_await self.point.release(deadline));
    self.rounds.clear();
    CO_TRY_VOID(co_await self.exports.add_bitmaps(self.nodes(), self.next_round, deadline));
    self.rounds.push_back(self.next_round++);
    co_return Result<>{};
}

Task<Result<WarmRound>> DiskReplicator::round(Destination destination,
                                              std::vector<std::string> export_names, bool full,
                                              Deadline deadline) {
    auto& self = *implementation_;
    if (self.rounds.empty() || export_names.size() != self.disks.size()) {
        co_return fail(Errc::invalid, "a round needs its first bitmap and a name for each disk");
    }
    if (self.untidy) CO_TRY_VOID(co_await self.end_round(Deadline::after(limits::qmp_command)));
    self.copied = 0;
    CO_TRY_VOID(co_await self.rotate(deadline.sooner(limits::qmp_command)));
    WarmRound report;
    auto const begun = Clock::now();
    self.untidy = true;
    auto copied = co_await self.copy(std::move(destination), std::move(export_names), full,
                                     std::move(deadline));
    for (auto const& one : self.connections) report.owed_bytes += one->owed_bytes;
    auto ended = co_await self.end_round(Deadline::after(limits::qmp_command));
    if (!ended) core::log::warning("storage: {}", ended.error().sentence());
    if (!copied) co_return std::unexpected(std::move(copied.error()));
    report.copied_bytes = self.copied;
    report.taken_at = self.point.taken_at();
    report.took = std::chrono::ceil<core::milliseconds>(Clock::now() - begun);
    co_return report;
}

Task<Result<>> DiskReplicator::accept(Deadline deadline) {
    auto& self = *implementation_;
    while (self.rounds.size() > 1) {
        CO_TRY_VOID(
            co_await self.exports.remove_bitmaps(self.nodes(), self.rounds.front(), deadline));
        self.rounds.pop_front();
    }
    co_return Result<>{};
}

Task<Result<>> DiskReplicator::drop(Deadline deadline) {
    auto& self = *implementation_;
    if (!self.client.open()) co_return Result<>{};
    CO_TRY_VOID(co_await self.end_round(deadline));
    auto removed = co_await self.exports.remove_all(deadline);
    if (!removed && !self.client.open()) removed = Result<>{};
    if (removed) self.rounds.clear();
    co_return removed;
}

std::uint64_t DiskReplicator::copied_bytes() const {
    if (implementation_->connections.empty()) return implementation_->copied;
    std::uint64_t sum = 0;
    for (auto const& one : implementation_->connections) sum += one->counters.data_bytes;
    return sum;
}

Task<Result<>> clear_warm_copy(core::Loop& loop, qmp::Client& client, std::vector<WarmDisk> disks,
                               std::string directory, Deadline deadline) {
    CO_TRY_VOID(co_await clear_leftovers(loop, client, std::move(directory), deadline));
    RecoveryPoint point(loop, client, points_of(disks), "");
    co_return co_await point.release(deadline);
}

}  // namespace storage
