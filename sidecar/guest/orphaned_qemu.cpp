#include "sidecar/guest/orphaned_qemu.hpp"

#include "core/stream.hpp"
#include "qmp/vm.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

Task<Result<>> end_left_qemu(core::Loop& loop, qmp::Client& client, Deadline deadline) {
    auto const socket = client.socket_path();
    auto const asked = co_await qmp::quit(client, deadline);
    co_await client.close();
    if (!asked && asked.error().code != Errc::closed) co_return asked;
    // It is not our child, and its pid is not known: its listener disappears when it ends.
    while (co_await core::connect_unix(loop, socket, deadline)) {
        if (deadline.passed()) {
            co_return core::fail(Errc::timed_out, "a QEMU on {} was asked to quit and does not end",
                                 socket);
        }
        CO_TRY_VOID(co_await core::sleep_for(loop, limits::retry_pause_min));
    }
    co_return Result<>{};
}

}  // namespace sidecar
