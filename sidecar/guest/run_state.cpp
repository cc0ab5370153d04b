#include "sidecar/guest/run_state.hpp"

#include "qmp/vm.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

/// The rule for a stopped guest that is not in the middle of a migration.
enum class WhenStopped : std::uint8_t { go_on, go_on_after_migration };

Task<Result<RunState>> settle_run_state(qmp::Client& client, WhenStopped rule, Deadline deadline) {
    auto events = client.subscribe({"RESUME", "MIGRATION"});
    for (;;) {
        CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
        if (status.running) co_return RunState::running;
        if (status.status != "finish-migrate") {
            if (rule == WhenStopped::go_on_after_migration && status.status != "postmigrate") {
                co_return RunState::stopped_by_others;
            }
            auto const continued = co_await qmp::cont(client, deadline);
            if (continued) continue;  // query-status decides
            if (continued.error().code != Errc::qemu_refused) {
                co_return std::unexpected(continued.error());
            }
        }
        // QEMU is still ending the migration: it sends RESUME or MIGRATION when that is done.
        auto const event = co_await events.next(deadline);
        if (!event) co_return std::unexpected(event.error());
    }
}

}  // namespace

Task<Result<>> ensure_running(qmp::Client& client, Deadline deadline) {
    CO_TRY_VOID(co_await settle_run_state(client, WhenStopped::go_on, deadline));
    co_return Result<>{};
}

Task<Result<RunState>> run_after_migration(qmp::Client& client, Deadline deadline) {
    return settle_run_state(client, WhenStopped::go_on_after_migration, deadline);
}

}  // namespace sidecar
