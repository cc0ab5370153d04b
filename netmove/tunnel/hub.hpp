// Hub's implementation: the socket, and all tunnels on it. Only hub.cpp and fuzzers use it.
// Invariant: a datagram whose id is not of a tunnel costs one look-up and no memory.
#pragma once

#include <memory>
#include <unordered_map>

#include "netmove/tunnel/end.hpp"

namespace netmove::tunnel {

class SocketHub final : public Hub {
public:
    SocketHub(core::Loop& loop, Socket socket, std::unique_ptr<DtlsContext> dtls);
    ~SocketHub() override;
    [[nodiscard]] std::uint16_t port() const override { return parts_.socket.port(); }
    core::Result<Tunnel*> add(Key key, Role role, std::optional<Endpoint> peer) override;
    core::Task<void> remove(std::uint64_t id) override;
    core::Task<void> close() override;
    [[nodiscard]] std::uint64_t strangers() const override { return strangers_; }

private:
    core::Task<void> receive(std::stop_token stop);
    core::Task<void> send_waiting(std::stop_token stop);
    void take(Arrival const& arrival, core::Clock::time_point now);

    Parts parts_;
    std::unordered_map<std::uint64_t, std::unique_ptr<End>> ends_;
    core::TaskGroup tasks_;
    std::stop_source stop_;
    std::uint64_t strangers_ = 0;
};

}  // namespace netmove::tunnel
