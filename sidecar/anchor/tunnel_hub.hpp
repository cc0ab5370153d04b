// TunnelHub: the one Hub of this host's anchors, opened with the first tunnel: a host that has none
// listens on no UDP port.
#pragma once

#include <memory>

#include "netmove/tunnel/tunnel.hpp"

namespace sidecar {

class TunnelHub {
public:
    TunnelHub(core::Loop& loop, std::uint16_t port) : loop_(loop), port_(port) {}
    /// Fails with the error of the socket, naming the port and the option that changes it.
    core::Result<netmove::tunnel::Hub*> open() {
        if (hub_) return hub_.get();
        if (closed_) return core::fail(core::Errc::cancelled, "`serve` is ending");
        auto opened = netmove::tunnel::Hub::open(loop_, {.listen = "[::]", .port = port_});
        if (!opened) {
            return std::unexpected(
                std::move(opened.error())
                    .while_doing(fmt::format(
                        "opening UDP port {} for tunnels (`serve --tunnel-port` names another)",
                        port_)));
        }
        hub_ = std::move(*opened);
        return hub_.get();
    }
    /// Ends the tunnel `id`; nothing if there is none.
    core::Task<void> remove(std::uint64_t id) {
        if (hub_) co_await hub_->remove(id);
    }
    core::Task<void> close() {
        closed_ = true;
        if (hub_) co_await hub_->close();
        hub_.reset();
    }

private:
    core::Loop& loop_;
    std::uint16_t port_;
    std::unique_ptr<netmove::tunnel::Hub> hub_;
    bool closed_ = false;
};

}  // namespace sidecar
