// The ports of the source's driver that are about disks: they drive storage::Mirror, and answer
// what it asks of the other host. As source_actions.cpp otherwise.
#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "storage/verify.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

// How often copy_until_converged may give up on a delta that does not shrink, before we do: each is
// several rounds.
constexpr int stagnations_max = 3;

}  // namespace

Task<Result<>> SourceMigration::prepare_storage() {
    if (description_.disks.empty()) co_return Result<>{};
    if (resume_) {
        // The earlier sidecar's writes must be dead before ours begin, and its limits away.
        CO_TRY_VOID(co_await reexport_disks(context_.within(limits::prepare_timeout)));
        CO_TRY_VOID(co_await remove_throttle(context_.within(limits::qmp_timeout)));
    }
    // A chain that is being changed must not be read as if it were the one that was compared.
    CO_TRY_VOID(co_await check_same_disks(*guest_.client, description_,
                                          context_.within(limits::qmp_timeout)));
    std::vector<storage::Disk> disks;
    for (std::size_t index = 0; index < description_.disks.size(); ++index) {
        auto const& disk = description_.disks[index];
        disks.push_back({disk.name, disk.node, disk.format, disk.virtual_bytes,
                         export_names_[index], index < tables_.size() ? tables_[index] : nullptr,
                         disk.layers_above_base, disk.base_node});
    }
    std::vector<std::string> nodes;
    for (auto const& disk : disks) nodes.push_back(disk.node);
    throttle_.emplace(*guest_.client, std::move(nodes),
                      [this](Json const& found) { return record_.note_throttle(found); });
    storage::Destination destination{
        peer_.host(), std::to_string(nbd_port_), context_.encrypted() ? key_user : "",
        context_.encrypted() ? key_file(context_.key_directory()) : ""};
    mirror_ = std::make_unique<storage::Mirror>(loop_, *guest_.client, std::move(disks),
                                                destination, mirror_options());
    auto prepared = co_await mirror_->prepare(context_.within(limits::prepare_timeout));
    for (auto const& line : mirror_->report().cleared)
        core::log::info("guest={} cleared {}", guest_.name, line);
    co_return prepared;
}

storage::MirrorOptions SourceMigration::mirror_options() {
    storage::MirrorOptions settings;
    settings.directory = guest_.paths.run(guest_.name);
    settings.migration_id = migration_id_;
    settings.qemu = guest_.process.pid();
    settings.downtime_limit = limits::downtime_disks(context_.downtime_limit());
    settings.reexport = [this](Deadline deadline) { return reexport_disks(std::move(deadline)); };
    if (options_.verify) {
        settings.hash = [this](std::size_t disk, std::vector<storage::Extent> ranges,
                               Deadline deadline) {
            return hash_destination(disk, std::move(ranges), std::move(deadline));
        };
    }
    settings.bandwidth_bytes_per_second = options_.bandwidth;
    settings.resume = resume_;
    settings.generation = generation_;
    settings.link_timeout = std::chrono::seconds(options_.link_timeout_s);
    return settings;
}

/// A job puts nodes into a chain while it runs, and QEMU then counts its layers otherwise: what it
/// says of a disk over a base counts only when there was none.
Result<> SourceMigration::check_no_job() const {
    bool const any_base = std::ranges::any_of(description_.disks,
                                              [](auto const& disk) { return !disk.bases.empty(); });
    if (!any_base || job_.empty()) return {};
    return fail(Errc::refused,
                "the block job {} ran while the guest was copied, and a disk lies over a base: "
                "migrate again when no job runs",
                job_);
}

/// The destination's QEMU may be another one by now, with other ports.
Task<Result<storage::Reexported>> SourceMigration::reexport_disks(Deadline deadline) {
    CO_TRY_VOID(co_await peer_.reached(deadline));
    CO_TRY(auto endpoints, co_await peer_.request(protocol::Reexport{}, deadline));
    CO_TRY_VOID(take_endpoints(std::move(endpoints)));
    co_return storage::Reexported{std::to_string(nbd_port_), generation_};
}

/// PendingRequest again when the link was cut meanwhile, unless the guest waits.
Task<Result<std::string>> SourceMigration::hash_destination(std::size_t disk,
                                                            std::vector<storage::Extent> ranges,
                                                            Deadline deadline) {
    if (!std::exchange(hash_asked_, true)) stop_for_test("verify_whole");
    if (timeline_.stop_at() && !std::exchange(final_hash_asked_, true))
        stop_for_test("verify_final");
    protocol::Hash const request{disk, std::move(ranges)};
    for (int tries = 1;; ++tries) {
        auto const reply = co_await peer_.request(request, deadline);
        if (reply) co_return reply->hash;
        bool const again = reply.error().code == Errc::closed && !timeline_.stop_at();
        if (!again || tries >= limits::hash_tries_max) co_return std::unexpected(reply.error());
        CO_TRY_VOID(co_await peer_.reached(deadline.sooner(limits::peer_patience)));
    }
}

Task<Result<>> SourceMigration::copy_disks() {
    if (!mirror_) co_return Result<>{};
    write_copy_record();  // at once: a sidecar killed before the next tick has copied something
    co_return co_await copy_watched();
}

/// What was copied is kept, and the guest's bitmaps hold what it writes; the caller of `migrate`
/// gets this sentence.
void SourceMigration::note_suspension() {
    failure_ =
        fail(Errc::timed_out,
             "{} was unreachable for {} s: the copy is suspended and kept for {} minutes; `sidecar "
             "migrate --resume {}` goes on, `sidecar cancel {}` gives up (the guest runs on the "
             "source)",
             options_.destination, options_.link_timeout_s, limits::suspended_patience.count() / 60,
             guest_.name, guest_.name)
            .error();
    core::log::warning("guest={} migration_id={} {}", guest_.name, migration_id_,
                       failure_->sentence());
    ++suspensions_;
    watchers_.spawn(limit_suspension());
    decided_.set();
}

Task<void> SourceMigration::limit_suspension() {
    auto const which = suspensions_;
    if (!co_await core::sleep_for(loop_, limits::suspended_patience, watchers_stop_.get_token()))
        co_return;
    if (which == suspensions_) post(machine::source::event(Event::Kind::suspended_too_long));
}

/// Until the guest changes or the link is lost for too long.
Task<Result<>> SourceMigration::copy_watched() {
    link_down_ = false;
    core::LinkedStop stop(actions_stop_.get_token());
    core::TaskGroup looking(loop_);
    looking.spawn(watch_guest(stop));
    auto copied = co_await copy_until_converged(stop.token());
    stop.request_stop();
    co_await looking.join();
    if (changed_) co_return std::unexpected(*changed_);
    link_down_ = !copied && mirror_->link_lost();
    co_return copied;
}

Task<Result<>> SourceMigration::copy_until_converged(std::stop_token token) {
    for (int stagnations = 0;;) {
        CO_TRY_VOID(co_await throttle_->measure(context_.within(limits::qmp_timeout)));
        CO_TRY(auto const now, co_await mirror_->copy_until_converged(Deadline::never(token)));
        bool slower = false;
        bool const gave_way = !now.converging && nice_;
        if (gave_way) {
            // Never slow a guest down for want of a processor that we left to others.
            core::log::info("guest={} migration_id={} the copy does not give way any more",
                            guest_.name, migration_id_);
            nice_.reset();
        } else if (!now.converging && options_.throttle) {
            CO_TRY(slower, co_await throttle_->step(context_.within(limits::qmp_timeout)));
            // From now on each round that does not shrink it is answered.
            mirror_->set_stagnant_rounds(1);
        }
        timeline_.note_step(now, throttle_->bytes_per_second());
        if (now.converged) co_return Result<>{};
        if (slower || gave_way) continue;
        if (!now.converging && stagnations >= stagnations_max) {
            auto const slowed = throttle_->bytes_per_second();
            co_return fail(
                Errc::refused,
                "the guest writes {:.1f} MB/s{} and the destination takes {:.1f} MB/s: the "
                "pause would be {} ms, above the {} ms that --downtime-limit {} plans for it; "
                "allow a longer pause or move it when it writes less",
                static_cast<double>(now.dirty_bytes_per_second) / 1e6,
                slowed ? ", slowed down as far as may be," : "",
                static_cast<double>(now.rate_bytes_per_second) / 1e6, now.predicted.count(),
                limits::downtime_disks(context_.downtime_limit()).count(),
                options_.downtime_limit_ms);
        }
        ++stagnations;
    }
}

Task<void> SourceMigration::stop_keeping_converged() {
    keep_converged_stop_.request_stop();
    co_await keep_converged_.join();
    keep_converged_stop_ = std::stop_source();
}

Task<Result<>> SourceMigration::list_final() {
    keep_converged_stop_.request_stop();  // STOP has done so, if it was seen
    if (!mirror_) co_return Result<>{};
    timeline_.mark("listing_ms");
    co_return co_await mirror_->list_final(context_.within_pause());
}

Task<Result<>> SourceMigration::copy_final() {
    if (!mirror_) co_return Result<>{};
    timeline_.mark("copying_ms");
    auto copied = co_await mirror_->copy_final(context_.within_pause());
    timeline_.note_final_copy(mirror_->report());
    co_return copied;
}

/// Ours, or what the record of a sidecar that died says.
Task<Result<>> SourceMigration::remove_throttle(Deadline deadline) {
    if (qemu_gone_) co_return Result<>{};
    if (throttle_) co_return co_await throttle_->remove(deadline);
    CO_TRY(auto const record, MigrationRecord::read(guest_.paths, guest_.name));
    co_return co_await Throttle::put_back(*guest_.client, record["throttle"], deadline);
}

/// Those that start_ram() found, or what the record of a sidecar that died says.
Task<void> SourceMigration::restore_ram_settings(Deadline deadline) {
    auto restored = co_await ram_.put_back(deadline);
    if (restored && recovered_ && !ram_.started_at()) {
        auto const record = MigrationRecord::read(guest_.paths, guest_.name);
        if (record) {
            restored = co_await RamStream::restore(*guest_.client, (*record)["ram_settings"],
                                                   std::move(deadline));
        }
    }
    if (!restored) {
        core::log::warning("guest={} QEMU's migration settings could not be restored: {}",
                           guest_.name, restored.error().sentence());
    }
}

Task<Result<>> SourceMigration::drop_storage() {
    co_await stop_keeping_converged();
    Result<> dropped;
    auto const deadline = Deadline::after(limits::rollback_timeout);
    auto const unthrottled = co_await remove_throttle(deadline);
    if (mirror_) {
        dropped = co_await mirror_->drop(deadline);
    } else if (!qemu_gone_) {
        dropped = co_await storage::clear_leftovers(loop_, *guest_.client,
                                                    guest_.paths.run(guest_.name), deadline);
    }
    remove_key(context_.key_directory());
    if (!qemu_gone_) co_await restore_ram_settings(deadline);
    if (!qemu_gone_ && context_.encrypted()) {
        (void)co_await qmp::object_del(*guest_.client, key_object(migration_id_),
                                       deadline);  // refused when never added
    }
    if (qemu_gone_) co_return Result<>{};
    co_return unthrottled ? dropped : unthrottled;
}

}  // namespace sidecar
