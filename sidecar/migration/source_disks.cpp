#include "sidecar/migration/source_disks.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/process_user.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

// After so many results of copy_until_converged with a delta that does not shrink, we give up. Each
// of them takes several rounds.
constexpr int stagnations_max = 3;

}  // namespace

bool SourceDisks::find_copy() {
    auto found = copy_record_.read();
    if (!found) return false;
    if (auto const tables = tables_.open(); !tables) {
        core::log::warning("guest={} {}: its copy cannot be verified, and is undone",
                           context_.guest.name, tables.error().sentence());
        return false;
    }
    resume_ = std::move(*found);
    return true;
}

Task<Result<>> SourceDisks::prepare() {
    if (context_.description.disks.empty()) co_return Result<>{};
    if (resume_) {
        // The earlier sidecar's writes must have ended before ours begin, and its limits
        // must be removed.
        CO_TRY_VOID(co_await reexport(context_.within(limits::prepare_timeout)));
        CO_TRY_VOID(co_await remove_throttle(context_.within(limits::qmp_timeout)));
    }
    // A chain that is being changed must not be read as the chain that was compared.
    CO_TRY_VOID(co_await check_same_disks(*context_.guest.client, context_.description,
                                          context_.within(limits::qmp_timeout)));
    std::vector<storage::Disk> disks;
    for (std::size_t index = 0; index < context_.description.disks.size(); ++index) {
        auto const& disk = context_.description.disks[index];
        disks.push_back({disk.name, disk.node, disk.format, disk.virtual_bytes,
                         endpoints_.exports[index], tables_.table(index), disk.layers_above_base,
                         disk.base_node,
                         index < endpoints_.zero_bytes.size() ? endpoints_.zero_bytes[index] : 0});
    }
    std::vector<std::string> nodes;
    for (auto const& disk : disks) nodes.push_back(disk.node);
    throttle_.emplace(*context_.guest.client, std::move(nodes),
                      [this](Json const& found) { return record_.note_throttle(found); });
    storage::Destination destination{
        context_.peer.host(), std::to_string(endpoints_.nbd_port),
        context_.encrypted() ? key_user : "",
        context_.encrypted() ? key_file(context_.key_directory()) : ""};
    auto options = mirror_options();
    CO_TRY(options.directory, sockets());
    mirror_ = std::make_unique<storage::Mirror>(context_.guest.loop, *context_.guest.client,
                                                std::move(disks), destination, std::move(options));
    auto prepared = co_await mirror_->prepare(context_.within(limits::prepare_timeout));
    for (auto const& line : mirror_->report().cleared)
        core::log::info("guest={} cleared {}", context_.guest.name, line);
    co_return prepared;
}

Result<std::string> SourceDisks::sockets() const {
    auto const& guest = context_.guest;
    return socket_directory(guest.paths.run(guest.name), guest.process.pid());
}

storage::MirrorOptions SourceDisks::mirror_options() {
    storage::MirrorOptions settings;
    settings.migration_id = context_.migration_id;
    settings.qemu = context_.guest.process.pid();
    settings.downtime_limit = limits::downtime_disks(context_.downtime_limit());
    settings.reexport = [this](Deadline deadline) { return reexport(std::move(deadline)); };
    if (context_.options.verify) {
        settings.hash = [this](std::size_t disk, std::vector<storage::Extent> ranges,
                               Deadline deadline) {
            return hash_destination(disk, std::move(ranges), std::move(deadline));
        };
    }
    settings.bandwidth_bytes_per_second = context_.options.bandwidth;
    settings.resume = resume_;
    settings.generation = endpoints_.generation;
    settings.link_timeout = std::chrono::seconds(context_.options.link_timeout_s);
    return settings;
}

/// The destination's QEMU may be another one by now, with other ports.
Task<Result<storage::Reexported>> SourceDisks::reexport(Deadline deadline) {
    CO_TRY_VOID(co_await context_.peer.reached(deadline));
    CO_TRY(auto endpoints, co_await context_.peer.request(protocol::Reexport{}, deadline));
    CO_TRY_VOID(take_endpoints(std::move(endpoints)));
    co_return storage::Reexported{std::to_string(endpoints_.nbd_port), endpoints_.generation};
}

/// Asks again if the link was cut meanwhile, unless the guest is stopped.
Task<Result<std::string>> SourceDisks::hash_destination(std::size_t disk,
                                                        std::vector<storage::Extent> ranges,
                                                        Deadline deadline) {
    if (!std::exchange(hash_asked_, true)) stop_for_test("verify_whole");
    if (context_.timeline.stop_at() && !std::exchange(final_hash_asked_, true))
        stop_for_test("verify_final");
    protocol::Hash const request{disk, std::move(ranges)};
    for (int tries = 1;; ++tries) {
        auto const reply = co_await context_.peer.request(request, deadline);
        if (reply) co_return reply->hash;
        bool const again = reply.error().code == Errc::closed && !context_.timeline.stop_at();
        if (!again || tries >= limits::hash_tries_max) co_return std::unexpected(reply.error());
        CO_TRY_VOID(co_await context_.peer.reached(deadline.sooner(limits::peer_patience)));
    }
}

Result<> SourceDisks::take_endpoints(protocol::Endpoints endpoints) {
    endpoints_ = std::move(endpoints);
    if (endpoints_.exports.size() != context_.description.disks.size()) {
        return fail(Errc::protocol, "the destination exports {} disks of {}",
                    endpoints_.exports.size(), context_.description.disks.size());
    }
    return {};
}

/// A block job inserts nodes into a chain while it runs, and QEMU then counts the layers
/// differently. So QEMU's data about a disk with a base is valid only if no job ran.
Result<> SourceDisks::check_no_block_job() const {
    bool const any_base = std::ranges::any_of(context_.description.disks,
                                              [](auto const& disk) { return !disk.bases.empty(); });
    if (!any_base || block_job_.empty()) return {};
    return fail(Errc::refused,
                "the block job {} ran while the guest was copied, and a disk has a base: migrate "
                "again when no job runs",
                block_job_);
}

/// Copies until the guest changes or the link is lost for too long.
Task<Result<>> SourceDisks::copy() {
    if (!mirror_) co_return Result<>{};
    link_down_ = false;
    core::LinkedStop stop(context_.actions_stop.get_token());
    core::TaskGroup looking(context_.guest.loop);
    looking.spawn(watch_guest(stop));
    auto copied = co_await copy_until_converged(stop.token());
    stop.request_stop();
    co_await looking.join();
    if (changed_) co_return std::unexpected(*changed_);
    link_down_ = !copied && mirror_->link_lost();
    co_return copied;
}

Task<void> SourceDisks::watch_guest(core::LinkedStop& copying) {
    while (co_await core::sleep_for(context_.guest.loop, limits::guest_look_interval,
                                    copying.token())) {
        auto same =
            co_await check_same_guest(*context_.guest.client, context_.description,
                                      core::Deadline::after(limits::qmp_timeout, copying.token()));
        if (same) same = check_no_block_job();
        // A QEMU that does not answer is detected elsewhere.
        if (same || same.error().code != Errc::refused) continue;
        changed_ = std::move(same.error());
        copying.request_stop();
    }
}

Task<Result<>> SourceDisks::copy_until_converged(std::stop_token token) {
    for (int stagnations = 0;;) {
        CO_TRY_VOID(co_await throttle_->measure(context_.within(limits::qmp_timeout)));
        CO_TRY(auto const now, co_await mirror_->copy_until_converged(Deadline::never(token)));
        bool slower = false;
        bool const gave_way = !now.converging && nice_;
        if (gave_way) {
            // Do not slow a guest down because we left the processor to others.
            core::log::info("guest={} migration_id={} the copy runs at normal priority again",
                            context_.guest.name, context_.migration_id);
            nice_.reset();
        } else if (!now.converging && context_.options.throttle) {
            CO_TRY(slower, co_await throttle_->step(context_.within(limits::qmp_timeout)));
            // From now on the mirror reports every round that does not shrink the delta.
            mirror_->set_stagnant_rounds(1);
        }
        context_.timeline.note_step(now, throttle_->bytes_per_second());
        if (now.converged) co_return Result<>{};
        if (slower || gave_way) continue;
        if (!now.converging && stagnations >= stagnations_max) {
            auto const slowed = throttle_->bytes_per_second();
            co_return fail(
                Errc::refused,
                "the guest writes {:.1f} MB/s{} and the destination takes {:.1f} MB/s: the "
                "pause would be {} ms, above the {} ms that --downtime-limit {} plans for it; "
                "allow a longer pause, or migrate it when it writes less",
                static_cast<double>(now.dirty_bytes_per_second) / 1e6,
                slowed ? ", slowed down as far as allowed," : "",
                static_cast<double>(now.rate_bytes_per_second) / 1e6, now.predicted.count(),
                limits::downtime_disks(context_.downtime_limit()).count(),
                context_.options.downtime_limit_ms);
        }
        ++stagnations;
    }
}

void SourceDisks::give_way(bool whether) {
    nice_.reset();
    if (whether) nice_.emplace(limits::copy_nice_steps);
}

void SourceDisks::write_copy_record() {
    if (mirror_) copy_record_.write(mirror_->copy_progress());
}

Task<Result<>> SourceDisks::arm() {
    if (!mirror_) co_return Result<>{};
    co_return co_await mirror_->arm(context_.within(limits::prepare_timeout));
}

Task<void> SourceDisks::keep_converged(std::stop_token stop) {
    if (mirror_) co_await mirror_->keep_converged(std::move(stop));
}

Task<Result<>> SourceDisks::list_final() {
    if (!mirror_) co_return Result<>{};
    context_.timeline.mark("listing_ms");
    co_return co_await mirror_->list_final(context_.within_pause());
}

Task<Result<>> SourceDisks::copy_final() {
    if (!mirror_) co_return Result<>{};
    context_.timeline.mark("copying_ms");
    auto copied = co_await mirror_->copy_final(context_.within_pause());
    context_.timeline.note_final_copy(mirror_->report());
    co_return copied;
}

Task<Result<>> SourceDisks::final_read() {
    if (!mirror_) co_return Result<>{};
    co_return co_await mirror_->final_read(context_.within_pause());
}

/// Removes our throttle, or the one in the record of a sidecar that died.
Task<Result<>> SourceDisks::remove_throttle(Deadline deadline) {
    if (context_.qemu_gone) co_return Result<>{};
    if (throttle_) co_return co_await throttle_->remove(deadline);
    CO_TRY(auto const record, MigrationRecord::read(context_.guest.paths, context_.guest.name));
    co_return co_await Throttle::put_back(*context_.guest.client, record["throttle"], deadline);
}

Task<Result<>> SourceDisks::drop(Deadline deadline) {
    Result<> dropped;
    auto const unthrottled = co_await remove_throttle(deadline);
    if (mirror_) {
        dropped = co_await mirror_->drop(deadline);
    } else if (!context_.qemu_gone) {
        CO_TRY(auto const directory, sockets());
        dropped = co_await storage::clear_leftovers(context_.guest.loop, *context_.guest.client,
                                                    directory, deadline);
    }
    co_return unthrottled ? dropped : unthrottled;
}

Task<void> SourceDisks::drop_mirror(Deadline deadline) {
    if (mirror_) (void)co_await mirror_->drop(std::move(deadline));
}

/// Disks and RAM share one budget. The disks have all of it until RAM is sent. Then they have
/// twice the guest's write rate, but at least an eighth and at most a half, and RAM has the rest.
/// 0: no limit.
SourceDisks::Shares SourceDisks::bandwidth_shares(bool ram_flows) const {
    std::uint64_t const all = context_.options.bandwidth;
    if (!mirror_ || !ram_flows || all == 0) return {all, all};
    auto const needed = 2 * mirror_->convergence().dirty_bytes_per_second;
    auto const disks = std::clamp(needed, all / 8, all / 2);
    return {disks, all - disks};
}

void SourceDisks::set_bandwidth(std::uint64_t bytes_per_second) {
    if (mirror_) mirror_->set_bandwidth(bytes_per_second);
}

void SourceDisks::downtime_limit_changed() {
    if (mirror_) mirror_->set_downtime_limit(limits::downtime_disks(context_.downtime_limit()));
}

std::optional<std::uint64_t> SourceDisks::throttle() const {
    return throttle_ ? throttle_->bytes_per_second() : std::nullopt;
}

}  // namespace sidecar
