#include "sidecar/migration/bring_back.hpp"

#include "core/log.hpp"
#include "netmove/bridge_mover.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/routes_mover.hpp"
#include "qmp/migration.hpp"
#include "sidecar/guest/run_state.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/libvirt/monitor.hpp"
#include "sidecar/machine/watchdog.hpp"
#include "sidecar/migration/migration_record.hpp"
#include "sidecar/migration/qemu_state.hpp"
#include "sidecar/migration/ram_stream.hpp"
#include "sidecar/migration/recorded.hpp"
#include "sidecar/migration/source_images.hpp"
#include "sidecar/migration/throttle.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

/// Cancel, record and resume, each once more in case QEMU was still changing state.
constexpr int bring_back_steps_max = 8;

/// Restores the user's disk limits and migration settings from the record.
Task<Result<>> restore_settings(qmp::Client& client, Paths paths, std::string guest,
                                Deadline deadline) {
    CO_TRY(auto const record, MigrationRecord::read(paths, guest));
    auto const disks = co_await Throttle::put_back(client, record["throttle"], deadline);
    auto const ram = co_await RamStream::restore(client, record["ram_settings"], deadline);
    co_return disks ? ram : disks;
}

/// The addresses were fired to the other host at STOP; they return with the guest. The record of
/// the migration contains them; the taps are taken from QEMU.
Result<> announce_from_here(core::Loop& loop, Paths const& paths, std::string const& guest) {
    TRY(auto const manifest, read_manifest(paths, guest));
    TRY(auto const record, MigrationRecord::read(paths, guest));
    TRY(auto netlink, netmove::Netlink::open());
    TRY(auto const qemu, core::Process::open(core::ProcessIdentity::from_json(manifest)));
    TRY(auto const taps, netmove::Tap::duplicate_from(qemu.pid()));
    for (auto const& entry : record["description"]["interfaces"].elements()) {
        TRY(auto const interface, netmove::GuestInterface::from_json(entry));
        for (auto const& tap : taps) {
            if (tap.name() != interface.tap) continue;
            if (interface.routed) {
                TRY_VOID(netmove::routes_mover_source(netlink, interface)->rollback());
            }
            if (interface.bridge.empty()) continue;
            TRY_VOID(netmove::bridge_mover_source(loop, netlink, tap, interface)->rollback());
            if (!interface.evpn) continue;
            TRY_VOID(netmove::evpn_mover_source(netlink, interface)->rollback());
        }
    }
    return {};
}

/// Whether the guest did not run when its migration began.
bool was_stopped(Paths const& paths, std::string const& guest) {
    auto const record = MigrationRecord::read(paths, guest);
    if (!record) return false;
    return (*record)["description"]["state"].text_or("running") != name(GuestState::running);
}

bool qemu_runs(Paths const& paths, std::string const& guest) {
    auto const manifest = read_manifest(paths, guest);
    return manifest && core::Process::open(core::ProcessIdentity::from_json(*manifest));
}

/// Executes the actions of the watchdog's rule until the rule returns `leave`.
Task<Result<>> follow_the_rule(qmp::Client& client, Journal& journal, std::string const& guest,
                               bool stopped, Deadline deadline) {
    using machine::watchdog::Action;
    auto last = journal.last();
    for (int steps = 0; steps < bring_back_steps_max; ++steps) {
        CO_TRY(auto const qemu, co_await qemu_state(client, deadline));
        auto const action = machine::watchdog::next(recorded_by_source(last), qemu, stopped);
        core::log::warning("watchdog guest={} qemu={} action={}", guest,
                           machine::source::name(qemu), machine::watchdog::name(action));
        switch (action) {
            case Action::leave:
                co_return Result<>{};
            case Action::cancel_migration:
                CO_TRY_VOID(co_await qmp::cancel_migration(client, deadline));
                break;
            case Action::record_rollback:
                std::get<SourceEntry>(last.what).record = SourceEntry::Record::rolled_back;
                CO_TRY_VOID(journal.record(last));
                break;
            case Action::resume_guest:
                CO_TRY_VOID(co_await run_after_migration(client, deadline));
                break;
        }
    }
    co_return core::fail(Errc::timed_out, "QEMU could not be brought back in {} steps",
                         bring_back_steps_max);
}

}  // namespace

Task<BringBack> bring_back(core::Loop& loop, Paths paths, std::string guest,
                           std::string qmp_socket) {
    auto journal = Journal::open(paths.state(guest));
    if (!journal) {
        core::log::info("watchdog guest={} {}", guest, journal.error().sentence());
        co_return journal.error().code == Errc::refused ? BringBack::other_sidecar
                                                        : BringBack::not_yet;
    }
    auto const last = journal->last();
    if (!last.source_unfinished() || last.source()->record == SourceEntry::Record::committed)
        co_return BringBack::done;
    bool const through_libvirt = qmp_socket == libvirt::monitor_socket(paths, guest);
    auto const reachable = through_libvirt ? libvirt::ensure_monitor(paths, guest) : Result<>{};
    if (!reachable) core::log::warning("watchdog guest={} {}", guest, reachable.error().sentence());
    auto client =
        co_await qmp::Client::connect(loop, qmp_socket, Deadline::after(limits::qmp_timeout));
    if (!client) {
        core::log::warning("watchdog guest={} {}", guest, client.error().sentence());
        // QEMU has ended: nothing is left to bring back. Or only libvirt has.
        bool const ended =
            through_libvirt ? !qemu_runs(paths, guest) : client.error().code == Errc::closed;
        co_return ended ? BringBack::done : BringBack::not_yet;
    }
    // Before the guest can run: `cont` may open its images by their names.
    if (auto const restored = restore_recorded_images(paths, guest, last.migration_id); !restored) {
        core::log::error("watchdog guest={} {}", guest, restored.error().sentence());
        co_await (*client)->close();
        co_return BringBack::not_yet;
    }
    auto const deadline = Deadline::after(limits::rollback_timeout);
    auto const back =
        co_await follow_the_rule(**client, *journal, guest, was_stopped(paths, guest), deadline);
    auto const restored = co_await restore_settings(**client, paths, guest, deadline);
    co_await (*client)->close();
    if (!restored) {
        core::log::error(
            "watchdog guest={} the migration's limits of its disks or settings of its QEMU are "
            "still in place: {}",
            guest, restored.error().sentence());
    }
    if (!back) {
        core::log::error("watchdog guest={} could not resume it: {}", guest,
                         back.error().sentence());
        co_return BringBack::not_yet;
    }
    core::log::warning("watchdog guest={} the guest belongs to the source again", guest);
    if (auto const announced = announce_from_here(loop, paths, guest); !announced) {
        core::log::error("watchdog guest={} its addresses could not be announced: {}", guest,
                         announced.error().sentence());
    }
    co_return BringBack::done;
}

}  // namespace sidecar
