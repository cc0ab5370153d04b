#include "sidecar/watchdog.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include <cerrno>

#include "core/log.hpp"
#include "netmove/bridge_mover.hpp"
#include "qmp/machine.hpp"
#include "qmp/migration.hpp"
#include "sidecar/guest_freeze.hpp"
#include "sidecar/journal.hpp"
#include "sidecar/limits.hpp"
#include "sidecar/resume.hpp"
#include "sidecar/source_migration.hpp"
#include "sidecar/throttle.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

/// Beyond the pause limit, which the sidecar itself keeps: only a sidecar that hangs gets here.
constexpr auto watchdog_margin = std::chrono::milliseconds(500);
/// Tries to get hold of journal and QEMU after the sidecar's end; another sidecar may be there
/// first.
constexpr int recovery_tries_max = 20;

constexpr int pipe_in_child = 3;

/// The limits that the record says the user had.
Task<Result<>> unthrottle(qmp::Client& client, Places places, std::string guest,
                          Deadline deadline) {
    CO_TRY(auto const record, SourceMigration::read_record(places, guest));
    co_return co_await Throttle::put_back(client, record["throttle"], deadline);
}

/// The addresses were fired to the other host at STOP: they come back with the guest. What is known
/// of them is in the record of the migration; the taps are QEMU's own.
Result<> announce_from_here(core::Loop& loop, Places const& places, std::string const& guest) {
    TRY(auto const manifest, read_manifest(places, guest));
    TRY(auto const record, SourceMigration::read_record(places, guest));
    TRY(auto netlink, netmove::Netlink::open());
    TRY(auto const taps,
        netmove::Tap::duplicate_from(static_cast<pid_t>(manifest["pid"].integer_or(0))));
    for (auto const& entry : record["description"]["interfaces"].elements()) {
        TRY(auto const interface, netmove::GuestInterface::from_json(entry));
        for (auto const& tap : taps) {
            if (interface.bridge.empty() || tap.name() != interface.tap) continue;
            TRY_VOID(netmove::bridge_mover_source(loop, netlink, tap, interface)->rollback());
        }
    }
    return {};
}

/// The sidecar is dead: whoever holds the journal now may act. True when there is nothing more to
/// do.
Task<bool> bring_back(core::Loop& loop, Places const& places, std::string const& guest,
                      std::string qmp_socket) {
    auto journal = Journal::open(places.state(guest));
    if (!journal) {
        core::log::info("watchdog guest={} another sidecar is there: nothing to do", guest);
        co_return journal.error().code == Errc::refused;
    }
    auto last = journal->last();
    if (last.role != "source" || (last.record != "begun" && last.record != "rolled_back"))
        co_return true;
    auto client =
        co_await qmp::Client::connect(loop, qmp_socket, Deadline::after(limits::qmp_timeout));
    if (!client) {
        core::log::warning("watchdog guest={} {}", guest, client.error().sentence());
        co_return client.error().code ==
            Errc::closed;  // QEMU has ended: nothing left to bring back
    }
    auto const deadline = Deadline::after(limits::rollback_timeout);
    (void)co_await qmp::cancel_migration(**client,
                                         deadline);  // what came of it, query-status tells
    auto const status = co_await qmp::query_status(**client, deadline);
    if (status && !status->running && status->status != "finish-migrate" &&
        last.record == "begun") {
        // The migration had completed: from here on no COMMIT of this epoch may ever count.
        last.record = "rolled_back";
        if (auto const recorded = journal->record(last); !recorded) {
            core::log::error("watchdog guest={} {}", guest, recorded.error().sentence());
            co_await (*client)->close();
            co_return false;
        }
    }
    auto const resumed = co_await ensure_running(**client, deadline);
    auto const unthrottled = co_await unthrottle(**client, places, guest, deadline);
    co_await (*client)->close();
    if (!unthrottled) {
        core::log::error("watchdog guest={} its disks are still throttled: {}", guest,
                         unthrottled.error().sentence());
    }
    if (!resumed) {
        core::log::error("watchdog guest={} could not resume it: {}", guest,
                         resumed.error().sentence());
        co_return false;
    }
    core::log::warning("watchdog guest={} the guest runs on the source again", guest);
    if (auto const announced = announce_from_here(loop, places, guest); !announced) {
        core::log::error("watchdog guest={} its addresses could not be announced: {}", guest,
                         announced.error().sentence());
    }
    co_return true;
}

/// True when there is nothing more to do.
Task<bool> thaw(core::Loop& loop, Places const& places, std::string const& guest) {
    auto const thawed =
        co_await thaw_left(loop, places, guest, Deadline::after(limits::agent_timeout));
    if (thawed) co_return true;
    core::log::error("watchdog guest={} {}", guest, thawed.error().sentence());
    co_return false;
}

enum class Word { quit, lost, hung };

/// Reads the sidecar's words until it ends, says goodbye, or hangs: is silent for `limit` after it
/// said that the guest is stopped.
Task<Word> listen(core::Loop& loop, int pipe_fd, core::milliseconds limit) {
    auto deadline = Deadline::never();
    for (;;) {
        std::byte word{};
        auto const got = co_await loop.read(pipe_fd, {&word, 1}, deadline);
        if (!got && got.error().code == Errc::timed_out) co_return Word::hung;
        if (!got || *got == 0) co_return Word::lost;
        switch (static_cast<char>(word)) {
            case 'S':
                deadline = Deadline::after(limit);
                break;
            case 'R':
                deadline = Deadline::never();
                break;
            default:
                co_return Word::quit;
        }
    }
}

}  // namespace

Result<std::unique_ptr<Watchdog>> Watchdog::start_thawing(Places const& places,
                                                          std::string const& guest) {
    return start(places, guest, "");
}

Result<std::unique_ptr<Watchdog>> Watchdog::start(Places const& places, std::string const& guest,
                                                  std::string const& qmp_socket) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "cannot make a pipe");
    core::Fd reader(ends[0]);
    auto watchdog = std::make_unique<Watchdog>();
    watchdog->pipe_.reset(ends[1]);
    core::SpawnOptions options;
    options.descriptors = {{reader.get(), pipe_in_child}};
    options.new_session = true;  // a signal to our group must not take both
    std::vector<std::string> argv{own_program(),
                                  "watchdog",
                                  guest,
                                  "--run-dir",
                                  places.run_directory,
                                  "--state-dir",
                                  places.state_directory,
                                  "--ready-fd",
                                  std::to_string(pipe_in_child)};
    if (!qmp_socket.empty()) argv.insert(argv.end(), {"--qmp", qmp_socket});
    TRY(watchdog->process_, core::spawn(argv, options));
    return watchdog;
}

void Watchdog::say(char word) {
    // A pipe that is full or broken means a watchdog that is gone; the migration does not depend on
    // it.
    [[maybe_unused]] auto written = ::write(pipe_.get(), &word, 1);
}

Task<void> Watchdog::end(core::Loop& loop) {
    say('Q');
    pipe_.reset();
    (void)co_await core::wait_exit(loop, process_, Deadline::after(limits::rollback_timeout));
}

Task<int> watchdog_main(core::Loop& loop, Places places, std::string guest, std::string qmp_socket,
                        int pipe_fd) {
    auto const sidecar = core::Process::open(getppid());
    core::Fd pipe(pipe_fd);
    bool const thaws = qmp_socket.empty();
    auto const word =
        co_await listen(loop, pipe.get(),
                        thaws ? core::milliseconds(limits::agent_watchdog_limit)
                              : core::milliseconds(limits::pause_max + watchdog_margin));
    if (word == Word::quit) co_return 0;
    if (word == Word::hung && sidecar) {
        core::log::error("watchdog guest={} stopped for too long and its sidecar hangs: killing it",
                         guest);
        (void)sidecar->signal(SIGKILL);
    }
    // The pipe ends before the process has: only its real end frees the journal and the monitor.
    if (sidecar)
        (void)co_await core::wait_exit(loop, *sidecar, Deadline::after(limits::rollback_timeout));
    for (int attempt = 0; attempt < recovery_tries_max; ++attempt) {
        if (thaws ? co_await thaw(loop, places, guest)
                  : co_await bring_back(loop, places, guest, qmp_socket)) {
            co_return 0;
        }
        (void)co_await core::sleep_for(loop, limits::retry_pause_min * (attempt + 1));
    }
    co_return 1;
}

}  // namespace sidecar
