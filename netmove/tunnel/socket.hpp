// The UDP socket of a Hub: batches in (recvmmsg, UDP_GRO) and out (UDP_SEGMENT). Used by hub.cpp
// and end*.cpp. Datagrams are never fragmented by IP: the don't-fragment bit is set in both
// families.
//
// Invariant: what was put into an Outgoing is sent in its order or dropped by the kernel. If the
// socket's buffer is full it waits here, and no tap is read meanwhile (see blocked()).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "netmove/frame.hpp"
#include "netmove/tunnel/datagram.hpp"
#include "netmove/tunnel/tunnel.hpp"

namespace netmove::tunnel {

/// Where datagrams go, and from which of our addresses: that which the peer, and a NAT before it,
/// knows. Interfaces are numbered only for link-local addresses.
struct Path {
    Endpoint peer;
    std::uint32_t peer_scope = 0;
    std::optional<Address> local;  ///< None: as the route says.
    std::uint32_t local_scope = 0;
    bool operator==(Path const&) const = default;
};

/// Bytes of IP and UDP headers on a path.
[[nodiscard]] inline std::size_t header_size(Path const& path) {
    return path.peer.address.is_ipv4() ? 28 : 48;
}

/// Messages of one recvmmsg, each with room for what UDP_GRO puts together (64 KiB).
constexpr unsigned arrivals_max = 8;
constexpr std::size_t arrival_room = 65'536;

/// What came in one message: datagrams of `segment` bytes each; the last may be shorter.
struct Arrival {
    Path path;
    ByteView bytes;
    std::size_t segment = 0;
};

class Socket {
public:
    static core::Result<Socket> open(HubOptions const& options);
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] std::uint16_t port() const { return port_; }

    /// Takes what waits, at most arrivals_max messages; valid until the next call. `more`: there
    /// may be more.
    std::vector<Arrival> const& receive(bool& more);
    /// Sends `bytes`, as datagrams of `segment` bytes if it is less. 0, or errno.
    [[nodiscard]] int send(Path const& path, ByteView bytes, std::size_t segment) const;

private:
    Socket() = default;
    core::Result<> set_up(int family, HubOptions const& options);
    void prepare_batch();

    struct Batch;
    struct BatchDelete {
        void operator()(Batch* batch) const;
    };
    core::Fd fd_;
    int family_ = AF_INET6;
    std::uint16_t port_ = 0;
    std::unique_ptr<Batch, BatchDelete> batch_;
    std::vector<Arrival> arrivals_;
};

/// Datagrams of one UDP_SEGMENT at most: UDP_MAX_SEGMENTS before Linux 6.9.
constexpr std::size_t segments_max = 64;
/// Bytes of one UDP_SEGMENT: what an IPv4 packet holds, less the headers.
constexpr std::size_t burst_max = 65'507;
/// Bursts that may wait. A frame is read only when none waits; the largest makes two, and what was
/// packed before it two.
constexpr std::size_t bursts_max = 6;

/// Collects datagrams of one size into bursts. One for all tunnels of a Hub.
class Outgoing {
public:
    explicit Outgoing(Socket& socket) : socket_(socket) {}
    /// From now on until finish() datagrams go there.
    void begin(Path const& path);
    /// Adds one datagram: the id and a record.
    void put(std::uint64_t id, ByteView record);
    /// Sends what is collected, as far as the socket takes it.
    void finish();
    /// The socket did not take all: poll it for POLLOUT, then call retry().
    [[nodiscard]] bool blocked() const { return waiting_ != 0; }
    void retry();
    /// Whether the kernel said that a datagram is too long for an interface; asking forgets it.
    [[nodiscard]] bool take_too_long() { return std::exchange(too_long_, false); }

private:
    struct Burst {
        Path path;
        std::vector<std::uint8_t> bytes;
        std::size_t segment = 0;
        std::size_t count = 0;
        bool closed = false;  ///< Its last datagram is a shorter one.
    };
    Burst& current() { return bursts_[waiting_]; }
    void close_burst();
    [[nodiscard]] int send(Burst& burst);
    void clear_current();

    Socket& socket_;
    std::array<Burst, bursts_max> bursts_;  ///< The first `waiting_` were not taken.
    std::size_t waiting_ = 0;
    bool segmenting_ = true;  ///< The kernel splits bursts on this host.
    bool too_long_ = false;
};

}  // namespace netmove::tunnel
