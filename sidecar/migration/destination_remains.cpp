#include "sidecar/migration/destination_remains.hpp"

#include <signal.h>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/orphaned_qemu.hpp"
#include "sidecar/guest/software_tpm.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/destination_anchors.hpp"
#include "sidecar/migration/disk_command.hpp"
#include "sidecar/migration/incoming_record.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

Result<> EarlierMigration::found(Json record) {
    record_ = std::move(record);
    return check();
}

/// After OWNER, the session refuses another migration until the end is recorded; from then on the
/// record says `owned`.
Result<> EarlierMigration::check() const {
    auto const id = record_["migration_id"].text_or("");
    TRY_VOID(check_guest_name(id));  // it becomes part of file names
    auto const& last = journal_.last();
    bool const by_journal = last.migration_id == id && last.destination() != nullptr &&
                            (last.destination()->record == DestinationEntry::Record::owner ||
                             last.destination()->record == DestinationEntry::Record::ended_owner);
    if (!by_journal && !record_["owned"].boolean_or(false)) return {};
    return fail(Errc::refused,
                "a guest named {} came into this host in migration {}, and its sidecar was "
                "killed: `sidecar attach {}` there ends that first",
                context_.name, id, context_.name);
}

Result<Leftovers> EarlierMigration::leftovers() const {
    Leftovers left;
    TRY(left.images, IncomingRecord::images_from_json(record_["images"]));
    left.tpm = record_["tpm"].boolean_or(false);
    return left;
}

Task<Result<>> EarlierMigration::clear() {
    if (record_.is_null()) co_return Result<>{};
    CO_TRY_VOID(check());
    auto const id = record_["migration_id"].text_or("");
    core::log::warning("guest={} migration_id={} removing what migration {} left here",
                       context_.name, context_.migration_id, id);
    CO_TRY(auto const left, leftovers());
    CO_TRY_VOID(co_await end_prepared_qemu(context_, core::ProcessIdentity::from_json(record_)));
    CO_TRY(auto const description, Description::from_json(record_["description"]));
    co_await leave_anchors(context_, description, id);
    if (left.tpm) CO_TRY_VOID(co_await remove_software_tpm(context_));
    CO_TRY_VOID(remove_created(left.images, context_.name, id));
    co_await remove_made_disks(context_,
                               IncomingRecord::made_disks_from_json(record_["made_disks"]));
    remove_key(context_.paths.run(context_.name) + "/keys-" + id);
    CO_TRY_VOID(IncomingRecord::remove(context_.paths, context_.name));
    record_ = Json();
    co_return Result<>{};
}

Result<> remove_created(std::vector<storage::DestinationImage> const& images,
                        std::string const& guest, std::string const& id) {
    for (auto const& image : images) {
        TRY(bool const stays, storage::give_up(image, id));
        if (!stays) continue;
        bool const device = image.kind == storage::DestinationImage::Kind::device;
        core::log::info("guest={} migration_id={} leaving {}: {}", guest, id, image.path(),
                        device ? "a device is not removed; its content is incomplete"
                               : "this migration did not create it");
    }
    return {};
}

namespace {

/// If a sidecar is killed just after it has started QEMU, that QEMU is not recorded. It listens on
/// the guest's monitor, and waits for RAM. Any other QEMU there is left alone.
Task<Result<>> end_unrecorded_qemu(DestinationContext context) {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto found = co_await qmp::Client::connect(context.loop, context.paths.qmp_socket(context.name),
                                               deadline);
    if (!found) co_return Result<>{};
    auto const status = co_await qmp::query_status(**found, deadline);
    if (status && status->status == "inmigrate") {
        co_return co_await end_left_qemu(context.loop, **found, deadline);
    }
    co_await (*found)->close();
    co_return Result<>{};
}

}  // namespace

Task<Result<>> remove_software_tpm(DestinationContext context) {
    CO_TRY_VOID(co_await end_software_tpm(context.loop, context.paths, context.name));
    remove_tpm_state(context.paths, context.name);
    co_return Result<>{};
}

/// The recorded start time distinguishes it from a later process with the same pid.
Task<Result<>> end_prepared_qemu(DestinationContext context, core::ProcessIdentity recorded) {
    if (context.guest && context.guest->process) co_return Result<>{};
    if (recorded.pid <= 0) co_return co_await end_unrecorded_qemu(context);
    auto const process = core::Process::open(recorded);
    if (!process) co_return Result<>{};  // it has ended
    (void)process->signal(SIGKILL);
    CO_TRY_VOID(co_await core::wait_exit(context.loop, *process,
                                         Deadline::after(limits::rollback_timeout)));
    co_return Result<>{};
}

}  // namespace sidecar
