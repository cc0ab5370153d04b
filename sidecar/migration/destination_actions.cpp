// The ports of the destination's driver: each function is one action of the machine. `prepare`
// records what it is about to create, so that `destroy` finds it after a restart too.
#include "core/log.hpp"
#include "sidecar/guest/card_links.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/guest/software_tpm.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/destination_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

/// Records what this migration has created, for a later sidecar that finds it unfinished. Once the
/// guest is owned here, the record is empty: the guest's images and QEMU must stay.
Result<> DestinationMigration::write_incoming() {
    IncomingRecord record;
    record.migration_id = migration_id_;
    record.description = description_;
    disks_.add_to(record);
    files_.add_to(record);
    disk_command_.add_to(record);
    record.owned = owns_guest();
    if (record.owned) {
        record.images.clear();
        record.made_disks.clear();
    }
    record.tpm = description_.tpm.has_value() && !record.owned;
    record.ram_port = qemu_.ram_port();
    record.tunnel_port = anchors_.tunnel_port();
    record.generation = qemu_.generation();
    record.qmp_socket = paths_.qmp_socket(name_);
    if (guest_ && guest_->process) {
        if (auto const qemu = guest_->process.identity(); qemu) record.qemu = *qemu;
    }
    incoming_is_ours_ = true;
    return record.write(paths_, name_);
}

Task<Result<>> DestinationMigration::prepare() {
    if (guest_) co_return co_await prepare_again();
    CO_TRY_VOID(co_await earlier_.clear());
    CO_TRY_VOID(make_directory(paths_.run(name_)));
    CO_TRY_VOID(make_directory(paths_.state(name_)));
    CO_TRY_VOID(co_await make_places());
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, description_, {},
                                   Deadline::after(limits::check_timeout)));
    CO_TRY_VOID(file_hashes_.check_compared());
    CO_TRY_VOID(co_await make_disks());
    CO_TRY_VOID(co_await anchors_.receive());
    co_return co_await start_qemu();
}

/// The host's own command makes nothing for a guest that may not come.
Task<Result<>> DestinationMigration::make_places() {
    if (!disk_command_.is_set()) co_return Result<>{};
    auto asked = description_;
    CO_TRY_VOID(co_await disk_command_.ask(asked));
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, asked, {},
                                   Deadline::after(limits::check_timeout)));
    co_return co_await disk_command_.create([this] { return write_incoming(); });
}

/// QEMU died while the disks were copied into it; the images still exist, and so does the key.
Task<Result<>> DestinationMigration::prepare_again() {
    if (qemu_.generation() >= limits::qemu_restarts_max) {
        co_return fail(Errc::refused, "QEMU on the destination has died {} times",
                       limits::qemu_restarts_max + 1);
    }
    core::log::warning("guest={} migration_id={} {}: starting it again", name_, migration_id_,
                       failure_ ? failure_->sentence() : "QEMU has died");
    co_await disks_.forget_exports();
    network_.forget();
    co_await qemu_.begin_again();
    CO_TRY_VOID(co_await start_qemu());
    failure_.reset();
    co_return Result<>{};
}

/// A crash at any point leaves only files that the record identifies.
Task<Result<>> DestinationMigration::make_disks() {
    auto const& last = journal_.last();
    CO_TRY_VOID(disks_.name_images(last.moved_away() ? last.migration_id : ""));
    files_.name();
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await disks_.create_images());
    CO_TRY_VOID(co_await files_.create());
    stop_for_test("record_images");
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await files_.receive(ending_));
    stop_for_test("publish_images");
    CO_TRY_VOID(disks_.publish_images());
    CO_TRY_VOID(co_await files_.publish());
    // What the source has sent may name other files.
    co_return check_allowed(paths_, options_.maps, description_);
}

Task<Result<>> DestinationMigration::start_qemu() {
    CO_TRY_VOID(co_await qemu_.start(network_.movers()));
    stop_for_test("record_qemu");
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await check_device_tree(*guest_->client, guest_->command_line.program(),
                                           description_.device_tree,
                                           Deadline::after(limits::prepare_timeout)));
    CO_TRY_VOID(co_await set_links_down(*guest_->client, description_.links_down,
                                        Deadline::after(limits::prepare_timeout)));
    CO_TRY_VOID(co_await set_io_limits(*guest_->client, description_,
                                       Deadline::after(limits::prepare_timeout)));
    CO_TRY_VOID(co_await qemu_.add_key());
    CO_TRY_VOID(co_await disks_.open_exports());
    CO_TRY_VOID(co_await qemu_.listen_for_ram());
    CO_TRY_VOID(write_incoming());
    co_return co_await network_.prepare();
}

Task<Result<>> DestinationMigration::seal() { return disks_.seal(downtime_limit_); }

Task<Result<>> DestinationMigration::record(DestinationEntry::Record what) {
    co_return journal_.record({migration_id_, DestinationEntry{what}});
}

Task<Result<>> DestinationMigration::start_guest() {
    co_await network_.deliver_frames();
    auto const done = co_await qemu_.run_guest();
    realtime_.reset();
    co_return done;
}

/// The frames wait in the tap until the guest's operator continues it.
Task<Result<>> DestinationMigration::leave_stopped() {
    co_await network_.deliver_frames();
    auto const done = co_await qemu_.check_stopped();
    realtime_.reset();
    co_return done;
}

Task<Result<>> DestinationMigration::announce_network() { co_return network_.announce(); }

Task<Result<>> DestinationMigration::destroy() {
    files_.give_up();
    co_await network_.roll_back(peers_ > 0);
    realtime_.reset();
    CO_TRY_VOID(co_await qemu_.kill());
    if (incoming_is_ours_) CO_TRY_VOID(co_await end_prepared_qemu(context_, recorded_qemu_));
    network_.drop();
    co_await disks_.forget_exports();
    co_await qemu_.close();
    if (incoming_is_ours_) co_await leave_anchors(context_, description_, migration_id_);
    if (incoming_is_ours_ && description_.tpm) CO_TRY_VOID(co_await remove_software_tpm(context_));
    CO_TRY_VOID(disks_.remove_images());
    CO_TRY_VOID(files_.remove());
    co_await disk_command_.remove();
    remove_key(context_.key_directory());
    // If the record remains, the next migration finds it.
    if (incoming_is_ours_) (void)IncomingRecord::remove(paths_, name_);
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::record_end() {
    // After the end is recorded, the journal may describe another migration. Then only this file
    // says whose images these are.
    if (owns_guest()) CO_TRY_VOID(write_incoming());
    using enum DestinationEntry::Record;
    co_return co_await record(owns_guest() ? ended_owner : ended_aborted);
}

Task<Result<>> DestinationMigration::finish() {
    if (!owns_guest()) co_return Result<>{};
    co_await anchors_.end();
    if (guest_ && guest_->client) {
        auto const deadline = Deadline::after(limits::rollback_timeout);
        CO_TRY_VOID(co_await disks_.stop_server(deadline));
        co_await qemu_.remove_streams(deadline);
        disks_.remove_stale_images();
        disks_.leave_devices_to_guest();
        if (description_.tpm) keep_tpm_state(paths_, name_, disks_.left_in());
        guest_->domain_xml = definition_.text();
        CO_TRY_VOID(guest_->write_manifest());
    }
    (void)IncomingRecord::remove(paths_, name_);  // best effort: the journal says that it ended
    co_await definition_.define();
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::nothing_to_do() { co_return Result<>{}; }

}  // namespace sidecar
