#include "sidecar/guest/run_state.hpp"

#include "qmp/vm.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

Task<Result<>> ensure_running(qmp::Client& client, Deadline deadline) {
    auto events = client.subscribe({"RESUME", "MIGRATION"});
    for (;;) {
        CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
        if (status.running) co_return Result<>{};
        if (status.status != "finish-migrate") {
            auto const continued = co_await qmp::cont(client, deadline);
            if (continued) continue;  // query-status has the last word
            if (continued.error().code != Errc::qemu_refused) co_return continued;
        }
        // QEMU is still ending the migration: it says RESUME or MIGRATION when it is through.
        auto const event = co_await events.next(deadline);
        if (!event) co_return std::unexpected(event.error());
    }
}

}  // namespace sidecar
