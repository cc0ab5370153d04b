#include "storage/mirror.hpp"

#include <algorithm>
#include <cassert>

#include "core/log.hpp"
#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

// A unix socket's address holds 107 characters; "/nbd.sock" is ours.
constexpr std::size_t directory_characters_max = 98;

// Connections QEMU must accept beyond those counted: a handshake that overlaps with a goodbye.
constexpr std::uint32_t spare_connections = 8;

bool is_name(std::string const& text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '-' || c == '.' || c == '_';
    });
}

}  // namespace

Mirror::Implementation::Implementation(core::Loop& loop_, qmp::Client& client_,
                                       std::vector<Disk> disks_, Destination destination_,
                                       MirrorOptions options_)
    : loop(loop_),
      client(client_),
      destination(std::move(destination_)),
      options(std::move(options_)),
      exports(loop_, client_, options.directory, options.migration_id),
      buffers(loop_,
              options.in_flight_bytes == 0
                  ? limits::in_flight_bytes_max
                  : std::clamp(options.in_flight_bytes, limits::request_bytes_max,
                               limits::in_flight_bytes_max),
              limits::in_flight_requests_max),
      pace(loop_),
      no_round_copies(loop_),
      verification(loop_),
      generation(options.generation) {
    no_round_copies.set();
    pace.set(options.bandwidth_bytes_per_second);
    for (auto& disk : disks_) disks.push_back(std::make_unique<MirrorDisk>(loop_, std::move(disk)));
}

Result<> Mirror::Implementation::check() const {
    if (disks.empty()) return fail(Errc::invalid, "there is no disk to copy");
    if (disks.size() > limits::disks_max) {
        return fail(Errc::invalid, "{} disks are more than the {} one guest may have", disks.size(),
                    limits::disks_max);
    }
    if (!is_name(options.migration_id) ||
        options.migration_id.size() > limits::epoch_characters_max) {
        return fail(Errc::invalid, "'{}' cannot name a migration", options.migration_id);
    }
    if (options.directory.empty() || options.directory.size() > directory_characters_max) {
        return fail(Errc::invalid, "the directory '{}' is too long for a socket in it",
                    options.directory);
    }
    return {};
}

std::vector<std::string> Mirror::Implementation::nodes() const {
    std::vector<std::string> all;
    for (auto const& one : disks) all.push_back(one->disk.node);
    return all;
}

unsigned Mirror::Implementation::connections() const {
    return options.connections == 0 ? limits::connections_default
                                    : std::min(options.connections, limits::connections_max);
}

bool Mirror::Implementation::reads_base(MirrorDisk const& one) {
    return one.disk.table && one.disk.layers_above_base > 0;
}

std::string Mirror::Implementation::bitmap_export(unsigned round, std::size_t disk) const {
    return exports.export_id(fmt::format("b{}", round), disk);
}

std::string Mirror::Implementation::bitmap_context(unsigned round) const {
    return "qemu:dirty-bitmap:" + exports.bitmap_name(round);
}

CopyCounters Mirror::Implementation::counters() const {
    CopyCounters sum;
    for (auto const& one : disks) {
        sum.data_bytes += one->counters.data_bytes;
        sum.zero_bytes += one->counters.zero_bytes;
        sum.requests += one->counters.requests;
    }
    return sum;
}

Task<Result<>> Mirror::Implementation::prepare(Deadline deadline) {
    CO_TRY_VOID(check());
    phase = MirrorPhase::preparing;
    std::optional<unsigned> found;
    if (options.resume && options.resume->disks.size() == disks.size()) {
        CO_TRY(found, co_await exports.adopt(nodes(), options.resume->round, deadline));
    }
    if (!found) {
        CO_TRY(cleared, co_await exports.clear_leftovers(deadline));
    }
    auto const per_disk = connections() + 3;  // the data, the base, the bitmaps of two rounds
    auto const limit = static_cast<std::uint32_t>(disks.size() * per_disk) + spare_connections;
    CO_TRY_VOID(co_await exports.start_server(limit, deadline));
    if (found) {
        go_on(*found);
    } else {
        // Before anything is read: a write from here on is in the bitmap.
        CO_TRY_VOID(co_await exports.add_bitmaps(nodes(), next_round, deadline));
        rounds.push_back(next_round++);
    }
    rotated_at = Clock::now();
    connected = true;
    CO_TRY_VOID(co_await learn_iothreads(deadline));
    CO_TRY_VOID(co_await open_bitmaps(0, deadline));
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(exports.add_export(exports.export_id("data", i), disks[i]->disk.node, "",
                                           deadline, disks[i]->disk.layers_above_base > 0));
        if (!reads_base(*disks[i])) continue;
        tasks.push_back(exports.add_export(exports.export_id("base", i), disks[i]->disk.base_node,
                                           "", deadline));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    CO_TRY_VOID(co_await choose_readers(deadline));
    CO_TRY_VOID(co_await connect_source({true, 0}, deadline));
    tasks.clear();
    for (std::size_t i = 0; i < disks.size(); ++i) tasks.push_back(open_target(i, deadline));
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    choose_in_flight();
    co_return Result<>{};
}

// The bitmap of `round` has recorded everything since the earlier sidecar began it.
void Mirror::Implementation::go_on(unsigned round) {
    rounds.push_back(round);
    next_round = round + 1;
    for (std::size_t i = 0; i < disks.size(); ++i) {
        MirrorDisk& one = *disks[i];
        auto const& before = options.resume->disks[i];
        bool const lost =
            one.disk.format != "raw" && options.generation != options.resume->generation;
        auto const offset = lost ? before.flushed_offset : before.offset;
        one.report.resumed_at_bytes = offset;
        one.bulk_flushed_offset = before.flushed_offset;
        one.counters.data_bytes = before.copied_bytes;
        one.counters.zero_bytes = offset - std::min(offset, before.copied_bytes);
        one.bulk_done = before.done && !lost;
        if (one.bulk_done) {
            one.report.rounds.push_back(
                {before.copied_bytes, before.copied_bytes, 0, core::milliseconds(0)});
        }
        core::log::info("storage: disk={} continues at {} MiB with bitmap {}", one.disk.name,
                        offset >> 20, exports.bitmap_name(round));
    }
}

BulkProgress Mirror::Implementation::bulk_progress(MirrorDisk const& one) const {
    BulkProgress now{one.bulk_done, one.report.resumed_at_bytes, one.bulk_flushed_offset,
                     one.counters.data_bytes};
    if (one.bulk_done) now.offset = one.report.virtual_bytes;
    if (!one.bulk) return now;
    now.offset = one.bulk->position();
    if (one.fresh != nullptr) now.offset = one.fresh->position(now.offset);
    if (one.copier != nullptr) {
        now.offset = std::min(now.offset, one.copier->first_unfinished().value_or(now.offset));
    }
    return now;
}

void Mirror::Implementation::choose_in_flight() {
    if (options.in_flight_bytes != 0) return;
    double const seconds = std::chrono::duration<double>(round_trip).count();
    double const wanted = static_cast<double>(limits::in_flight_bytes_local) +
                          seconds * limits::in_flight_bytes_per_second;
    buffers.set_bytes_max(wanted < static_cast<double>(limits::in_flight_bytes_max)
                              ? static_cast<std::size_t>(wanted)
                              : limits::in_flight_bytes_max);
}

Task<Result<>> Mirror::Implementation::learn_iothreads(Deadline deadline) {
    CO_TRY(auto const devices, co_await qmp::query_block(client, deadline));
    for (auto const& device : devices) {
        bool const ours = std::ranges::any_of(
            disks, [&](auto const& one) { return one->disk.node == device.node_name; });
        if (!ours || device.qdev.empty()) continue;
        auto const found = co_await qmp::iothread_of(client, device, deadline);
        if (!found || !found->empty()) iothread = true;
    }
    co_return Result<>{};
}

// After the bitmaps began and before anything is read.
Task<Result<>> Mirror::Implementation::choose_readers(Deadline deadline) {
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(client, deadline));
    pid_t const qemu = options.qemu != 0 ? options.qemu : client.peer_pid();
    for (auto const& one : disks) {
        one->reader = std::make_unique<NbdReader>(one->source);
        auto const node = std::ranges::find(nodes, one->disk.node, &qmp::BlockNode::node_name);
        if (options.images_by_nbd || node == nodes.end()) continue;
        auto image = ImageFile::open(*node, qemu);
        if (!image) {
            core::log::debug("storage: disk={} is read by NBD: {}", one->disk.name,
                             image.error().sentence());
            continue;
        }
        core::log::debug("storage: disk={} is read from {} direct={}", one->disk.name, image->path,
                         image->direct);
        one->reader = std::make_unique<ImageReader>(loop, std::move(*image), one->source);
        one->report.reads_image = true;
    }
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::open_target(std::size_t index, Deadline deadline) {
    MirrorDisk& one = *disks[index];
    std::vector<std::string> const contexts{"base:allocation"};
    NbdAddress const theirs{"", destination.host, destination.port, destination.psk_username,
                            destination.psk_file};
    CO_TRY_VOID(
        co_await one.target.open(theirs, one.disk.export_name, contexts, connections(), deadline));
    std::uint64_t const size = one.source.traits().size;
    if (one.target.traits().size != size) {
        co_return fail(Errc::refused,
                       "disk {} has {} bytes here and {} at the destination: make it the same "
                       "size there",
                       one.disk.name, size, one.target.traits().size);
    }
    if (one.target.traits().read_only) {
        co_return fail(Errc::refused, "the destination offers disk {} read-only", one.disk.name);
    }
    one.report.virtual_bytes = size;
    if (one.disk.table && one.disk.table->disk_bytes() != size) {
        co_return fail(Errc::invalid, "the table of disk {} is for {} bytes; the disk has {}",
                       one.disk.name, one.disk.table->disk_bytes(), size);
    }
    auto const asked = Clock::now();
    CO_TRY_VOID(
        co_await allocation(one.target.first(), 0, limits::bitmap_granularity_bytes, deadline));
    auto const took = Clock::now() - asked;
    round_trip = std::max(round_trip, took);
    if (options.connections != 0 || took < limits::long_round_trip) co_return Result<>{};
    co_return co_await one.target.widen(theirs, one.disk.export_name, contexts,
                                        limits::connections_max, deadline);
}

Task<Result<>> Mirror::Implementation::list_final(Deadline deadline) {
    if (broken) co_return std::unexpected(*broken);
    if (regaining) co_return fail(Errc::closed, "the link to the destination was just lost");
    if (!bulk_done || rounds.empty()) {
        co_return fail(Errc::invalid, "the last delta cannot be copied before the disks were");
    }
    phase = MirrorPhase::final_delta;
    auto const begun = Clock::now();
    CO_TRY_VOID(co_await open_bitmaps(owed_slot, deadline));  // only after a failure
    std::vector<Task<Result<>>> tasks;
    auto const context = bitmap_context(rounds[owed_slot]);
    for (std::size_t i = 0; i < disks.size(); ++i) {
        tasks.push_back(list_owed(i, *disks[i]->bitmaps[owed_slot], context, deadline));
    }
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    // Here, not when the copy begins: final_read() may be asked first.
    for (auto const& one : disks) one->all_read.reset();
    final_status = Clock::now() - begun;
    listed = true;
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::copy_final(Deadline deadline) {
    if (!listed) co_return fail(Errc::invalid, "the last delta is copied once it is listed");
    // An older write to the same block must not arrive after ours.
    CO_TRY_VOID(co_await no_round_copies.wait(deadline));
    std::vector<Task<Result<>>> tasks;
    for (std::size_t i = 0; i < disks.size(); ++i) tasks.push_back(finish_disk(i, deadline));
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    CO_TRY_VOID(co_await verify_final(deadline));
    for (auto const& one : disks) one->target.say_goodbye();
    phase = MirrorPhase::copied;
    complete = true;
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::final_read(Deadline deadline) {
    for (auto const& one : disks) CO_TRY_VOID(co_await one->all_read.wait(deadline));
    co_return Result<>{};
}

Task<Result<>> Mirror::Implementation::finish_disk(std::size_t index, Deadline deadline) {
    MirrorDisk& one = *disks[index];
    RoundReport report;
    auto const begun = Clock::now();
    CO_TRY_VOID(co_await copy_last(index, report, deadline));
    auto const copied = Clock::now();
    CO_TRY_VOID(co_await flush_target(one, deadline));
    final_copy = std::max(final_copy, copied - begun);
    final_flush = std::max(final_flush, Clock::now() - copied);
    one.report.final_bytes = report.dirty_bytes;
    co_return Result<>{};
}

// Deleted in QEMU first, closed here afterwards: see Nbd::close.
Task<Result<>> Mirror::Implementation::drop(Deadline deadline) {
    if (client.open()) {
        auto removed = co_await exports.remove_all(deadline);
        if (!removed && client.open()) co_return removed;
    }
    co_await close_connections();
    rounds.clear();
    co_await digest_tables();
    phase = MirrorPhase::dropped;
    co_return Result<>{};
}

Task<void> Mirror::Implementation::close_connections() {
    std::vector<Task<Result<>>> tasks;
    for (auto const& one : disks) {
        tasks.push_back(surely(one->source.close()));
        tasks.push_back(surely(one->target.close()));
        tasks.push_back(surely(one->base.close()));
        for (auto const& bitmap : one->bitmaps) {
            if (bitmap) tasks.push_back(surely(bitmap->close()));
        }
    }
    (void)co_await when_all(loop, std::move(tasks));  // closing cannot fail
    for (auto const& one : disks) {
        one->bitmaps.clear();
        one->reader.reset();
    }
    connected = false;
}

Mirror::Mirror(core::Loop& loop, qmp::Client& client, std::vector<Disk> disks,
               Destination destination, MirrorOptions options)
    : implementation_(std::make_unique<Implementation>(
          loop, client, std::move(disks), std::move(destination), std::move(options))) {}

Mirror::~Mirror() { assert(!implementation_->connected); }

Task<Result<>> Mirror::prepare(Deadline deadline) {
    auto prepared = co_await implementation_->prepare(deadline);
    if (!prepared) {
        co_return std::unexpected(std::move(prepared.error()).while_doing("preparing the disks"));
    }
    co_return prepared;
}

Task<Result<ConvergenceReport>> Mirror::copy_until_converged(Deadline deadline) {
    auto converged = co_await implementation_->copy_until_converged(deadline);
    if (!converged || !converged->converged || !implementation_->verify_owed()) co_return converged;
    auto const verified = co_await implementation_->verify_whole(deadline);
    if (!verified) {
        auto error = verified.error();
        co_return std::unexpected(std::move(error).while_doing("verifying the disks"));
    }
    co_return co_await implementation_->copy_until_converged(deadline);
}

Task<Result<>> Mirror::arm(Deadline deadline) {
    if (implementation_->rounds.empty()) {
        co_return fail(Errc::invalid, "there is no bitmap to open before prepare");
    }
    co_return co_await implementation_->open_bitmaps(implementation_->rounds.size() - 1, deadline);
}

Task<void> Mirror::keep_converged(std::stop_token stop) {
    return implementation_->keep_converged(std::move(stop));
}

void Mirror::expect_stop() { implementation_->stop_expected = true; }

bool Mirror::settled() const { return implementation_->settled; }

std::optional<core::Error> const& Mirror::broken() const { return implementation_->broken; }

ConvergenceReport Mirror::convergence() const { return implementation_->convergence; }

Task<Result<>> Mirror::list_final(Deadline deadline) {
    auto listed = co_await implementation_->list_final(deadline);
    if (!listed) {
        co_return std::unexpected(
            std::move(listed.error()).while_doing("listing the last delta of the disks"));
    }
    co_return listed;
}

Task<Result<>> Mirror::copy_final(Deadline deadline) {
    auto copied = co_await implementation_->copy_final(deadline);
    if (!copied) {
        co_return std::unexpected(
            std::move(copied.error()).while_doing("copying the last delta of the disks"));
    }
    co_return copied;
}

Task<Result<>> Mirror::final_read(Deadline deadline) {
    return implementation_->final_read(std::move(deadline));
}

Task<Result<>> Mirror::drop(Deadline deadline) {
    return implementation_->drop(std::move(deadline));
}

void Mirror::set_stagnant_rounds(unsigned rounds) { implementation_->stagnant_rounds = rounds; }

void Mirror::set_bandwidth(std::uint64_t bytes_per_second) {
    implementation_->pace.set(bytes_per_second);
}

void Mirror::set_downtime_limit(core::milliseconds downtime_limit) {
    implementation_->options.downtime_limit = downtime_limit;
}

std::optional<CopyProgress> Mirror::copy_progress() const {
    auto const& mirror = *implementation_;
    if (mirror.rounds.empty()) return {};
    CopyProgress now{mirror.rounds.front(), mirror.generation, {}};
    for (auto const& one : mirror.disks) {
        // They go from one bitmap's account to `postponed` in the moment that bitmap is given up: a
        // note that names it is void from then on.
        if (!one->postponed.empty()) return {};
        now.disks.push_back(mirror.bulk_progress(*one));
    }
    return now;
}

bool Mirror::link_lost() const { return implementation_->link_lost.has_value(); }

Progress Mirror::progress() const { return implementation_->progress(); }

}  // namespace storage
