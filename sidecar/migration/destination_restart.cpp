// What a new sidecar of a destination finds of an earlier one: the journal's record, the images,
// and the QEMU that was prepared. If they are of its own migration, it joins them. `prepare`
// removes the remains of another migration of the guest, but only what that migration created.
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "qmp/migration.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/destination_launch.hpp"
#include "sidecar/guest/orphaned_qemu.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/migration/destination_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::destination::Qemu;
using machine::destination::Record;

bool DestinationMigration::owned_unfinished(Paths const& paths, std::string const& guest,
                                            Journal::Entry const& last) {
    using enum DestinationEntry::Record;
    auto const* entry = last.destination();
    if (entry == nullptr) return false;
    return entry->record == owner || (entry->record == ended_owner && anything_left(paths, guest));
}

bool DestinationMigration::anything_left(Paths const& paths, std::string const& guest) {
    return access(incoming_path(paths, guest).c_str(), F_OK) == 0;
}

/// The machine's Record for what the journal says about this migration.
Record DestinationMigration::recorded() const {
    auto const& last = journal_.last();
    auto const* entry = last.destination();
    if (entry == nullptr || last.migration_id != migration_id_) return Record::none;
    // `finish` is still to be done.
    if (owned_unfinished(paths_, name_, last)) return Record::owner;
    switch (entry->record) {
        case DestinationEntry::Record::owner:
            return Record::owner;
        case DestinationEntry::Record::aborted:
            return Record::aborted;
        case DestinationEntry::Record::ended_owner:
            return Record::ended_owner;
        case DestinationEntry::Record::ended_aborted:
            return Record::ended_aborted;
    }
    std::unreachable();
}

Task<Result<>> DestinationMigration::find_after_restart() {
    auto const record_found = recorded();
    if (record_found == Record::none && !anything_left(paths_, name_)) {
        co_return Result<>{};  // a new migration: nothing to find
    }
    auto qemu = Qemu::gone;
    if (access(incoming_path().c_str(), F_OK) == 0) {
        CO_TRY(auto const text, read_file(incoming_path(), limits::manifest_bytes_max));
        CO_TRY(auto const known, Json::parse(text));
        if (known["migration_id"].text_or("") != migration_id_) {
            earlier_ = known;  // removed by `prepare`: a `check` changes nothing
            co_return check_earlier();
        }
        incoming_is_ours_ = true;
        CO_TRY(description_, Description::from_json(known["description"]));
        CO_TRY(images_, images_from_json(known["images"]));
        recorded_qemu_ = core::ProcessIdentity::from_json(known);
        nbd_port_ = static_cast<int>(known["nbd_port"].integer_or(0));
        ram_port_ = static_cast<int>(known["ram_port"].integer_or(0));
        generation_ = static_cast<unsigned>(known["generation"].integer_or(0));
        left_in_ = known["left_in"].text_or("");
        if (!left_in_.empty()) CO_TRY_VOID(check_guest_name(left_in_));  // part of a file's name
        auto joined = co_await rejoin(known["qmp_socket"].text_or(""), recorded_qemu_);
        if (!joined)
            core::log::info("guest={} migration_id={} {}", name_, migration_id_,
                            joined.error().sentence());
        if (joined) qemu = *joined;
    }
    post(machine::destination::restarted(record_found, qemu));
    co_return Result<>{};
}

/// An earlier migration of this guest may be cleared only if its guest was not owned here. After
/// OWNER, accept_peer refuses another migration until the end is recorded; from then on the record
/// says `owned` (record_end).
Result<> DestinationMigration::check_earlier() const {
    auto const id = earlier_["migration_id"].text_or("");
    TRY_VOID(check_guest_name(id));  // it becomes part of file names
    auto const& last = journal_.last();
    bool const by_journal = last.migration_id == id && last.destination() != nullptr &&
                            (last.destination()->record == DestinationEntry::Record::owner ||
                             last.destination()->record == DestinationEntry::Record::ended_owner);
    if (!by_journal && !earlier_["owned"].boolean_or(false)) return {};
    return fail(Errc::refused,
                "a guest named {} came into this host in migration {}, and its sidecar was "
                "killed: `sidecar attach {}` there ends that first",
                name_, id, name_);
}

/// Removes what an earlier migration of this guest left if its sidecar was killed and its source
/// did not come back.
Task<Result<>> DestinationMigration::clear_earlier() {
    if (earlier_.is_null()) co_return Result<>{};
    CO_TRY_VOID(check_earlier());
    auto const id = earlier_["migration_id"].text_or("");
    core::log::warning("guest={} migration_id={} removing what migration {} left here", name_,
                       migration_id_, id);
    CO_TRY(auto const images, images_from_json(earlier_["images"]));
    CO_TRY_VOID(co_await end_earlier_qemu(core::ProcessIdentity::from_json(earlier_)));
    CO_TRY_VOID(remove_images(images, id));
    remove_key(paths_.run(name_) + "/keys-" + id);
    std::error_code error;
    if (std::filesystem::remove(incoming_path(), error); error) {
        co_return core::fail_errno(error.value(), "cannot remove {}", incoming_path());
    }
    earlier_ = Json();
    co_return Result<>{};
}

/// The QEMU that an earlier sidecar prepared, if it is still there.
Task<Result<Qemu>> DestinationMigration::rejoin(std::string socket,
                                                core::ProcessIdentity recorded) {
    CO_TRY(auto process, core::Process::open(recorded));
    auto const pid = process.pid();
    CO_TRY(auto argv, core::command_line(pid));
    CO_TRY(auto line, qmp::CommandLine::parse(argv));
    CO_TRY(auto client,
           co_await qmp::Client::connect(loop_, socket, Deadline::after(limits::qmp_timeout)));
    guest_ = std::make_unique<Guest>(loop_, paths_, name_, Guest::Prepared{});
    guest_->process = std::move(process);
    guest_->client = std::move(client);
    guest_->command_line = std::move(line);
    guest_->working_directory = "/";
    if (!description_.interfaces.empty()) {
        CO_TRY(auto netlink, netmove::Netlink::open());
        guest_->netlink = std::make_unique<netmove::Netlink>(std::move(netlink));
        CO_TRY(auto taps, netmove::Tap::duplicate_from(pid));
        for (std::size_t index = 0; index < taps.size() && index < description_.interfaces.size();
             ++index) {
            auto interface = description_.interfaces[index];
            interface.tap = taps[index].name();
            CO_TRY_VOID(add_nic(*guest_, std::move(interface), std::move(taps[index]), movers_));
        }
        CO_TRY_VOID(frames_.find(*guest_));
    }
    watchers_.spawn(watch_qemu());
    watchers_.spawn(watch_process());
    auto const deadline = Deadline::after(limits::qmp_timeout);
    CO_TRY(auto const exports, co_await qmp::query_block_exports(*guest_->client, deadline));
    for (auto const& one :
         exports) {  // exports that are still open are closed before anything else is decided
        CO_TRY_VOID(co_await qmp::block_export_del(*guest_->client, one.id,
                                                   qmp::ExportRemoval::hard, deadline));
    }
    CO_TRY(auto const migration, co_await qmp::query_migrate(*guest_->client, deadline));
    ram_begun_ = !migration.status.empty() && migration.status != "setup";
    CO_TRY(auto const status, co_await qmp::query_status(*guest_->client, deadline));
    if (status.running) co_return Qemu::running;
    co_return status.status == "inmigrate" ? Qemu::waiting : Qemu::loaded;
}

Result<std::vector<storage::OwnedFile>> DestinationMigration::images_from_json(Json const& list) {
    std::vector<storage::OwnedFile> images;
    for (auto const& one : list.elements()) {
        TRY(auto image, storage::OwnedFile::from_json(one));
        images.push_back(std::move(image));
    }
    return images;
}

/// Removes those of `images` that the migration `id` created, and no other file.
Result<> DestinationMigration::remove_images(std::vector<storage::OwnedFile> const& images,
                                             std::string const& id) const {
    for (auto const& image : images) {
        TRY(bool const other, storage::remove_owned(image, id));
        if (other) {
            core::log::info("guest={} migration_id={} leaving {}: this migration did not create it",
                            name_, id, image.path);
        }
    }
    return {};
}

/// Ends the QEMU that an earlier sidecar prepared and that this one could not join. The recorded
/// start time distinguishes it from a later process with the same pid.
Task<Result<>> DestinationMigration::end_earlier_qemu(core::ProcessIdentity recorded) {
    if (guest_ && guest_->process) co_return Result<>{};
    if (recorded.pid <= 0) co_return co_await end_unrecorded_qemu();
    auto const process = core::Process::open(recorded);
    if (!process) co_return Result<>{};  // it has ended
    (void)process->signal(SIGKILL);
    CO_TRY_VOID(
        co_await core::wait_exit(loop_, *process, Deadline::after(limits::rollback_timeout)));
    co_return Result<>{};
}

/// If a sidecar is killed just after it has started QEMU, that QEMU is not recorded. It listens on
/// the guest's monitor, and waits for RAM. Any other QEMU there is left alone.
Task<Result<>> DestinationMigration::end_unrecorded_qemu() {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto found = co_await qmp::Client::connect(loop_, paths_.qmp_socket(name_), deadline);
    if (!found) co_return Result<>{};
    auto const status = co_await qmp::query_status(**found, deadline);
    if (status && status->status == "inmigrate") {
        co_return co_await end_left_qemu(loop_, **found, deadline);
    }
    co_await (*found)->close();
    co_return Result<>{};
}

}  // namespace sidecar
