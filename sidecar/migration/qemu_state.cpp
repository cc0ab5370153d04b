#include "sidecar/migration/qemu_state.hpp"

#include "qmp/migration.hpp"
#include "qmp/vm.hpp"

namespace sidecar {

using core::Result;
using core::Task;
using machine::source::Qemu;

Task<Result<Qemu>> qemu_state(qmp::Client& client, core::Deadline deadline) {
    CO_TRY(auto const migration, co_await qmp::query_migrate(client, deadline));
    CO_TRY(auto const machine, co_await qmp::query_status(client, deadline));
    auto const& ram = migration.status;
    bool const travels = ram == "setup" || ram == "active" || ram == "cancelling";
    if (machine.running) {
        co_return travels ? Qemu::migrating : Qemu::running;
    }
    if (machine.status == "finish-migrate") {
        bool const flushes = ram == "setup" || ram == "active";
        co_return flushes ? Qemu::stopping : Qemu::paused_pre_switchover;
    }
    if (machine.status == "postmigrate") {
        // QEMU 7.2 also says so of a guest that was stopped before a migration that then failed.
        CO_TRY(auto const ended, co_await qmp::query_migrate(client, deadline));
        bool const failed = ended.status == "failed" || ended.status == "cancelled";
        co_return failed ? Qemu::stopped : Qemu::postmigrate;
    }
    co_return travels ? Qemu::stopped_migrating : Qemu::stopped;
}

}  // namespace sidecar
