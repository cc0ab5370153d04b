// Watchdog: a separate process that brings the guest back when its sidecar cannot. It detects two
// cases. Either the sidecar died: the pipe between them ended. Or the guest has been stopped for
// longer than the limit: then the watchdog kills the sidecar first, so that only one of them acts.
// It acts only while COMMIT is not recorded. The watchdog of a replication does the same for a
// guest whose file systems are frozen: it thaws them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/fd.hpp"
#include "core/process.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// The messages that the sidecar sends through the pipe.
enum class WatchdogWord : std::uint32_t { stopped, released, quit };
struct WatchdogMessage {
    WatchdogWord word = WatchdogWord::quit;
    std::uint32_t limit_ms = 0;  ///< `stopped`: how much longer the guest may be stopped.
};

class Watchdog {
public:
    /// Starts `sidecar watchdog GUEST`. From now on the death of this process is noticed.
    static core::Result<std::unique_ptr<Watchdog>> start(Paths const& paths,
                                                         std::string const& guest,
                                                         std::string const& qmp_socket);
    /// The same for a replication; stopped() then refers to the guest's file systems.
    static core::Result<std::unique_ptr<Watchdog>> start_thawing(Paths const& paths,
                                                                 std::string const& guest);
    [[nodiscard]] bool running() const { return process_.running(); }
    /// The guest is stopped, and must not be for longer than `limit` from now on. A later call
    /// replaces the limit.
    void stopped(core::milliseconds limit) {
        say({WatchdogWord::stopped, static_cast<std::uint32_t>(limit.count())});
    }
    /// The guest runs again, or COMMIT is about to be recorded: the limit no longer applies.
    void released() { say({WatchdogWord::released}); }
    /// The end: the watchdog exits without acting, and this waits for it.
    core::Task<void> end(core::Loop& loop);

private:
    void say(WatchdogMessage const& message);
    core::Fd pipe_;
    core::Process process_;
};

}  // namespace sidecar
