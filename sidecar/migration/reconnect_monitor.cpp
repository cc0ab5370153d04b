#include "sidecar/migration/reconnect_monitor.hpp"

#include <algorithm>

#include "sidecar/host/limits.hpp"

namespace sidecar {

core::Task<bool> reconnect_monitor(core::Loop& loop, qmp::Client& client,
                                   std::function<bool()> wanted,
                                   std::function<void(core::Error const&)> failed,
                                   std::stop_token stop) {
    for (auto pause = limits::retry_pause_min; wanted();
         pause = std::min(pause * 2, limits::retry_pause_max)) {
        auto const connected =
            co_await client.reconnect(core::Deadline::after(limits::qmp_timeout, stop));
        if (connected) co_return true;
        failed(connected.error());
        if (!co_await core::sleep_for(loop, pause, stop)) break;
    }
    co_return false;
}

}  // namespace sidecar
