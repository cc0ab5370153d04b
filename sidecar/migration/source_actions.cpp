// The ports of the source's driver: each function is one action of the machine, run by the part
// that does it. All are idempotent, because the machine asks again after a lost answer or after
// a restart.
#include <fmt/ranges.h>

#include "core/log.hpp"
#include "qmp/migration.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/card_links.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/guest/left_devices.hpp"
#include "sidecar/guest/run_state.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/migration/data_port.hpp"
#include "sidecar/migration/disk_targets.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "storage/block_device.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::ActionResult;

/// The machine knows it first, so that every end of the check leaves the guest as it is.
Task<Result<>> SourceMigration::look_at_run_state() {
    CO_TRY(auto const status,
           co_await qmp::query_status(*guest_.client, context_.within(limits::qmp_timeout)));
    if (!status.running) {
        post(machine::source::event(machine::source::Event::Kind::guest_stopped_by_others));
    }
    co_return Result<>{};
}

Task<Result<>> SourceMigration::look_at_links() {
    CO_TRY(auto links, co_await card_links_of(guest_, description_.state == GuestState::running,
                                              context_.within(limits::qmp_timeout)));
    description_.links_down = std::move(links.down);
    for (auto const& line : links.warnings) warn(line);
    co_return Result<>{};
}

Task<Result<>> SourceMigration::check() {
    warning_ = why_too_soon(journal_.last().moves, wall_ms());
    if (!warning_.empty()) core::log::warning("guest={} {}", guest_.name, warning_);
    CO_TRY_VOID(co_await look_at_run_state());
    CO_TRY(description_,
           co_await describe(guest_, migration_id_, options_.bases, RunStatePolicy::movable,
                             context_.within(limits::check_timeout)));
    CO_TRY(description_.device_tree,
           co_await device_tree_of(*guest_.client, context_.within(limits::qmp_timeout)));
    CO_TRY_VOID(co_await look_at_links());
    CO_TRY_VOID(take_disk_targets(context_));
    for (auto const& line : description_.warnings) warn(line);
    if (description_.tpm && description_.tpm->state.empty()) {
        warn(
            "the process of the guest's swtpm is not found on the source: start none with its "
            "state there when the guest has moved");
    }
    if (auto const& wrapper = guest_.command_line.wrapper(); !wrapper.empty()) {
        warn(fmt::format("QEMU runs there without `{}`", fmt::join(wrapper, " ")));
    }
    co_await look_at_libvirt();
    // A sidecar that takes this guest over then knows its addresses without waiting
    // for guest traffic.
    CO_TRY_VOID(guest_.write_manifest());
    CO_TRY_VOID(co_await check_owner());
    CO_TRY_VOID(co_await peer_.connect(context_.within(limits::connect_timeout)));
    watchers_.spawn(peer_.keep(watchers_stop_.get_token()));
    CO_TRY_VOID(check_targets_known(context_));
    CO_TRY(auto const marks, co_await shared_.find());
    CO_TRY_VOID(files_.find());
    for (auto const& path : context_.image_paths()) {
        CO_TRY_VOID(storage::check_can_be_set_aside(path, migration_id_));
    }
    CO_TRY_VOID(co_await network_.choose());
    protocol::Check request{description_.to_json(), network_.anchors().probe_key()};
    CO_TRY(auto checked,
           co_await peer_.request(std::move(request), context_.within(limits::check_timeout)));
    if (description_.state != GuestState::running &&
        !peer_.offers(protocol::Feature::stopped_guest)) {
        co_return fail(Errc::refused,
                       "the sidecar of {} is too old for a guest that does not run (QEMU says {})",
                       options_.destination, name(description_.state));
    }
    if (options_.verify && !peer_.offers(protocol::Feature::verify)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --verify",
                       options_.destination);
    }
    if (!options_.bases.empty() && !peer_.offers(protocol::Feature::base)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --base",
                       options_.destination);
    }
    CO_TRY_VOID(files_.note_missing(checked.missing_files));
    note_destination(checked);
    data_port_ = checked.data;
    CO_TRY_VOID(co_await check_data_port(context_, data_port_));
    CO_TRY_VOID(co_await network_.check(std::move(checked)));
    auto const named = co_await dns_.check(context_.within(limits::dns_check_timeout));
    if (!named && named.error().code == Errc::invalid) {
        co_return fail(Errc::refused, "{}", named.error().sentence());
    }
    CO_TRY_VOID(named);
    CO_TRY_VOID(co_await comparison_.compare());
    for (auto const& line : comparison_.warnings()) warn(line);
    co_return disks_.make_tables();
}

Task<Result<Json>> SourceMigration::check_only() {
    auto checked = co_await check();
    disks_.remove_tables();
    auto const lines = checked ? report_.checked() : Json::array();
    co_await network_.end();
    watchers_stop_.request_stop();
    co_await watchers_.join();
    if (!checked) co_return std::unexpected(checked.error());
    co_return Json::object({{"checked", lines}});
}

Task<Result<>> SourceMigration::record(SourceEntry::Record what, SourceEntry::Outcome outcome) {
    co_return journal_.record({migration_id_, SourceEntry{what, outcome, options_.destination}});
}

Task<Result<>> SourceMigration::record_begin() {
    CO_TRY_VOID(record_.note_dns(dns_.record()));
    CO_TRY_VOID(pause_.start_watchdog());
    co_return co_await record(SourceEntry::Record::begun);
}

Task<Result<>> SourceMigration::prepare_destination() {
    // After a restart: the connection is set up in the meantime, and QEMU there already
    // has the key.
    CO_TRY_VOID(co_await peer_.reached(context_.within(limits::connect_timeout)));
    if (context_.encrypted() && key_.empty()) key_ = read_key(context_.key_directory());
    if (context_.encrypted() && key_.empty()) {
        key_ = core::random_hex(32);
        CO_TRY_VOID(write_key(context_.key_directory(), key_));
    }
    auto const marks = shared_.mark();
    auto const& anchors = network_.anchors();
    protocol::Prepare request{description_.to_json(), key_, anchors.keys(), anchors.anchor_port()};
    // What an earlier sidecar has prepared needs no file any more.
    auto endpoints = recovered_ ? co_await peer_.request(std::move(request),
                                                         context_.within(limits::prepare_timeout))
                                : co_await files_.send_while_preparing(std::move(request));
    if (!endpoints) co_return std::unexpected(std::move(endpoints.error()));
    co_return disks_.take_endpoints(std::move(*endpoints));
}

Task<Result<>> SourceMigration::copy_disks() {
    // At once: a sidecar that is killed before the next tick has already copied something.
    write_copy_record();
    co_return co_await disks_.copy();
}

Task<Result<>> SourceMigration::start_ram() {
    CO_TRY_VOID(co_await check_owner());  // again: the copy may have taken hours
    CO_TRY_VOID(disks_.check_no_block_job());
    // From here on QEMU itself refuses to plug devices; continue_migration() checks the
    // disks once more.
    CO_TRY_VOID(co_await check_same_guest(*guest_.client, description_,
                                          context_.within(limits::qmp_timeout)));
    CO_TRY_VOID(co_await disks_.arm());
    if (context_.encrypted()) {
        CO_TRY_VOID(co_await add_key_object(*guest_.client, guest_.process.pid(),
                                            context_.key_directory(), "client", migration_id_,
                                            context_.within(limits::qmp_timeout)));
    }
    auto const shares = disks_.bandwidth_shares(true);
    disks_.set_bandwidth(shares.disks);
    RamStreamOptions options{
        .host = peer_.host(),
        .port = std::to_string(disks_.endpoints().ram_port),
        .tls_creds = context_.encrypted() ? key_object(migration_id_) : "",
        .tls_hostname = key_user,
        .downtime_limit = context_.downtime_limit(),
        .converge_limit = std::chrono::seconds(options_.converge_limit_s),
        .bandwidth = shares.ram,
        .throttle = options_.throttle,
        .hold = disks_.mirror() != nullptr || !description_.shared.empty() || !guest_.nics.empty(),
        .before_stop = [this] { return network_.before_stop(); },
        .record = [this](Json const& settings) { return record_.note_ram_settings(settings); },
        .not_converging = [this] { ram_not_converging(); }};
    co_await network_.begin_tracking();
    if (disks_.mirror())
        keep_converged_.spawn(disks_.keep_converged(keep_converged_stop_.get_token()));
    CO_TRY_VOID(co_await ram_.start(std::move(options), context_.within(limits::connect_timeout)));
    keep_converged_.spawn(ram_.watch(disks_.mirror(), keep_converged_stop_.get_token()));
    co_return Result<>{};
}

Task<Result<>> SourceMigration::list_final() {
    keep_converged_stop_.request_stop();  // STOP has already done so, if it was seen
    co_return co_await disks_.list_final();
}

Task<Result<>> SourceMigration::seal_destination() {
    timeline_.mark("copied_ms");
    CO_TRY_VOID(co_await peer_.request(protocol::Seal{}, context_.within_pause()));
    timeline_.mark("sealed_ms");
    co_return Result<>{};
}

Task<Result<>> SourceMigration::continue_migration() {
    // While the last delta is read: after a snapshot, the writes that we look for would be
    // in its image.
    CO_TRY_VOID(co_await check_same_disks(*guest_.client, description_, context_.within_pause()));
    CO_TRY_VOID(co_await disks_.final_read());
    // If QEMU 7.2 is cancelled while it saves device state, it resumes its guest with inactive
    // disks and dies at the first write. So a network that cannot be moved must be detected
    // earlier. Usually it has moved while the delta was read.
    CO_TRY_VOID(co_await network_.wait_fired(context_.within_pause()));
    co_return co_await qmp::migrate_continue(*guest_.client, "pre-switchover",
                                             context_.within_pause());
}

/// From here on only the destination's answer, or an operator's decision, may bring the guest back.
Task<Result<>> SourceMigration::record_commit() {
    pause_.release_watchdog();
    // The sync of the images' directories runs in parallel with this one, which blocks the loop.
    // One turn of the loop passes that sync to the kernel.
    (void)co_await core::sleep_for(loop_, {});
    co_return co_await record(SourceEntry::Record::committed);
}

Task<ActionResult> SourceMigration::commit() {
    timeline_.mark("committed_ms");
    auto const deadline = Deadline::after(limits::commit_timeout);
    auto caught = co_await network_.hand_over(deadline);
    protocol::Commit const message{std::move(caught)};
    auto const reply = co_await peer_.request(message, deadline);
    auto const now = core::Clock::now();
    if (!reply) {
        core::log::warning("guest={} migration_id={} COMMIT is not answered: {}", guest_.name,
                           migration_id_, reply.error().sentence());
        co_return ActionResult::unknown;
    }
    if (reply->owner == protocol::Owner::source) {
        note_failure(fail(Errc::refused, "the destination had aborted: {}", reply->why).error());
        co_return ActionResult::aborted;
    }
    network_.note_committed(reply->frames, reply->conntrack);
    if (reply->resume_to_answer_ms) {
        timeline_.note_commit_answer(now, *reply->resume_to_answer_ms, peer_.rtt_ms());
    }
    co_return ActionResult::acked;
}

Task<Result<>> SourceMigration::cancel_migration() {
    if (qemu_gone_) co_return Result<>{};
    co_return co_await ram_.cancel(Deadline::after(limits::rollback_timeout));
}

Task<Result<>> SourceMigration::resume_source() {
    if (qemu_gone_) co_return fail(Errc::closed, "QEMU has ended");
    CO_TRY(auto const state,
           co_await run_after_migration(*guest_.client, Deadline::after(limits::rollback_timeout)));
    if (state == RunState::running) co_return Result<>{};
    post(machine::source::event(machine::source::Event::Kind::guest_stopped_by_others));
    co_return fail(Errc::refused, "the guest was stopped from outside: it stays stopped");
}

Task<Result<>> SourceMigration::abort_destination() {
    // The guest runs here again. This leaves the other host time to reconnect, or its `serve` time
    // to replace a sidecar that died.
    if (!destination_fenced_) {
        (void)co_await peer_.reached(Deadline::after(limits::abort_patience));
    }
    CO_TRY(auto const verdict,
           co_await peer_.request(protocol::Abort{}, Deadline::after(limits::rollback_timeout)));
    add_to_failure("the destination says: ", verdict.why);
    co_return Result<>{};
}

Task<void> SourceMigration::stop_keeping_converged() {
    keep_converged_stop_.request_stop();
    co_await keep_converged_.join();
    keep_converged_stop_ = std::stop_source();
}

/// The settings that start_ram() found, or those in the record of a sidecar that died.
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
    auto const deadline = Deadline::after(limits::rollback_timeout);
    auto const dropped = co_await disks_.drop(deadline);
    remove_key(context_.key_directory());
    if (!qemu_gone_) co_await restore_ram_settings(deadline);
    if (!qemu_gone_ && context_.encrypted()) {
        (void)co_await qmp::object_del(*guest_.client, key_object(migration_id_),
                                       deadline);  // refused if it was never added
    }
    if (qemu_gone_) co_return Result<>{};
    co_return dropped;
}

Task<Result<>> SourceMigration::set_images_aside() {
    auto aside = co_await storage::set_images_aside(loop_, context_.image_paths(), migration_id_);
    timeline_.mark("set_aside_ms");
    co_return aside;
}

Task<Result<>> SourceMigration::restore_images() {
    co_return storage::restore_images(context_.image_paths(), migration_id_);
}

Task<Result<>> SourceMigration::tombstone_disks() {
    CO_TRY_VOID(
        record_left_devices(guest_.paths, guest_.name, migration_id_, context_.image_paths()));
    for (auto const& disk : description_.disks) {
        CO_TRY_VOID(storage::tombstone(disk.path, migration_id_));
        auto const stale = storage::is_block_device(disk.path)
                               ? disk.path + ", read-only"
                               : storage::tombstone_path(disk.path, migration_id_);
        core::log::info("guest={} migration_id={} disk={} the stale image is now {}", guest_.name,
                        migration_id_, disk.name, stale);
    }
    co_return Result<>{};
}

/// The guest runs at the destination: now its name may lead there. QEMU here does not wait for
/// that; record_end() does, so that a later sidecar makes the change if this one dies before.
Task<Result<>> SourceMigration::settle_network() {
    naming_.spawn(dns_.run(Deadline::after(limits::dns_update_timeout)));
    co_return co_await network_.settle();
}

Task<Result<>> SourceMigration::quit_source() {
    co_await stop_keeping_converged();
    co_await disks_.drop_mirror(Deadline::after(limits::rollback_timeout));
    remove_key(context_.key_directory());
    if (!qemu_gone_) CO_TRY_VOID(co_await end_qemu());
    if (description_.tpm) set_tpm_state_aside(*description_.tpm, guest_.name, migration_id_);
    co_return Result<>{};
}

Task<Result<>> SourceMigration::end_qemu() {
    co_await ram_.refresh(Deadline::after(limits::qmp_timeout));
    (void)co_await qmp::quit(*guest_.client, Deadline::after(limits::qmp_timeout));
    auto const ended =
        co_await core::wait_exit(loop_, guest_.process, Deadline::after(limits::rollback_timeout));
    if (ended) co_return Result<>{};
    CO_TRY_VOID(
        guest_.process.signal(SIGKILL));  // the destination owns the guest: nothing here is needed
    CO_TRY_VOID(
        co_await core::wait_exit(loop_, guest_.process, Deadline::after(limits::rollback_timeout)));
    co_return Result<>{};
}

namespace {

SourceEntry::Outcome outcome_of(machine::Outcome outcome) {
    using enum SourceEntry::Outcome;
    switch (outcome) {
        case machine::Outcome::none:
            return none;
        case machine::Outcome::moved:
            return moved;
        case machine::Outcome::failed:
        case machine::Outcome::suspended:  // not an end: it is not recorded
            return failed;
        case machine::Outcome::refused:
            return refused;
        case machine::Outcome::cancelled:
            return cancelled;
        case machine::Outcome::in_doubt:
            return in_doubt;
    }
    std::unreachable();
}

}  // namespace

Task<Result<>> SourceMigration::record_end() {
    co_await naming_.join();
    CO_TRY_VOID(co_await record(SourceEntry::Record::ended, outcome_of(state_.outcome)));
    remove_key(context_.key_directory());
    record_.remove();
    co_return Result<>{};
}

}  // namespace sidecar
