#include "sidecar/migration/bring_back.hpp"

#include "core/log.hpp"
#include "netmove/bridge_mover.hpp"
#include "qmp/migration.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/run_state.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "sidecar/migration/throttle.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

/// The limits that the record says the user had.
Task<Result<>> unthrottle(qmp::Client& client, Paths paths, std::string guest, Deadline deadline) {
    CO_TRY(auto const record, SourceMigration::read_record(paths, guest));
    co_return co_await Throttle::put_back(client, record["throttle"], deadline);
}

/// The addresses were fired to the other host at STOP: they come back with the guest. What is known
/// of them is in the record of the migration; the taps are QEMU's own.
Result<> announce_from_here(core::Loop& loop, Paths const& paths, std::string const& guest) {
    TRY(auto const manifest, read_manifest(paths, guest));
    TRY(auto const record, SourceMigration::read_record(paths, guest));
    TRY(auto netlink, netmove::Netlink::open());
    TRY(auto const qemu, core::Process::open(core::ProcessIdentity::from_json(manifest)));
    TRY(auto const taps, netmove::Tap::duplicate_from(qemu.pid()));
    for (auto const& entry : record["description"]["interfaces"].elements()) {
        TRY(auto const interface, netmove::GuestInterface::from_json(entry));
        for (auto const& tap : taps) {
            if (interface.bridge.empty() || tap.name() != interface.tap) continue;
            TRY_VOID(netmove::bridge_mover_source(loop, netlink, tap, interface)->rollback());
        }
    }
    return {};
}

}  // namespace

Task<bool> bring_back(core::Loop& loop, Paths paths, std::string guest, std::string qmp_socket) {
    auto journal = Journal::open(paths.state(guest));
    if (!journal) {
        core::log::info("watchdog guest={} another sidecar is there: nothing to do", guest);
        co_return journal.error().code == Errc::refused;
    }
    auto last = journal->last();
    auto* const left = std::get_if<SourceEntry>(&last.what);
    bool const ours_to_decide =
        left != nullptr && (left->record == SourceEntry::Record::begun ||
                            left->record == SourceEntry::Record::rolled_back);
    if (!ours_to_decide) co_return true;
    auto client =
        co_await qmp::Client::connect(loop, qmp_socket, Deadline::after(limits::qmp_timeout));
    if (!client) {
        core::log::warning("watchdog guest={} {}", guest, client.error().sentence());
        co_return client.error().code ==
            Errc::closed;  // QEMU has ended: nothing left to bring back
    }
    auto const deadline = Deadline::after(limits::rollback_timeout);
    (void)co_await qmp::cancel_migration(**client,
                                         deadline);  // what came of it, query-status tells
    auto const status = co_await qmp::query_status(**client, deadline);
    if (status && !status->running && status->status != "finish-migrate" &&
        left->record == SourceEntry::Record::begun) {
        // The migration had completed: from here on no COMMIT of this migration_id may ever count.
        left->record = SourceEntry::Record::rolled_back;
        if (auto const recorded = journal->record(last); !recorded) {
            core::log::error("watchdog guest={} {}", guest, recorded.error().sentence());
            co_await (*client)->close();
            co_return false;
        }
    }
    auto const resumed = co_await ensure_running(**client, deadline);
    auto const unthrottled = co_await unthrottle(**client, paths, guest, deadline);
    co_await (*client)->close();
    if (!unthrottled) {
        core::log::error("watchdog guest={} its disks are still throttled: {}", guest,
                         unthrottled.error().sentence());
    }
    if (!resumed) {
        core::log::error("watchdog guest={} could not resume it: {}", guest,
                         resumed.error().sentence());
        co_return false;
    }
    core::log::warning("watchdog guest={} the guest runs on the source again", guest);
    if (auto const announced = announce_from_here(loop, paths, guest); !announced) {
        core::log::error("watchdog guest={} its addresses could not be announced: {}", guest,
                         announced.error().sentence());
    }
    co_return true;
}

}  // namespace sidecar
