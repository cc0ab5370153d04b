// One connection from a source to a `sidecar incoming` of its own, as `serve` starts them. Used by
// the destination tests that need no guest: they send the source's requests themselves.
#pragma once

#include "core/stream.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/host/paths.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace storage_lab {

struct IncomingOptions {
    std::string guest = "web1";
    std::string migration_id = "m1";
    bool replicate = false;  ///< The role of the peer.
    lab::Argv more = {};     ///< Further options of `sidecar incoming`.
    std::vector<std::string> environment = {};
};

class Incoming {
public:
    Incoming(Runner& runner, std::string const& directory, sidecar::Paths const& paths,
             IncomingOptions const& options)
        : daemon_("incoming-" + lab::unique_suffix(), line(directory, paths, options),
                  {"", options.environment}, directory),
          socket_path_(paths.control_socket(options.guest)) {
        lab::wait_until("the control socket", std::chrono::seconds(20),
                        [&] { return !daemon_.running() || lab::accepts(socket_path_); });
        auto socket = runner.must(
            core::connect_unix(runner.loop(), socket_path_, core::Deadline::after(limit)));
        messages_ = std::make_unique<sidecar::Messages>(
            core::plain_stream(runner.loop(), std::move(socket), "incoming"));
        using sidecar::protocol::Role;
        sidecar::protocol::Peer const peer{
            options.migration_id, "test",
            options.replicate ? Role::replication_source : Role::source,
            sidecar::protocol::our_features()};
        runner.must(ask("peer", peer.to_json()));
    }
    core::Task<core::Result<core::Json>> ask(std::string verb, core::Json arguments) {
        CO_TRY_VOID(co_await send(std::move(verb), std::move(arguments)));
        co_return co_await answer();
    }
    core::Task<core::Result<>> send(std::string verb, core::Json arguments) {
        co_return co_await messages_->send(
            core::Json::object({{"id", ++id_}, {"verb", verb}, {"arguments", arguments}}),
            core::Deadline::after(limit));
    }
    /// The answer to the last request.
    core::Task<core::Result<core::Json>> answer() {
        for (;;) {
            auto const received = co_await messages_->receive(core::Deadline::after(limit));
            if (!received) {
                UNSCOPED_INFO("the incoming sidecar said: " << daemon_.err());
                co_return std::unexpected(received.error());
            }
            auto const& reply = received->json;
            if (reply["id"].integer_or(0) != id_) continue;  // a heartbeat
            if (reply.has("result")) co_return reply["result"];
            co_return std::unexpected(sidecar::error_from_json(reply["error"]));
        }
    }
    /// Closes the connection, as a source that dies; the process ends by itself.
    void hang_up() {
        messages_.reset();
        REQUIRE(daemon_.wait(std::chrono::seconds(20)) == 0);
    }
    void kill() {
        daemon_.kill();
        messages_.reset();
        // The kernel keeps the listener of a killed process until its io_uring is torn down, some
        // milliseconds later. The socket is removed so that the next process does not use that
        // listener.
        lab::fs::remove(socket_path_);
    }
    /// Waits until the process stops at the hook of SIDECAR_TEST_STOP_AT.
    void wait_stopped() {
        lab::wait_until("the test hook", std::chrono::seconds(20), [&] {
            auto const stat = lab::read_file(fmt::format("/proc/{}/stat", daemon_.pid()));
            return stat.find(") T ") != std::string::npos;
        });
    }
    void go_on() { daemon_.signal(SIGCONT); }

private:
    static lab::Argv line(std::string const& directory, sidecar::Paths const& paths,
                          IncomingOptions const& options) {
        lab::Argv argv{lab::program("sidecar"),
                       "incoming",
                       options.guest,
                       "--plaintext",
                       "--run-dir",
                       paths.run_directory,
                       "--state-dir",
                       paths.state_directory,
                       "--allow-path",
                       directory};
        auto const allowed = lab::allow_guests(options.more);
        argv.insert(argv.end(), allowed.begin(), allowed.end());
        argv.insert(argv.end(), options.more.begin(), options.more.end());
        return argv;
    }
    lab::Daemon daemon_;
    std::string socket_path_;
    std::unique_ptr<sidecar::Messages> messages_;
    std::int64_t id_ = 0;
};

}  // namespace storage_lab
