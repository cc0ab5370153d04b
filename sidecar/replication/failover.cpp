#include "sidecar/replication/failover.hpp"

#include <signal.h>

#include <algorithm>
#include <ctime>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/destination_launch.hpp"
#include "sidecar/guest/orphaned_qemu.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/replication/replication_target.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Chooses the point, and records it before anything of another point is given up.
Result<> choose(Paths const& paths, std::string const& guest, ReplicaRecord& record,
                bool previous) {
    if (record.chosen == 0) {
        auto const wanted = previous ? record.previous() : record.last();
        if (record.base == 0) {
            return fail(Errc::refused,
                        "the first copy of {} was never complete: there is nothing to start it "
                        "from",
                        guest);
        }
        if (wanted == 0) {
            return fail(Errc::refused, "there is no point before the last of {}: only point {}",
                        guest, record.last());
        }
        record.chosen = wanted;
        TRY_VOID(record.write(paths, guest));
    }
    std::erase_if(record.overlays, [&](unsigned number) { return number > record.chosen; });
    std::erase_if(record.points,
                  [&](ReplicaPoint const& point) { return point.number > record.chosen; });
    return record.write(paths, guest);
}

/// Starts QEMU as it was at the source, stopped before its first instruction.
Task<Result<std::unique_ptr<Guest>>> start(core::Loop& loop, Paths paths, std::string name,
                                           ReplicaRecord record, netmove::MoverSet& movers) {
    // Again: the source has written the images since.
    CO_TRY_VOID(check_allowed(paths, record.maps, record.description));
    CO_TRY_VOID(make_directory(paths.run(name)));
    auto guest = std::make_unique<Guest>(loop, paths, name, Guest::Prepared{});
    auto description = record.description;
    if (!description.interfaces.empty()) {
        CO_TRY(auto netlink, netmove::Netlink::open());
        guest->netlink = std::make_unique<netmove::Netlink>(std::move(netlink));
        CO_TRY(description.interfaces,
               map_interfaces(*guest->netlink, record.maps, description.interfaces));
        // The old host is fenced: there is no source to move it from.
        for (auto& interface : description.interfaces) {
            interface.vxlan_source.reset();
            interface.evpn = false;
        }
    }
    CO_TRY_VOID(co_await start_here(*guest, record.maps, description, false, movers));
    co_return guest;
}

/// A QEMU of this guest that is here already. One that runs is left alone. One that an earlier
/// failover started but never resumed is ended.
Task<Result<>> end_unstarted(core::Loop& loop, Paths paths, std::string name) {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto found = co_await qmp::Client::connect(loop, paths.qmp_socket(name), deadline);
    if (!found && found.error().code == Errc::closed) co_return Result<>{};  // there is none
    if (!found) co_return std::unexpected(std::move(found.error()));
    auto& client = **found;
    auto const status = co_await qmp::query_status(client, deadline);
    if (status && status->status == "prelaunch") {
        co_return co_await end_left_qemu(loop, client, deadline);
    }
    co_await client.close();
    co_return fail(Errc::refused,
                   "a QEMU of {} runs here already (QEMU says {}): `sidecar attach {}` joins it",
                   name, status ? status->status : status.error().sentence(), name);
}

Task<Result<>> start_guest(Guest& guest, netmove::MoverSet& movers) {
    auto const deadline = Deadline::after(limits::prepare_timeout);
    CO_TRY_VOID(co_await movers.prepare(deadline));
    CO_TRY_VOID(guest.write_manifest());  // so that it can be identified while it runs
    CO_TRY_VOID(movers.fire());
    stop_for_test("start_guest");
    co_return co_await qmp::cont(*guest.client, deadline);
}

}  // namespace

Task<Result<std::unique_ptr<Guest>>> fail_over(core::Loop& loop, Paths paths, std::string guest,
                                               Journal& journal, bool previous,
                                               netmove::MoverSet& movers) {
    CO_TRY(auto found, ReplicaRecord::read(paths, guest));
    if (!found) {
        co_return fail(Errc::refused,
                       "there is no copy of {} on this host: no `sidecar replicate` made one",
                       guest);
    }
    auto& record = *found;
    CO_TRY_VOID(co_await end_left_replica(loop, paths, guest));
    CO_TRY_VOID(co_await end_unstarted(loop, paths, guest));
    CO_TRY_VOID(choose(paths, guest, record, previous));
    stop_for_test("fold");
    CO_TRY_VOID(co_await fold_replica(loop, paths, guest, record, 0,
                                      Deadline::after(limits::fold_timeout)));
    // Both before the guest's first instruction: from here on its old source is refused.
    record.failed_over_at = static_cast<std::int64_t>(std::time(nullptr));
    CO_TRY_VOID(record.write(paths, guest));
    CO_TRY_VOID(journal.record({record.replication_id, FailedOverEntry{}}));
    auto const point = std::ranges::find(record.points, record.chosen, &ReplicaPoint::number);
    core::log::warning("guest={} replication={} failed over to point {}{}", guest,
                       record.replication_id, record.chosen,
                       point == record.points.end() ? "" : ", " + point->consistency.text());
    auto started = co_await start(loop, paths, guest, record, movers);
    if (!started) co_return started;
    auto const running = co_await start_guest(**started, movers);
    if (running) co_return started;
    (void)movers.rollback();
    movers = netmove::MoverSet();
    (void)(*started)->process.signal(SIGKILL);  // just started by us
    co_await (*started)->close();
    co_return std::unexpected(running.error());
}

}  // namespace sidecar
