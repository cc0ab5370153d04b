// Whether the bridges of two hosts are in one L2 network: one host sends a frame with a number into
// its bridge, and the other listens on its own. The frame is an ARP probe (RFC 5227 2.1.1: its
// sender has no address, so it changes no cache) for an address that no host has. The number is
// where no receiver looks: in the target hardware address.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "netmove/frame.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// Numbers are of 48 bits.
constexpr std::uint64_t adjacency_number_max = (std::uint64_t{1} << 48) - 1;
/// Of the frame from the bridge with that index, when those of a guest are numbered from `first`.
constexpr std::uint64_t adjacency_number_of(std::uint64_t first, std::size_t index) {
    return (first + index) & adjacency_number_max;
}

/// The frame; `source` is the MAC address of the sending bridge.
Bytes adjacency_frame(MacAddress const& source, std::uint64_t number);
/// Its number; none: another frame.
std::optional<std::uint64_t> adjacency_number(ByteView frame);

/// A bridge that can take part: its own port sees what its stations broadcast. It is up, and
/// filters no VLANs, because then the guest may be in another VLAN than the host.
bool can_test_adjacency(Link const& bridge);

/// Sends the frame from the bridge, to all its ports. Fails with netlink or io.
core::Result<> send_adjacency_frame(Link const& bridge, std::uint64_t number);

/// Listens on a bridge from open() on.
class AdjacencyListener {
public:
    /// Fails with netlink, naming the privilege that is missing (CAP_NET_RAW).
    static core::Result<AdjacencyListener> open(Link const& bridge);
    /// Whether the frame with that number has arrived. Does not wait: descriptor() can be polled.
    bool heard(std::uint64_t number);
    [[nodiscard]] int descriptor() const { return socket_.get(); }

private:
    explicit AdjacencyListener(core::Fd socket) : socket_(std::move(socket)) {}
    core::Fd socket_;
};

}  // namespace netmove
