#include "sidecar/guest/watchdog.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

/// Where `sidecar watchdog` finds its end of the pipe.
constexpr int pipe_in_child = 3;

}  // namespace

Result<std::unique_ptr<Watchdog>> Watchdog::start_thawing(Paths const& paths,
                                                          std::string const& guest) {
    return start(paths, guest, "");
}

Result<std::unique_ptr<Watchdog>> Watchdog::start(Paths const& paths, std::string const& guest,
                                                  std::string const& qmp_socket) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "cannot make a pipe");
    core::Fd reader(ends[0]);
    auto watchdog = std::make_unique<Watchdog>();
    watchdog->pipe_.reset(ends[1]);
    core::SpawnOptions options;
    options.descriptors = {{reader.get(), pipe_in_child}};
    options.new_session = true;  // a signal to our process group must not end both
    std::vector<std::string> argv{
        own_program(),         "watchdog",          guest,
        "--run-dir",           paths.run_directory, "--state-dir",
        paths.state_directory, "--ready-fd",        std::to_string(pipe_in_child)};
    if (!qmp_socket.empty()) argv.insert(argv.end(), {"--qmp", qmp_socket});
    TRY(watchdog->process_, core::spawn(argv, options));
    return watchdog;
}

void Watchdog::say(WatchdogMessage const& message) {
    // If the pipe is full or broken, the watchdog is gone; the migration does not depend on it.
    [[maybe_unused]] auto written = ::write(pipe_.get(), &message, sizeof(message));
}

Task<void> Watchdog::end(core::Loop& loop) {
    say({WatchdogWord::quit});
    pipe_.reset();
    (void)co_await core::wait_exit(loop, process_, Deadline::after(limits::rollback_timeout));
}

}  // namespace sidecar
