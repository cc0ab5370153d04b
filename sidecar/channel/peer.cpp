#include "sidecar/channel/peer.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/channel/hung_up.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

PeerChannel::PeerChannel(core::Loop& loop, Config config, std::function<void(bool)> changed)
    : loop_(loop), config_(std::move(config)), changed_(std::move(changed)), back_(loop) {}

PeerChannel::~PeerChannel() = default;

Task<Result<>> PeerChannel::connect(Deadline deadline) {
    CO_TRY(connection_, co_await dial(deadline));
    co_return Result<>{};
}

Task<Result<std::unique_ptr<Connection>>> PeerChannel::dial(Deadline deadline) {
    using Side = core::TlsCredentials::Side;
    CO_TRY(auto const address, core::split_host_port(config_.destination, default_port));
    if (!credentials_) {
        CO_TRY(credentials_, core::TlsCredentials::load(config_.tls, Side::client));
    }
    CO_TRY(auto socket, co_await reach(address.first, address.second, deadline));
    CO_TRY(auto stream, co_await core::secure(loop_, std::move(socket), credentials_, Side::client,
                                              address.first, deadline));
    auto messages = std::make_unique<Messages>(std::move(stream));
    protocol::Hello const hello{config_.guest, config_.migration_id, config_.role};
    auto const sent = co_await messages->send(hello.to_json(), deadline);
    // In TLS 1.3 our handshake ends before the other side has checked our identity. Its refusal may
    // arrive while we send the hello or wait for the answer.
    auto answer = sent ? co_await messages->receive(deadline) : std::unexpected(sent.error());
    // `protocol`: no message, but a TLS server's reply to a plaintext hello.
    bool const stranger =
        !answer && (hung_up(answer.error()) || answer.error().code == Errc::protocol);
    if (stranger) {
        co_return fail(
            Errc::refused,
            "{} does not answer the greeting: is that a `sidecar serve`, and does it use "
            "the same key or certificates?",
            config_.destination);
    }
    if (!answer) co_return std::unexpected(std::move(answer.error()));
    if (auto const refusal = protocol::Refusal::from_json(answer->json)) {
        co_return fail(Errc::refused, "{} refuses: {}", config_.destination, refusal->why);
    }
    auto welcome = protocol::Welcome::from_json(answer->json);
    if (!welcome) {
        co_return std::unexpected(
            std::move(welcome.error()).while_doing("greeting " + config_.destination));
    }
    features_ = std::move(welcome->features);
    if (config_.role == protocol::Role::vtep_source && !offers(protocol::Feature::vtep)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --vtep",
                       config_.destination);
    }
    if (config_.role == protocol::Role::anchor_source && !offers(protocol::Feature::anchor)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for anchors",
                       config_.destination);
    }
    co_return std::make_unique<Connection>(loop_, std::move(messages), *this,
                                           protocol::Role::destination);
}

/// The name is resolved once: later the guest may be stopped, and the resolver unavailable. The
/// address that answered last is tried first.
Task<Result<core::Fd>> PeerChannel::reach(std::string host, std::string port, Deadline deadline) {
    if (addresses_.empty()) {
        CO_TRY(addresses_, co_await core::resolve(loop_, host, port, deadline));
    }
    CO_TRY(auto socket, co_await core::connect_tcp(
                            loop_, addresses_, fmt::format("{} port {}", host, port), deadline));
    CO_TRY(auto const answered, core::peer_address(socket.get()));
    host_ = answered.host();
    auto const at = std::ranges::find(addresses_, host_, &core::SocketAddress::host);
    if (at != addresses_.end()) std::rotate(addresses_.begin(), at, at + 1);
    co_return std::move(socket);
}

Task<void> PeerChannel::keep(std::stop_token token) {
    auto pause = limits::retry_pause_min;
    bool told = false;  // the loss was reported
    for (;;) {
        if (connection_) {
            co_await connection_->run(token);
            rtt_ms_ = connection_->rtt_ms();
            if (token.stop_requested()) break;
            core::log::warning("peer={} state=lost reason=\"{}\"", config_.destination,
                               connection_->ended_because().what);
            changed_(false);
            told = true;
        }
        auto again = co_await dial(Deadline::after(limits::connect_timeout, token));
        if (token.stop_requested()) break;
        if (again) {
            connection_ = std::move(*again);
            pause = limits::retry_pause_min;
            told = false;
            back_.set();
            changed_(true);
            continue;
        }
        connection_.reset();
        if (!told) changed_(false);  // after a restart: not connected so far
        told = true;
        core::log::debug("peer={} reconnect failed: {}", config_.destination,
                         again.error().sentence());
        if (!co_await core::sleep_for(loop_, pause, token)) break;
        pause = std::min(pause * 2, limits::retry_pause_max);
    }
    connection_.reset();  // hangs up, so the other side does not have to wait for its timeout
}

Task<Result<>> PeerChannel::reached(Deadline deadline) {
    if (up()) co_return Result<>{};
    back_.reset();
    if (!co_await back_.wait(deadline)) {
        co_return fail(Errc::timed_out, "there is no connection to {}", config_.destination);
    }
    co_return Result<>{};
}

std::unexpected<core::Error> PeerChannel::no_connection() const {
    return fail(Errc::closed, "there is no connection to {}", config_.destination);
}

Task<Result<protocol::Packed>> PeerChannel::handle(Connection&, protocol::Call call) {
    co_return fail(Errc::protocol,
                   "the destination sent the request `{}`: only the source sends requests",
                   protocol::name(call.verb));
}

}  // namespace sidecar
