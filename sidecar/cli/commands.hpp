// The commands that talk to a guest's sidecar and print its answers for people. Each returns
// the exit status.
#pragma once

#include "sidecar/channel/connection.hpp"
#include "sidecar/cli/interrupt.hpp"
#include "sidecar/cli/options.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

// Each returns a machine::ExitStatus.

/// Asks for the migration, shows its progress, writes the report. interrupt.hpp says what SIGINT
/// and SIGTERM do.
core::Task<int> migrate_command(core::Loop& loop, Options options, Interrupts& interrupts);
core::Task<int> status_command(core::Loop& loop, Options options);
core::Task<int> set_command(core::Loop& loop, Options options);
core::Task<int> cancel_command(core::Loop& loop, Options options);
core::Task<int> resolve_command(core::Loop& loop, Options options);
/// What this host offers; 0 if it can run and receive guests, 3 if something is missing.
core::Task<int> check_command(core::Loop& loop, Options options);

/// `sidecar anchor`: asks the `serve` of this host.
core::Task<int> anchor_command(core::Loop& loop, Options options);

/// `sidecar network`: contacts no sidecar, and does not suspend.
int network_command(Options const& options);

/// Begins or ends the replication of a guest. An interrupt ends a replication that is just
/// beginning, or a `--once`.
core::Task<int> replicate_command(core::Loop& loop, Options options, core::Event& interrupted);
/// Opens a new connection to the guest's sidecar. Fails with refused if there is none.
core::Task<core::Result<std::unique_ptr<Connection>>> reach_sidecar(core::Loop& loop,
                                                                    Options const& options,
                                                                    Handler& handler);
/// A command's end of a control socket, if the command needs no progress.
class NoProgress : public Handler {
public:
    core::Task<core::Result<protocol::Packed>> handle(Connection&, protocol::Call) override {
        co_return protocol::Packed{};
    }
};
/// Sends one request to the guest's sidecar.
template <class Request>
core::Task<core::Result<typename Request::Answer>> ask_sidecar(core::Loop& loop, Options options,
                                                               Request request,
                                                               core::Deadline deadline) {
    NoProgress listener;
    CO_TRY(auto connection, co_await reach_sidecar(loop, options, listener));
    core::TaskGroup scope(loop);
    scope.spawn(connection->run({}));
    auto answer = co_await connection->request(std::move(request), std::move(deadline));
    connection->close();
    co_await scope.join();
    co_return answer;
}
/// What `status` reports about the copy of a guest that has no sidecar here; null: there is none.
core::Json copy_status(Paths const& paths, std::string const& guest);
/// The lines of `status` about a replication, at either end.
void show_replication(core::Json const& status);

/// Prints `error: SENTENCE` and returns the exit status for it.
int complain(core::Error const& error);

}  // namespace sidecar
