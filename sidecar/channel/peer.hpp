// PeerChannel: the source's end of the one authenticated channel to the destination. It connects
// through that host's `serve`, says who is asking, and when the connection is lost, connects again
// until stopped.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/tls.hpp"
#include "sidecar/channel/connection.hpp"

namespace sidecar {

/// Version of the messages. Both sides must speak the same; features are listed beside it.
constexpr int protocol_version = 1;

class PeerChannel : public Handler {
public:
    struct Config {
        std::string destination;  ///< HOST[:PORT]
        core::TlsConfig tls;
        std::string guest;
        std::string migration_id;
        std::string role = {};  ///< "replicate": a round of a replication; "vtep": see vteps.hpp.
    };
    /// `changed(up)` is called when an established channel is lost and when it is back.
    PeerChannel(core::Loop& loop, Config config, std::function<void(bool)> changed);
    ~PeerChannel() override;

    /// The first connection. Fails with refused (wrong key, other version, no), io or timed_out
    /// (unreachable).
    core::Task<core::Result<>> connect(core::Deadline deadline);
    /// Keeps the channel until stopped: reconnects with growing pauses. Joined by its owner.
    core::Task<void> keep(std::stop_token token);
    core::Task<core::Result<core::Json>> request(std::string verb, core::Json arguments,
                                                 core::Deadline deadline);
    /// Without an answer; before any later request of the same connection.
    core::Task<core::Result<>> notify(std::string verb, core::Json arguments,
                                      core::Deadline deadline);
    /// Waits until it is up; at once when it is.
    core::Task<core::Result<>> reached(core::Deadline deadline);
    [[nodiscard]] bool up() const { return connection_ != nullptr && connection_->open(); }
    /// How long the peer may be silent before it counts as lost: less while the guest is stopped.
    /// For this connection; the next one begins with limits::heartbeat_silence.
    void set_patience(core::milliseconds patience) {
        if (connection_) connection_->set_patience(patience);
    }
    [[nodiscard]] double rtt_ms() const { return rtt_ms_; }
    /// Where the destination's data ports are: the host part of the destination.
    [[nodiscard]] std::string const& host() const { return host_; }

private:
    core::Task<core::Result<std::unique_ptr<Connection>>> dial(core::Deadline deadline);
    core::Task<core::Result<core::Json>> handle(Connection& from, std::string verb,
                                                core::Json arguments) override;

    core::Loop& loop_;
    Config config_;
    std::function<void(bool)> changed_;
    std::string host_;
    std::shared_ptr<core::TlsCredentials> credentials_;
    std::unique_ptr<Connection> connection_;
    core::Event back_;  ///< Set by a reconnect.
    double rtt_ms_ = 0;
};

}  // namespace sidecar
