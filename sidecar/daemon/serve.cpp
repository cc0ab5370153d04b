#include "sidecar/daemon/serve.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "core/log.hpp"
#include "core/notify.hpp"
#include "core/process.hpp"
#include "sidecar/anchor/anchor_service.hpp"
#include "sidecar/channel/hung_up.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/daemon/host_lease.hpp"
#include "sidecar/daemon/vtep_service.hpp"
#include "sidecar/guest/left_devices.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;
using Security = core::TlsCredentials;

namespace {

/// Sources connected at the same time. Each costs a TLS session and two tasks.
constexpr std::size_t sources_max = 128;
/// TLS handshake and hello: the time for which an unauthenticated peer may occupy one of them.
constexpr auto hello_timeout = std::chrono::seconds(10);
constexpr auto incoming_start_timeout = std::chrono::seconds(15);
/// A guest that is just leaving this host (or an aborted migration) is gone within moments; then a
/// new sidecar is started.
constexpr int reach_tries_max = 50;
constexpr std::size_t relay_buffer_bytes = 64 * 1024;
constexpr int ready_fd_in_child = 3;

class Server {
public:
    /// `anchors` must outlive it; null: this host can hold none.
    Server(core::Loop& loop, SessionSettings options, std::shared_ptr<Security> credentials,
           AnchorService* anchors, std::stop_token token)
        : loop_(loop),
          options_(std::move(options)),
          credentials_(std::move(credentials)),
          anchors_(anchors),
          token_(std::move(token)),
          tasks_(loop) {}

    Task<void> accept_sources(int listener);

private:
    Task<void> receive(core::Fd socket);
    Task<Result<>> introduce(std::unique_ptr<Messages>& from);
    Task<Result<>> accept(Messages& source);
    Task<Result<std::unique_ptr<Messages>>> reach(std::string guest, protocol::Peer who);
    Task<Result<core::Fd>> start_incoming(std::string guest);
    Task<void> reap(core::Process process);
    Task<void> relay(core::Stream& from, core::Stream& to, std::stop_source& stop);

    core::Loop& loop_;
    SessionSettings options_;
    std::shared_ptr<Security> credentials_;
    AnchorService* anchors_;
    std::stop_token token_;
    core::TaskGroup tasks_;
};

Task<void> Server::accept_sources(int listener) {
    for (;;) {
        auto const accepted = co_await loop_.accept(listener, Deadline::never(token_));
        if (!accepted && accepted.error().code == Errc::cancelled) break;
        if (!accepted) {
            core::log::warning("serve: {}", accepted.error().sentence());
            (void)co_await core::sleep_for(loop_, limits::retry_pause_max, token_);
            continue;
        }
        core::Fd socket(*accepted);
        if (tasks_.running() >= sources_max) {
            core::log::warning("serve: peer={} refused: {} sources are connected already",
                               core::peer_name(socket.get()), sources_max);
            continue;
        }
        tasks_.spawn(receive(std::move(socket)));
    }
    if (anchors_ != nullptr) co_await anchors_->close();  // ends what waits for a tunnel
    co_await tasks_.join();
}

Task<void> Server::receive(core::Fd socket) {
    auto const name = core::peer_name(socket.get());
    auto stream =
        co_await core::secure(loop_, std::move(socket), credentials_, Security::Side::server, "",
                              Deadline::after(hello_timeout, token_));
    if (!stream) {
        core::log::warning("serve: peer={} refused: {}", name, stream.error().sentence());
        co_return;
    }
    auto source = std::make_unique<Messages>(std::move(*stream));
    auto const introduced = co_await introduce(source);
    if (introduced) co_return;
    core::log::warning("serve: peer={} {}", name, introduced.error().sentence());
    if (!source) co_return;
    (void)co_await source->send(protocol::Refusal{introduced.error().sentence()}.to_json(),
                                Deadline::after(hello_timeout, token_));
}

/// Hello, the guest's sidecar, then the relay until one side ends. Fails only before the relay.
Task<Result<>> Server::introduce(std::unique_ptr<Messages>& from) {
    auto& source = *from;
    CO_TRY(auto const message, co_await source.receive(Deadline::after(hello_timeout, token_)));
    CO_TRY(auto const hello, protocol::Hello::from_json(message.json));
    if (hello.role == protocol::Role::vtep_source) {
        CO_TRY_VOID(co_await accept(source));
        core::log::info("serve: guest={} migration_id={} peer={} asks this host as a VTEP",
                        hello.guest, hello.migration_id, source.stream().peer());
        co_return co_await serve_vtep(loop_, std::move(from), token_);
    }
    if (hello.role == protocol::Role::anchor_source) {
        if (anchors_ == nullptr) co_return fail(Errc::refused, "this host can hold no anchors");
        CO_TRY_VOID(co_await accept(source));
        core::log::info("serve: guest={} migration_id={} peer={} asks this host as its anchor",
                        hello.guest, hello.migration_id, source.stream().peer());
        co_await anchors_->serve_source(std::move(from), token_);
        co_return Result<>{};
    }
    protocol::Peer const who{hello.migration_id, source.stream().peer(), hello.role,
                             hello.features};
    CO_TRY(auto const sidecar, co_await reach(hello.guest, who));
    CO_TRY_VOID(co_await accept(source));
    std::stop_source stop;
    std::stop_callback outer(token_, [&stop] { stop.request_stop(); });
    core::TaskGroup both(loop_);
    both.spawn(relay(source.stream(), sidecar->stream(), stop));
    both.spawn(relay(sidecar->stream(), source.stream(), stop));
    co_await both.join();
    co_return Result<>{};
}

Task<Result<>> Server::accept(Messages& source) {
    co_return co_await source.send(protocol::Welcome{}.to_json(),
                                   Deadline::after(hello_timeout, token_));
}

Task<void> Server::relay(core::Stream& from, core::Stream& to, std::stop_source& stop) {
    std::vector<std::byte> buffer(relay_buffer_bytes);
    for (;;) {
        auto const got = co_await from.read_some(buffer, Deadline::never(stop.get_token()));
        if (!got) break;
        auto const sent =
            co_await to.write_all(std::span(buffer).first(*got),
                                  Deadline::after(limits::connect_timeout, stop.get_token()));
        if (!sent) break;
    }
    stop.request_stop();
}

/// Connects to the guest's sidecar, which accepts this peer; starts the sidecar if there is none.
Task<Result<std::unique_ptr<Messages>>> Server::reach(std::string guest, protocol::Peer who) {
    core::Error last;
    for (int attempt = 0; attempt < reach_tries_max; ++attempt) {
        auto const path = options_.paths.control_socket(guest);
        auto socket = co_await core::connect_unix(loop_, path,
                                                  Deadline::after(limits::connect_timeout, token_));
        if (!socket) socket = co_await start_incoming(guest);
        if (!socket) co_return std::unexpected(socket.error());
        auto messages =
            std::make_unique<Messages>(core::plain_stream(loop_, std::move(*socket), guest));
        auto const deadline = Deadline::after(limits::qmp_timeout, token_);
        auto const answer = co_await messages->ask(who, deadline);
        if (answer) co_return messages;
        last = answer.error();
        // A sidecar that is just ending closes the connection, possibly before it read our request.
        if (!hung_up(last)) break;
        CO_TRY_VOID(co_await core::sleep_for(loop_, limits::retry_pause_min * 2, token_));
    }
    co_return std::unexpected(last);
}

Task<Result<core::Fd>> Server::start_incoming(std::string guest) {
    std::vector<std::string> argv{own_program(),
                                  "incoming",
                                  guest,
                                  "--run-dir",
                                  options_.paths.run_directory,
                                  "--state-dir",
                                  options_.paths.state_directory,
                                  "--ready-fd",
                                  std::to_string(ready_fd_in_child)};
    auto const& serve_options = options_.serve;
    if (options_.verbose) argv.push_back("--verbose");
    if (!options_.paths.registry.empty())
        argv.insert(argv.end(), {"--registry", options_.paths.registry});
    switch (serve_options.tls.mode) {
        case core::TlsConfig::Mode::plaintext:
            argv.push_back("--plaintext");
            break;
        case core::TlsConfig::Mode::psk:
            argv.insert(argv.end(), {"--key", serve_options.tls.path});
            break;
        case core::TlsConfig::Mode::x509:
            argv.insert(argv.end(), {"--tls-dir", serve_options.tls.path});
            break;
    }
    for (auto const& [from, to] : serve_options.maps.paths)
        argv.insert(argv.end(), {"--map-path", from + "=" + to});
    for (auto const& [from, to] : serve_options.maps.bridges)
        argv.insert(argv.end(), {"--map-bridge", from + "=" + to});
    for (auto const& [from, to] : serve_options.maps.addresses)
        argv.insert(argv.end(), {"--map-address", from + "=" + to});
    if (!serve_options.libvirt_uri.empty())
        argv.insert(argv.end(), {"--libvirt-uri", serve_options.libvirt_uri});
    argv.insert(argv.end(), {"--data-ports", serve_options.data_ports.text()});
    auto const add_each = [&](char const* option, std::vector<std::string> const& values) {
        for (auto const& value : values) argv.insert(argv.end(), {option, value});
    };
    add_each("--qemu", serve_options.maps.programs);
    add_each("--allow-path", serve_options.maps.allowed_paths);
    add_each("--allow-bridge", serve_options.maps.allowed_bridges);
    add_each("--allow-device", serve_options.maps.allowed_devices);
    if (auto const& swtpm = serve_options.maps.swtpm; swtpm.starts_with('/'))
        argv.insert(argv.end(), {"--swtpm", swtpm});
    if (!serve_options.disk_command.empty())
        argv.insert(argv.end(), {"--disk-command", serve_options.disk_command});
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) co_return fail_errno(errno, "cannot make a pipe");
    core::Fd reader(ends[0]);
    core::Fd writer(ends[1]);
    core::SpawnOptions settings;
    settings.descriptors = {{writer.get(), ready_fd_in_child}};
    settings.new_session = true;  // it must outlive this process
    CO_TRY(auto process, core::spawn(argv, settings));
    writer.reset();
    tasks_.spawn(reap(std::move(process)));
    std::string word;
    for (;;) {
        std::byte buffer[512];
        CO_TRY(int const got, co_await loop_.read(reader.get(), buffer,
                                                  Deadline::after(incoming_start_timeout, token_)));
        if (got == 0) break;
        word.append(reinterpret_cast<char const*>(buffer), static_cast<std::size_t>(got));
    }
    if (word != "1") {
        co_return fail(Errc::refused, "no sidecar could be started for {}: {}", guest,
                       word.empty() ? "it ended" : word);
    }
    co_return co_await core::connect_unix(loop_, options_.paths.control_socket(guest),
                                          Deadline::after(limits::connect_timeout, token_));
}

Task<void> Server::reap(core::Process process) {
    (void)co_await core::wait_exit(loop_, process, Deadline::never(token_));
}

}  // namespace

Task<Result<>> serve(core::Loop& loop, SessionSettings options, std::stop_token terminate) {
    CO_TRY(auto credentials, Security::load(options.serve.tls, Security::Side::server));
    CO_TRY(auto const address, core::split_host_port(options.serve.listen, default_port));
    CO_TRY_VOID(make_directory(options.paths.run_directory));
    CO_TRY_VOID(make_directory(options.paths.state_directory));
    CO_TRY(auto const listener,
           core::listen_tcp(address.first == "::" ? "" : address.first, address.second));
    CO_TRY(int const port, core::local_port(listener.get()));
    if (options.serve.tls.mode == core::TlsConfig::Mode::plaintext) {
        core::log::warning(
            "serve: without encryption and authentication: anyone who can reach port {} controls "
            "the guests",
            port);
    }
    keep_left_devices(options.paths);
    core::log::info("serve: listening on {} port {}", address.first, port);
    auto const socket = options.paths.serve_socket();
    CO_TRY(auto const local, core::listen_unix(socket, 0600));
    // Without netlink this host can still receive guests that have no network.
    auto const opened = AnchorService::open(loop, {options.paths, options.serve.tunnel_port, port,
                                                   options.serve.maps, options.serve.tls});
    if (!opened) core::log::warning("serve: {}", opened.error().sentence());
    auto* const anchors = opened ? opened->get() : nullptr;
    core::TaskGroup beside(loop);
    if (anchors != nullptr) {
        beside.spawn(anchors->restore(terminate));
        beside.spawn(anchors->watch_sessions(terminate));
        beside.spawn(anchors->serve_local(local.get(), terminate));
    }
    core::notify_ready();
    beside.spawn(hold_host_lease(loop, options, terminate));
    Server server(loop, std::move(options), std::move(credentials), anchors, terminate);
    co_await server.accept_sources(listener.get());
    ::unlink(socket.c_str());
    co_await beside.join();
    co_return Result<>{};
}

}  // namespace sidecar
