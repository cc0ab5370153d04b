// sidecar: moves running virtual machines between hosts that share nothing. See
// `sidecar --help`, docs/.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>

#include "core/log.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "sidecar/anchor/holder.hpp"
#include "sidecar/cli/commands.hpp"
#include "sidecar/cli/home_agent_command.hpp"
#include "sidecar/cli/libvirt_commands.hpp"
#include "sidecar/cli/locate_command.hpp"
#include "sidecar/cli/probe_command.hpp"
#include "sidecar/daemon/serve.hpp"
#include "sidecar/daemon/session.hpp"
#include "sidecar/daemon/watchdog_command.hpp"

namespace sidecar {
namespace {

using core::Deadline;
using core::Result;
using core::Task;

Task<void> watch_signals(core::Loop& loop, int fd, Interrupts& interrupts, std::stop_token done) {
    signalfd_siginfo info{};
    auto const buffer = std::as_writable_bytes(std::span(&info, 1));
    if (!co_await loop.read(fd, buffer, Deadline::never(done))) co_return;
    interrupts.first.set();
    interrupts.terminate.request_stop();
    if (co_await loop.read(fd, buffer, Deadline::never(done))) interrupts.second.set();
}

/// SIGINT and SIGTERM arrive as reads in the loop. SIGPIPE is ignored: a broken connection is an
/// error of the write.
core::Fd take_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    return core::Fd(signalfd(-1, &set, SFD_CLOEXEC));
}

Task<int> daemon(Task<Result<>> task) {
    auto const result = co_await std::move(task);
    if (result) co_return 0;
    // A daemon fails only before it begins: if QEMU is gone, or does not start, that is a refusal.
    int const status = complain(result.error());
    co_return status == machine::exit_failed ? int{machine::exit_refused} : status;
}

Task<int> at_once(int status) { co_return status; }

Task<int> dispatch(core::Loop& loop, Options const& options, Session& session,
                   Interrupts& interrupts) {
    using Command = Options::Command;
    auto const terminate = interrupts.terminate.get_token();
    switch (options.command) {
        case Command::run:
            return daemon(session.run(terminate));
        case Command::attach:
            return daemon(session.attach(terminate));
        case Command::incoming:
            return daemon(session.incoming(terminate));
        case Command::serve:
            return daemon(serve(loop, options, terminate));
        case Command::watchdog:
            return watchdog_command(loop, options.paths, options.guest, options.attach.qmp_socket,
                                    options.ready_fd);
        case Command::anchor_holder:
            return at_once(anchor_holder());
        case Command::libvirt_monitor:
            return at_once(libvirt::serve_monitor(options.libvirt_monitor));
        case Command::libvirt_definition:
            return at_once(libvirt::run_definition(options.libvirt_definition));
        case Command::libvirt_hook:
            return libvirt_hook_command(loop, options);
        case Command::failover:
            return daemon(session.failover(terminate));
        case Command::replicate:
            return replicate_command(loop, options, interrupts.first);
        case Command::migrate:
            return migrate_command(loop, options, interrupts);
        case Command::status:
            return status_command(loop, options);
        case Command::set:
            return set_command(loop, options);
        case Command::cancel:
            return cancel_command(loop, options);
        case Command::resolve:
            return resolve_command(loop, options);
        case Command::locate:
            return locate_command(loop, options, terminate);
        case Command::network:
            return at_once(network_command(options));
        case Command::anchor:
            return anchor_command(loop, options);
        case Command::check:
            return check_command(loop, options);
        case Command::probe:
            return probe_command(loop, options, terminate);
        case Command::home_agent:
            return home_agent_command(loop, options, terminate);
    }
    return status_command(loop, options);
}

Task<int> run_all(core::Loop& loop, Options const& options, int signals) {
    Interrupts interrupts(loop);
    Session session(loop, options);
    core::TaskGroup scope(loop);
    std::stop_source done;
    scope.spawn(watch_signals(loop, signals, interrupts, done.get_token()));
    int const status = co_await dispatch(loop, options, session, interrupts);
    done.request_stop();
    co_await scope.join();
    co_return status;
}

bool is_daemon(Options::Command command) {
    using Command = Options::Command;
    return command == Command::run || command == Command::attach || command == Command::serve ||
           command == Command::incoming || command == Command::failover ||
           command == Command::watchdog || command == Command::libvirt_monitor ||
           command == Command::home_agent;
}

int main(int argc, char** argv) {
    auto const parsed = parse_options(argc, argv);
    if (auto const* status = std::get_if<int>(&parsed)) return *status;
    auto const& options = std::get<Options>(parsed);
    core::log::set_level(options.verbose              ? core::log::Level::debug
                         : is_daemon(options.command) ? core::log::Level::info
                                                      : core::log::Level::warning);
    auto const signals = take_signals();
    if (options.command == Options::Command::anchor_holder)
        return anchor_holder();  // needs no loop
    if (options.command == Options::Command::libvirt_monitor)
        return libvirt::serve_monitor(options.libvirt_monitor);  // waits in libvirt
    auto loop = core::Loop::create();
    if (!loop) return complain(loop.error());
    return (*loop)->run(run_all(**loop, options, signals.get()));
}

}  // namespace
}  // namespace sidecar

int main(int argc, char** argv) { return sidecar::main(argc, argv); }
