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
    if (machine.running) {
        bool const travels = ram == "setup" || ram == "active" || ram == "cancelling";
        co_return travels ? Qemu::migrating : Qemu::running;
    }
    if (machine.status == "finish-migrate") {
        bool const flushes = ram == "setup" || ram == "active";
        co_return flushes ? Qemu::stopping : Qemu::paused_pre_switchover;
    }
    co_return machine.status == "postmigrate" ? Qemu::postmigrate : Qemu::stopped;
}

}  // namespace sidecar
