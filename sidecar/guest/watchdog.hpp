// Watchdog: a process of its own that brings the guest back when its sidecar cannot. It knows two
// things: that the sidecar died (the pipe between them ended), or that the guest has been stopped
// for longer than the limit (then it kills the sidecar first, so that only one of them acts). It
// acts only while COMMIT is not recorded. The one of a replication does the same for a guest whose
// file systems are frozen: it thaws them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/fd.hpp"
#include "core/process.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// What the sidecar says through the pipe.
enum class WatchdogWord : std::uint32_t { stopped, released, quit };
struct WatchdogMessage {
    WatchdogWord word = WatchdogWord::quit;
    std::uint32_t limit_ms = 0;  ///< `stopped`: how much longer the guest may be.
};

class Watchdog {
public:
    /// Starts `sidecar watchdog GUEST`. From now on the death of this process is noticed.
    static core::Result<std::unique_ptr<Watchdog>> start(Paths const& paths,
                                                         std::string const& guest,
                                                         std::string const& qmp_socket);
    /// The same for a replication; stopped() is then said of the guest's file systems.
    static core::Result<std::unique_ptr<Watchdog>> start_thawing(Paths const& paths,
                                                                 std::string const& guest);
    [[nodiscard]] bool running() const { return process_.running(); }
    /// The guest is stopped, and must not be for longer than `limit` from now on. Said again, it
    /// replaces what was said.
    void stopped(core::milliseconds limit) {
        say({WatchdogWord::stopped, static_cast<std::uint32_t>(limit.count())});
    }
    /// It runs again, or COMMIT is about to be recorded: the clock stands.
    void released() { say({WatchdogWord::released}); }
    /// Over: it leaves without doing anything, and is waited for.
    core::Task<void> end(core::Loop& loop);

private:
    void say(WatchdogMessage const& message);
    core::Fd pipe_;
    core::Process process_;
};

}  // namespace sidecar
