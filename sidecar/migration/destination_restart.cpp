// What a new sidecar of a destination finds of an earlier one: the journal's record, the images,
// and the QEMU that was prepared. If they are of its own migration, it joins them. `prepare`
// removes the remains of another migration of the guest, see destination_remains.hpp.
#include "core/log.hpp"
#include "sidecar/migration/destination_migration.hpp"

namespace sidecar {

using core::Result;
using core::Task;

bool DestinationMigration::owned_unfinished(Paths const& paths, std::string const& guest,
                                            Journal::Entry const& last) {
    using enum DestinationEntry::Record;
    auto const* entry = last.destination();
    if (entry == nullptr) return false;
    return entry->record == owner || (entry->record == ended_owner && anything_left(paths, guest));
}

bool DestinationMigration::anything_left(Paths const& paths, std::string const& guest) {
    return IncomingRecord::exists(paths, guest);
}

/// The machine's Record for what the journal says about this migration.
machine::destination::Record DestinationMigration::recorded() const {
    auto const& last = journal_.last();
    auto const* entry = last.destination();
    if (entry == nullptr || last.migration_id != migration_id_)
        return machine::destination::Record::none;
    // `finish` is still to be done.
    if (owned_unfinished(paths_, name_, last)) return machine::destination::Record::owner;
    switch (entry->record) {
        case DestinationEntry::Record::owner:
            return machine::destination::Record::owner;
        case DestinationEntry::Record::aborted:
            return machine::destination::Record::aborted;
        case DestinationEntry::Record::ended_owner:
            return machine::destination::Record::ended_owner;
        case DestinationEntry::Record::ended_aborted:
            return machine::destination::Record::ended_aborted;
    }
    std::unreachable();
}

Task<Result<>> DestinationMigration::find_after_restart() {
    auto const record_found = recorded();
    CO_TRY(auto const known, IncomingRecord::read(paths_, name_));
    if (record_found == machine::destination::Record::none && known.is_null()) {
        co_return Result<>{};  // a new migration: nothing to find
    }
    auto qemu = machine::destination::Qemu::gone;
    if (!known.is_null()) {
        if (known["migration_id"].text_or("") != migration_id_) {
            co_return earlier_.found(known);  // removed by `prepare`: a `check` changes nothing
        }
        incoming_is_ours_ = true;
        CO_TRY(auto const record, IncomingRecord::from_json(known));
        description_ = record.description;
        disks_.restore(record);
        disk_command_.restore(record);
        anchors_.restore(record.tunnel_port);
        qemu_.restore(record.generation, record.ram_port);
        recorded_qemu_ = record.qemu.value_or(core::ProcessIdentity());
        auto joined = co_await rejoin(record.qmp_socket);
        if (!joined)
            core::log::info("guest={} migration_id={} {}", name_, migration_id_,
                            joined.error().sentence());
        if (joined) qemu = *joined;
    }
    post(machine::destination::restarted(record_found, qemu,
                                         description_.state != GuestState::running));
    co_return Result<>{};
}

/// Joins the QEMU that an earlier sidecar prepared, if it is still there. Exports that are still
/// open are closed before anything else is decided.
Task<Result<machine::destination::Qemu>> DestinationMigration::rejoin(std::string socket) {
    CO_TRY_VOID(co_await qemu_.join(std::move(socket), recorded_qemu_));
    CO_TRY_VOID(network_.find());
    qemu_.watch();
    CO_TRY_VOID(co_await disks_.close_found_exports());
    co_return co_await qemu_.state();
}

}  // namespace sidecar
