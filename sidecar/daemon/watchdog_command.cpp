#include "sidecar/daemon/watchdog_command.hpp"

#include <signal.h>
#include <unistd.h>

#include <span>

#include "core/log.hpp"
#include "core/process.hpp"
#include "sidecar/guest/watchdog.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/bring_back.hpp"
#include "sidecar/replication/guest_freeze.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

/// Tries to thaw a guest's file systems after the sidecar's end; another sidecar may do it first.
constexpr int recovery_tries_max = 20;
/// How long another sidecar must hold the journal until the watchdog leaves the guest to it: by
/// then that sidecar has its own watchdog.
constexpr std::chrono::seconds handed_over_after{60};

/// Returns true when nothing more is to be done.
Task<bool> thaw(core::Loop& loop, Paths const& paths, std::string const& guest) {
    auto const thawed =
        co_await thaw_left(loop, paths, guest, Deadline::after(limits::agent_timeout));
    if (thawed) co_return true;
    core::log::error("watchdog guest={} {}", guest, thawed.error().sentence());
    co_return false;
}

/// How the sidecar ended.
enum class SidecarEnd { quit, lost, hung };

/// Reads one whole message; false when the pipe ended.
Task<Result<bool>> hear(core::Loop& loop, int pipe_fd, WatchdogMessage& message,
                        Deadline deadline) {
    auto bytes = std::as_writable_bytes(std::span(&message, 1));
    while (!bytes.empty()) {
        CO_TRY(auto const got, co_await loop.read(pipe_fd, bytes, deadline));
        if (got == 0) co_return false;
        bytes = bytes.subspan(static_cast<std::size_t>(got));
    }
    co_return true;
}

/// Reads the sidecar's messages until it ends, quits, or hangs. It hangs if it is silent for longer
/// than it said that the guest may be stopped.
Task<SidecarEnd> listen(core::Loop& loop, int pipe_fd) {
    auto deadline = Deadline::never();
    for (;;) {
        WatchdogMessage message;
        auto const heard = co_await hear(loop, pipe_fd, message, deadline);
        if (!heard && heard.error().code == Errc::timed_out) co_return SidecarEnd::hung;
        if (!heard || !*heard) co_return SidecarEnd::lost;
        switch (message.word) {
            case WatchdogWord::stopped:
                deadline = Deadline::after(core::milliseconds(message.limit_ms));
                break;
            case WatchdogWord::released:
                deadline = Deadline::never();
                break;
            case WatchdogWord::quit:
                co_return SidecarEnd::quit;
        }
    }
}

/// Tries until the guest is back, as long as QEMU lives. A QEMU that does not answer now may do so
/// later, with its guest stopped, and only the watchdog would resume it.
Task<void> bring_back_at_last(core::Loop& loop, Paths const& paths, std::string const& guest,
                              std::string const& qmp_socket) {
    auto pause = limits::retry_pause_min;
    auto const begun = core::Clock::now();
    for (;;) {
        auto const tried = co_await bring_back(loop, paths, guest, qmp_socket);
        if (tried == BringBack::done) co_return;
        bool const long_held = core::Clock::now() - begun > handed_over_after;
        if (tried == BringBack::other_sidecar && long_held) co_return;
        (void)co_await core::sleep_for(loop, pause);
        pause = std::min(pause * 2, limits::retry_pause_max);
    }
}

}  // namespace

Task<int> watchdog_command(core::Loop& loop, Paths paths, std::string guest, std::string qmp_socket,
                           int pipe_fd) {
    auto const sidecar = core::Process::open(getppid());
    core::Fd pipe(pipe_fd);
    bool const thaws = qmp_socket.empty();
    auto const word = co_await listen(loop, pipe.get());
    if (word == SidecarEnd::quit) co_return 0;
    if (word == SidecarEnd::hung && sidecar) {
        core::log::error("watchdog guest={} stopped for too long and its sidecar hangs: killing it",
                         guest);
        (void)sidecar->signal(SIGKILL);
    }
    // The pipe ends before the process does: only the end of the process releases the journal
    // and the monitor.
    if (sidecar)
        (void)co_await core::wait_exit(loop, *sidecar, Deadline::after(limits::rollback_timeout));
    if (!thaws) {
        co_await bring_back_at_last(loop, paths, guest, qmp_socket);
        co_return 0;
    }
    for (int attempt = 0; attempt < recovery_tries_max; ++attempt) {
        if (co_await thaw(loop, paths, guest)) co_return 0;
        (void)co_await core::sleep_for(loop, limits::retry_pause_min * (attempt + 1));
    }
    co_return 1;
}

}  // namespace sidecar
