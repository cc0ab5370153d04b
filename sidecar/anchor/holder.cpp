#include "sidecar/anchor/holder.hpp"

#include <fcntl.h>
#include <signal.h>

#include <cerrno>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// After standard input, output and error.
constexpr int first_descriptor = 3;

}  // namespace

Result<core::ProcessIdentity> hold(netmove::Tap const& tap) {
    // It must not keep the files open that `serve` writes to.
    core::Fd const nothing(open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!nothing) return core::fail_errno(errno, "cannot open /dev/null");
    core::SpawnOptions settings;
    for (int queue = 0; queue < tap.queues(); ++queue) {
        settings.descriptors.emplace_back(tap.descriptor(queue), first_descriptor + queue);
    }
    settings.stdout_fd = nothing.get();
    settings.stderr_fd = nothing.get();
    settings.new_session = true;
    TRY(auto const process, core::spawn({own_program(), "anchor-holder", tap.name()}, settings));
    return process.identity();
}

Result<netmove::Tap> held(core::ProcessIdentity const& holder, std::string const& tap) {
    TRY(auto const process, core::Process::open(holder));
    TRY(auto taps, netmove::Tap::duplicate_from(process.pid()));
    for (auto& one : taps) {
        if (one.name() == tap) return std::move(one);
    }
    return fail(Errc::closed, "the process {} does not hold the tap {}", process.pid(), tap);
}

core::Task<void> end_holder(core::Loop& loop, core::ProcessIdentity holder) {
    auto const process = core::Process::open(holder);
    if (!process) co_return;
    (void)process->signal(SIGKILL);  // it has nothing to do before it ends
    auto const ended =
        co_await core::wait_exit(loop, *process, core::Deadline::after(limits::rollback_timeout));
    if (!ended) core::log::warning("anchor holder={} {}", holder.pid, ended.error().sentence());
}

int anchor_holder() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    int number = 0;
    sigwait(&set, &number);  // blocked by main()
    return 0;
}

}  // namespace sidecar
