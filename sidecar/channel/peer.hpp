// PeerChannel: the source's end of the one authenticated channel to the destination. It connects
// through that host's `serve` and identifies itself. If the connection is lost, it reconnects until
// it is stopped.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/tls.hpp"
#include "sidecar/channel/connection.hpp"

namespace sidecar {

class PeerChannel : public Handler {
public:
    struct Config {
        std::string destination;  ///< HOST[:PORT]
        core::TlsConfig tls;
        std::string guest;
        std::string migration_id;
        protocol::Role role = protocol::Role::source;  ///< Our role, as the other side sees it.
    };
    /// `changed(up)` is called when an established channel is lost and when it is back.
    PeerChannel(core::Loop& loop, Config config, std::function<void(bool)> changed);
    ~PeerChannel() override;

    /// The first connection. Fails with refused (wrong key, other version, or a refusal), io or
    /// timed_out (unreachable).
    core::Task<core::Result<>> connect(core::Deadline deadline);
    /// Keeps the channel until stopped: reconnects with growing pauses. Its owner joins it.
    core::Task<void> keep(std::stop_token token);
    /// As Connection::request(); fails with closed at once while there is no connection.
    template <class Request>
    core::Task<core::Result<typename Request::Answer>> request(Request request,
                                                               core::Deadline deadline) {
        if (!up()) co_return no_connection();
        co_return co_await connection_->request(std::move(request), std::move(deadline));
    }
    template <class Request>
    core::Task<core::Result<>> notify(Request request, core::Deadline deadline) {
        if (!up()) co_return no_connection();
        co_return co_await connection_->notify(std::move(request), std::move(deadline));
    }
    /// What the other side's release supports; known after connect().
    [[nodiscard]] bool offers(protocol::Feature feature) const {
        return features_.contains(feature);
    }
    /// Waits until the channel is up; returns at once if it is.
    core::Task<core::Result<>> reached(core::Deadline deadline);
    [[nodiscard]] bool up() const { return connection_ != nullptr && connection_->open(); }
    /// How long the peer may be silent before it counts as lost: less while the guest is stopped.
    /// For this connection only; the next one begins with limits::heartbeat_silence.
    void set_patience(core::milliseconds patience) {
        if (connection_) connection_->set_patience(patience);
    }
    [[nodiscard]] double rtt_ms() const { return rtt_ms_; }
    /// The host of the destination's data ports: the address that answered last, as a number, so no
    /// name has to be resolved. Empty before the first connection.
    [[nodiscard]] std::string const& host() const { return host_; }

private:
    core::Task<core::Result<std::unique_ptr<Connection>>> dial(core::Deadline deadline);
    core::Task<core::Result<core::Fd>> reach(std::string host, std::string port,
                                             core::Deadline deadline);
    core::Task<core::Result<protocol::Packed>> handle(Connection& from,
                                                      protocol::Call call) override;
    [[nodiscard]] std::unexpected<core::Error> no_connection() const;

    core::Loop& loop_;
    Config config_;
    std::function<void(bool)> changed_;
    std::vector<core::SocketAddress> addresses_;  ///< Of the destination; resolved once.
    std::string host_;
    protocol::Features features_;  ///< Of the other side.
    std::shared_ptr<core::TlsCredentials> credentials_;
    std::unique_ptr<Connection> connection_;
    core::Event back_;  ///< Set by a reconnect.
    double rtt_ms_ = 0;
};

}  // namespace sidecar
