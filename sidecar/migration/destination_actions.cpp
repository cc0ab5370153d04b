// The ports of the destination's driver: each function is one action of the machine. `prepare`
// records what it is about to create, so that `destroy` finds it after a restart too.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "qmp/migration.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/destination_launch.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/guest/qemu_schema.hpp"
#include "sidecar/guest/run_state.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/destination_migration.hpp"
#include "sidecar/migration/ram_stream.hpp"
#include "storage/image.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::destination::Event;
using machine::destination::Qemu;

/// Records what this migration has created, for a later sidecar that finds it unfinished. Once the
/// guest is owned here, the record is empty: the guest's images and QEMU must stay.
Result<> DestinationMigration::write_incoming() {
    Json images = Json::array();
    for (auto const& image : images_) {
        if (!owns_guest()) images.add(image.to_json());
    }
    auto record = Json::object({{"migration_id", migration_id_},
                                {"description", description_.to_json()},
                                {"images", images},
                                {"owned", owns_guest()},
                                {"nbd_port", nbd_port_},
                                {"ram_port", ram_port_},
                                {"generation", static_cast<std::int64_t>(generation_)},
                                {"left_in", left_in_},
                                {"qmp_socket", paths_.qmp_socket(name_)}});
    if (guest_ && guest_->process) {
        if (auto const qemu = guest_->process.identity(); qemu) qemu->add_to(record);
    }
    incoming_is_ours_ = true;
    return write_durably(incoming_path(), record.dump_pretty() + "\n");
}

Task<Result<>> DestinationMigration::prepare() {
    if (guest_) co_return co_await prepare_again();
    CO_TRY_VOID(co_await clear_earlier());
    CO_TRY_VOID(make_directory(paths_.run(name_)));
    CO_TRY_VOID(make_directory(paths_.state(name_)));
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, description_, {},
                                   Deadline::after(limits::check_timeout)));
    CO_TRY_VOID(check_compared());
    left_in_ = journal_.last().moved_away() ? journal_.last().migration_id : "";
    images_.clear();
    for (auto const& disk : description_.disks) {
        images_.push_back({map_path(options_.maps, disk.path)});
    }
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await make_disks());
    CO_TRY_VOID(co_await start_qemu());
    stop_for_test("record_qemu");
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await open_endpoints());
    CO_TRY_VOID(co_await listen_for_ram());
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(frames_.prepare(*guest_));
    co_return co_await movers_.prepare(Deadline::after(limits::prepare_timeout));
}

/// QEMU died while the disks were copied into it; the images still exist, and so does the key.
Task<Result<>> DestinationMigration::prepare_again() {
    if (generation_ >= limits::qemu_restarts_max) {
        co_return fail(Errc::refused, "QEMU on the destination has died {} times",
                       limits::qemu_restarts_max + 1);
    }
    core::log::warning("guest={} migration_id={} {}: starting it again", name_, migration_id_,
                       failure_ ? failure_->sentence() : "QEMU has died");
    ++generation_;
    co_await close_hasher();
    target_.reset();
    movers_ = netmove::MoverSet();
    frames_.remove();
    if (guest_->client) co_await guest_->client->close();
    guest_->nics.clear();  // this closes the taps, so that they can be created again
    if (key_.empty()) key_ = read_key(key_directory());
    ram_begun_ = false;
    qmp_over_.reset();
    CO_TRY_VOID(co_await start_qemu());
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(co_await open_endpoints());
    CO_TRY_VOID(co_await listen_for_ram());
    CO_TRY_VOID(write_incoming());
    CO_TRY_VOID(frames_.prepare(*guest_));
    CO_TRY_VOID(co_await movers_.prepare(Deadline::after(limits::prepare_timeout)));
    failure_.reset();
    co_return Result<>{};
}

/// In the order of storage/owned_file.hpp: a file that exists already is not touched, and a crash
/// at any point leaves only files that the record identifies.
Task<Result<>> DestinationMigration::make_disks() {
    for (std::size_t index = 0; index < description_.disks.size(); ++index) {
        auto const& disk = description_.disks[index];
        storage::CreateOptions settings;
        if (disk.format == "qcow2") settings.layout = disk.layout;
        if (!disk.bases.empty()) {
            settings.backing_file = backing_name(map_path(options_.maps, disk.bases[0].path),
                                                 images_[index].path, disk.base_is_relative);
            settings.backing_format = disk.bases[0].format;
        }
        CO_TRY(images_[index].identity,
               co_await storage::create_image(
                   loop_, storage::unfinished_path(images_[index].path, migration_id_), disk.format,
                   disk.virtual_bytes, settings, Deadline::after(limits::prepare_timeout)));
    }
    stop_for_test("record_images");
    CO_TRY_VOID(write_incoming());
    stop_for_test("publish_images");
    for (auto const& image : images_) {
        CO_TRY_VOID(storage::publish(image.path, migration_id_));
    }
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::start_qemu() {
    guest_ = std::make_unique<Guest>(loop_, paths_, name_, Guest::Prepared{});
    if (!description_.interfaces.empty()) {
        CO_TRY(auto netlink, netmove::Netlink::open());
        guest_->netlink = std::make_unique<netmove::Netlink>(std::move(netlink));
        if (generation_ == 0) {
            CO_TRY(description_.interfaces,
                   map_interfaces(*guest_->netlink, options_.maps, description_.interfaces));
        }
    }
    CO_TRY_VOID(co_await start_here(*guest_, options_.maps, description_, true, movers_));
    co_await keep_schema(*guest_, false, Deadline::after(limits::qmp_timeout));
    watchers_.spawn(watch_qemu());
    watchers_.spawn(watch_process());
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::open_endpoints() {
    auto const deadline = Deadline::after(limits::prepare_timeout);
    auto& client = *guest_->client;
    if (!key_.empty()) {
        CO_TRY_VOID(write_key(key_directory(), key_));
        CO_TRY_VOID(
            co_await add_key_object(client, key_directory(), "server", migration_id_, deadline));
    }
    if (description_.disks.empty()) co_return Result<>{};
    CO_TRY_VOID(co_await find_target());
    CO_TRY(nbd_port_,
           co_await target_->open("", key_.empty() ? "" : key_object(migration_id_), deadline));
    co_return Result<>{};
}

/// Finds the disks in this QEMU by their device names, which are the same in both.
Task<Result<>> DestinationMigration::find_target() {
    auto& client = *guest_->client;
    CO_TRY(auto const here,
           co_await qmp::query_block(client, Deadline::after(limits::qmp_timeout)));
    std::vector<storage::TargetDisk> disks;
    export_names_.clear();
    for (std::size_t index = 0; index < description_.disks.size(); ++index) {
        auto const& wanted = description_.disks[index];
        auto const same =
            std::find_if(here.begin(), here.end(), [&](qmp::BlockDevice const& device) {
                return device.inserted && device.device == wanted.device &&
                       device.qdev == wanted.qdev;
            });
        if (same == here.end()) {
            co_return fail(Errc::refused, "disk {} is not found in the destination's QEMU",
                           wanted.name);
        }
        if (!wanted.bases.empty()) {
            CO_TRY_VOID(co_await check_opened_over(client, same->node_name, options_.maps, wanted,
                                                   Deadline::after(limits::qmp_timeout)));
        }
        export_names_.push_back(fmt::format("sidecar-{}-{}", migration_id_, index));
        disks.push_back({same->node_name, export_names_.back()});
    }
    target_disks_ = disks;
    target_ = std::make_unique<storage::Target>(loop_, client, std::move(disks));
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::listen_for_ram() {
    auto const deadline = Deadline::after(limits::prepare_timeout);
    auto& client = *guest_->client;
    CO_TRY_VOID(co_await qmp::migrate_set_capabilities(
        client, {{"events", true}, {"return-path", true}, {"late-block-activate", true}},
        deadline));
    CO_TRY_VOID(co_await qmp::migrate_set_parameters(
        client, Json::object({{"tls-creds", key_.empty() ? "" : key_object(migration_id_)}}),
        deadline));
    auto listening = co_await qmp::migrate_incoming(client, "tcp:[::]:0", deadline);
    if (!listening)
        CO_TRY_VOID(
            co_await qmp::migrate_incoming(client, "tcp:0.0.0.0:0", deadline));  // no IPv6 here
    CO_TRY(auto const address, co_await qmp::incoming_address(client, deadline));
    ram_port_ = std::atoi(address["port"].text_or("0").c_str());
    if (ram_port_ <= 0)
        co_return fail(Errc::protocol, "QEMU does not say on which port it waits for the RAM");
    co_return Result<>{};
}

Task<void> DestinationMigration::watch_process() {
    auto const ended = co_await core::wait_exit(loop_, guest_->process,
                                                Deadline::never(watchers_stop_.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    // Its last events must still be read: they show whether RAM had begun to arrive.
    auto const heard = co_await qmp_over_.wait(Deadline::after(limits::qmp_timeout));
    if (!failure_) {
        auto const words = qmp::last_words(paths_.run(name_) + "/qemu.log");
        failure_ = fail(Errc::closed, "QEMU on the destination has ended{}{}",
                        words.empty() ? "" : ": ", words)
                       .error();
    }
    post(machine::destination::qemu_gone(heard && !ram_begun_ ? Qemu::waiting : Qemu::gone));
}

/// The source's connections were cut. While QEMU runs, nothing changes for the machine: the
/// exports stay open.
Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Reexport) {
    using machine::destination::Phase;
    if (state_.phase == Phase::qemu_lost || state_.phase == Phase::preparing) {
        co_return co_await ask_machine(protocol::Verb::prepare,
                                       machine::destination::event(Event::Kind::prepare_requested));
    }
    if (state_.phase != Phase::prepared) {
        co_return fail(Errc::refused, "the disks cannot be offered again now: {}",
                       machine::destination::name(state_.phase));
    }
    if (!target_) {  // an earlier sidecar had opened them; we closed its exports at our start
        CO_TRY_VOID(co_await find_target());
        target_->adopt();
    }
    CO_TRY_VOID(co_await target_->reexport(Deadline::after(limits::qmp_timeout)));
    co_await close_hasher();  // its connections were cut as well
    co_return protocol::pack(endpoints());
}

Task<Result<protocol::Nothing>> DestinationMigration::on(protocol::Fire fire) {
    using machine::destination::Phase;
    if (state_.phase != Phase::prepared && state_.phase != Phase::sealed) {
        co_return fail(Errc::refused, "the network cannot be moved here now: {}",
                       machine::destination::name(state_.phase));
    }
    downtime_limit_ = core::milliseconds(fire.downtime_limit_ms);
    if (!realtime_) {  // a repeated `fire` does not begin again
        realtime_.emplace();
        watchers_.spawn(limit_realtime());
    }
    auto const& sent = fire.interfaces;
    for (std::size_t nic = 0; nic < guest_->nics.size(); ++nic) {
        auto& interface = guest_->nics[nic]->interface;
        if (nic < sent.size()) {
            interface.addresses = sent[nic].addresses;
            interface.router = sent[nic].router;
        }
        movers_.update(nic, interface);
    }
    frames_.close();
    if (movers_.fired().empty()) journal_.note_move(wall_ms());
    CO_TRY_VOID(movers_.fire());
    co_return protocol::Nothing{};
}

/// If the source dies after `fire`, the guest is stopped there and we would wait
/// with realtime priority.
Task<void> DestinationMigration::limit_realtime() {
    (void)co_await core::sleep_for(loop_, downtime_limit_, watchers_stop_.get_token());
    realtime_.reset();
}

/// The frames that arrived here for the guest go back to the source; with `last`, no more follow.
Task<Result<protocol::ReturnFramesAnswer>> DestinationMigration::on(
    protocol::ReturnFrames request) {
    using machine::destination::Phase;
    if (state_.phase == Phase::owning || owns_guest()) {
        co_return fail(Errc::refused, "the destination owns the guest");
    }
    if (request.last && !movers_.fired().empty()) journal_.note_move(wall_ms());
    CO_TRY_VOID(request.last ? movers_.rollback() : Result<>{});
    co_return frames_.give_back(request.last);
}

/// The tracked connections of the guest on the source's host.
Task<Result<protocol::TrackingReport>> DestinationMigration::on(protocol::Conntrack sent) {
    using machine::destination::Phase;
    auto const phase = state_.phase;
    bool const sensible = phase == Phase::prepared || phase == Phase::sealed ||
                          phase == Phase::owning || phase == Phase::running || owns_guest();
    if (!sensible) {
        co_return fail(Errc::refused, "no connections are taken here now: {}",
                       machine::destination::name(phase));
    }
    co_return tracking_.take(guest_.get(), sent);
}

Task<Result<>> DestinationMigration::seal() {
    if (!target_) co_return Result<>{};
    CO_TRY_VOID(co_await target_->seal(Deadline::after(downtime_limit_)));
    co_await close_hasher();
    co_return Result<>{};
}

Result<> DestinationMigration::record(DestinationEntry::Record what) {
    return journal_.record({migration_id_, DestinationEntry{what}});
}

Task<Result<>> DestinationMigration::start_guest() {
    co_await frames_.deliver_frames(Deadline::after(limits::frames_patience));
    auto const done =
        co_await ensure_running(*guest_->client, Deadline::after(limits::rollback_timeout));
    if (done && !resumed_at_) resumed_at_ = core::Clock::now();
    realtime_.reset();
    co_return done;
}

Task<Result<>> DestinationMigration::announce_network() {
    // Usually fired already, at the source's STOP. After a restart, or if that request was lost,
    // fired now at the latest.
    CO_TRY_VOID(movers_.fire());
    watchers_.spawn(settle_network());
    co_return Result<>{};
}

Task<void> DestinationMigration::settle_network() {
    auto const settled = co_await movers_.settle(
        Deadline::after(limits::prepare_timeout, watchers_stop_.get_token()));
    if (!settled)
        core::log::warning("guest={} announcing again failed: {}", name_,
                           settled.error().sentence());
}

Task<Result<>> DestinationMigration::destroy() {
    // In a rollback, QEMU here would end before the source could ask for the frames that arrived:
    // this waits for the source.
    if (peers_ > 0) co_await frames_.given_back(Deadline::after(limits::give_back_patience));
    realtime_.reset();
    auto const rolled_back = movers_.rollback();
    if (!rolled_back) core::log::warning("guest={} {}", name_, rolled_back.error().sentence());
    if (guest_ && guest_->process) {
        (void)guest_->process.signal(
            SIGKILL);  // it never ran the guest; closed: it has ended already
        CO_TRY_VOID(co_await core::wait_exit(loop_, guest_->process,
                                             Deadline::after(limits::rollback_timeout)));
    }
    if (incoming_is_ours_) CO_TRY_VOID(co_await end_earlier_qemu(recorded_qemu_));
    movers_ = netmove::MoverSet();
    frames_.remove();
    tracking_.undo();
    co_await close_hasher();
    target_.reset();
    if (guest_) {
        if (guest_->client) co_await guest_->client->close();
        guest_->nics.clear();
    }
    CO_TRY_VOID(remove_images(images_, migration_id_));
    remove_key(key_directory());
    if (incoming_is_ours_) {
        std::error_code ignored;  // if the record remains, the next migration finds it
        std::filesystem::remove(incoming_path(), ignored);
    }
    co_return Result<>{};
}

Task<Result<>> DestinationMigration::record_end() {
    // After the end is recorded, the journal may describe another migration. Then only this file
    // says whose images these are.
    if (owns_guest()) CO_TRY_VOID(write_incoming());
    using enum DestinationEntry::Record;
    co_return record(owns_guest() ? ended_owner : ended_aborted);
}

/// The guest is back on a host that it had left, so its old images are not needed any more. Only
/// the images of the migration in which it left, according to this host's journal, are removed:
/// others may belong to another guest.
void DestinationMigration::remove_stale_images() const {
    for (auto const& image : images_) {
        if (!left_in_.empty()) {
            auto const removed = storage::remove_tombstone(image.path, left_in_);
            if (!removed) core::log::warning("guest={} {}", name_, removed.error().sentence());
            if (removed && !removed->empty())
                core::log::info("guest={} removed the stale {}", name_, image.path);
        }
        auto const left = storage::tombstones_of(image.path);
        for (auto const& path : left.value_or(std::vector<std::string>())) {
            core::log::info("guest={} leaving {}: it is not of the migration in which it left here",
                            name_, path);
        }
    }
}

Task<Result<>> DestinationMigration::finish() {
    if (!owns_guest()) co_return Result<>{};
    std::error_code ignored;
    if (!guest_ || !guest_->client) {
        std::filesystem::remove(incoming_path(), ignored);
        co_return Result<>{};
    }
    auto const deadline = Deadline::after(limits::rollback_timeout);
    if (target_) {
        CO_TRY_VOID(co_await target_->stop_server(deadline));
    } else {
        (void)co_await qmp::nbd_server_stop(*guest_->client,
                                            deadline);  // of a killed sidecar; else refused
    }
    co_await RamStream::reset_incoming(*guest_, deadline);
    (void)co_await qmp::object_del(*guest_->client, key_object(migration_id_),
                                   deadline);  // refused if the streams are plaintext
    remove_key(key_directory());
    remove_stale_images();
    CO_TRY_VOID(guest_->write_manifest());
    std::filesystem::remove(incoming_path(), ignored);
    co_return Result<>{};
}

}  // namespace sidecar
