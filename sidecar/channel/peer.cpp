#include "sidecar/channel/peer.hpp"

#include "core/log.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

bool tells_feature(Json const& hello, std::string_view feature) {
    for (auto const& one : hello["features"].elements()) {
        if (one.text_or("") == feature) return true;
    }
    return false;
}

}  // namespace

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
    host_ = address.first;
    if (!credentials_) {
        CO_TRY(credentials_, core::TlsCredentials::load(config_.tls, Side::client));
    }
    CO_TRY(auto socket, co_await core::connect_tcp(loop_, address.first, address.second, deadline));
    CO_TRY(auto stream, co_await core::secure(loop_, std::move(socket), credentials_, Side::client,
                                              host_, deadline));
    auto messages = std::make_unique<Messages>(loop_, std::move(stream));
    auto hello = Json::object({{"hello", "sidecar"},
                               {"version", protocol_version},
                               {"features", Json::array({"bridge", "nbd", "psk"})},
                               {"guest", config_.guest},
                               {"migration_id", config_.migration_id}});
    if (!config_.role.empty()) hello.set("role", config_.role);
    auto const sent = co_await messages->send(hello, deadline);
    // In TLS 1.3 our side of the handshake is over before the other has looked at who we are: its
    // refusal may meet the hello or the answer.
    auto answer = sent ? co_await messages->receive(deadline) : std::unexpected(sent.error());
    if (!answer && answer.error().code == Errc::closed) {
        co_return fail(Errc::refused,
                       "{} ended the connection: is that a `sidecar serve`, and does it use "
                       "the same key or certificates?",
                       config_.destination);
    }
    if (!answer) co_return std::unexpected(std::move(answer.error()));
    if (answer->has("refused")) {
        co_return fail(Errc::refused, "{} refuses: {}", config_.destination,
                       (*answer)["refused"].text_or(""));
    }
    if ((*answer)["version"].integer_or(0) != protocol_version) {
        co_return fail(Errc::refused,
                       "{} speaks version {} of the protocol, this host {}: use the same release",
                       config_.destination, (*answer)["version"].integer_or(0), protocol_version);
    }
    if (config_.role == "vtep" && !tells_feature(*answer, "vtep")) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --vtep",
                       config_.destination);
    }
    co_return std::make_unique<Connection>(loop_, std::move(messages), *this, true);
}

Task<void> PeerChannel::keep(std::stop_token token) {
    auto pause = limits::retry_pause_min;
    bool told = false;  // that it is lost
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
        if (!told) changed_(false);  // after a restart: never reached so far
        told = true;
        core::log::debug("peer={} reconnect failed: {}", config_.destination,
                         again.error().sentence());
        if (!co_await core::sleep_for(loop_, pause, token)) break;
        pause = std::min(pause * 2, limits::retry_pause_max);
    }
    connection_.reset();  // hangs up: the other side need not wait for our silence
}

Task<Result<>> PeerChannel::reached(Deadline deadline) {
    if (up()) co_return Result<>{};
    back_.reset();
    if (!co_await back_.wait(deadline)) {
        co_return fail(Errc::timed_out, "there is no connection to {}", config_.destination);
    }
    co_return Result<>{};
}

Task<Result<Json>> PeerChannel::request(std::string verb, Json arguments, Deadline deadline) {
    if (!up()) co_return fail(Errc::closed, "there is no connection to {}", config_.destination);
    co_return co_await connection_->request(std::move(verb), std::move(arguments), deadline);
}

Task<Result<>> PeerChannel::notify(std::string verb, Json arguments, Deadline deadline) {
    if (!up()) co_return fail(Errc::closed, "there is no connection to {}", config_.destination);
    co_return co_await connection_->notify(std::move(verb), std::move(arguments), deadline);
}

Task<Result<Json>> PeerChannel::handle(Connection&, std::string verb, Json) {
    co_return fail(Errc::protocol, "a destination asks nothing of the source, yet it asked `{}`",
                   verb);
}

}  // namespace sidecar
