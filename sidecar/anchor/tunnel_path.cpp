#include "sidecar/anchor/tunnel_path.hpp"

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<protocol::AnchorPath>> path_of(netmove::tunnel::Tunnel& tunnel, std::string peer) {
    auto const established =
        co_await tunnel.established(Deadline::after(limits::anchor_established));
    if (!established) {
        // Cancelled: the tunnel was removed meanwhile.
        if (established.error().code == Errc::cancelled)
            co_return std::unexpected(established.error());
        co_return fail(Errc::refused,
                       "no tunnel to {}: {}; UDP to that port must pass from the anchor's host, "
                       "and its answers back: open the port in the firewalls of that host and "
                       "between",
                       peer, established.error().sentence());
    }
    auto const path = co_await tunnel.test_path(Deadline::after(limits::anchor_path_test));
    if (!path) {
        co_return fail(Errc::refused, "the path of the tunnel to {} is unusable: {}", peer,
                       path.error().sentence());
    }
    using std::chrono::duration_cast, std::chrono::microseconds;
    auto const round_trip = duration_cast<microseconds>(path->round_trip).count();
    co_return protocol::AnchorPath{static_cast<std::uint64_t>(round_trip), path->datagram_max};
}

}  // namespace sidecar
