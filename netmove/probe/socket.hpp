// Sockets of `sidecar probe` and its echo: addresses, buffers, and what the kernel says beside a
// datagram. Used by probe_echo.cpp, probe_stream.cpp and probe_session.cpp. Invariant: what was
// lost for want of room in our own socket is counted by the kernel, and told.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "netmove/address.hpp"

namespace netmove {

/// CLOCK_REALTIME: the clock of the kernel's receive timestamps, and of a migration's report.
std::uint64_t wall_ns();

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;
    [[nodiscard]] int family() const { return storage.ss_family; }
    [[nodiscard]] sockaddr const* get() const {
        return reinterpret_cast<sockaddr const*>(&storage);
    }
};
SocketAddress socket_address(Address const& address, std::uint16_t port);
/// Every address of the family.
SocketAddress any_address(int family, std::uint16_t port);

/// A UDP socket that reports when a datagram came (SO_TIMESTAMPNS), which of our addresses it was
/// for (pktinfo), and how many found no room (SO_RXQ_OVFL). Its buffers hold a burst of some
/// seconds at 1 kHz, as far as the kernel lets us (net.core.rmem_max; more with CAP_NET_ADMIN).
core::Result<core::Fd> probe_udp_socket(int family);

/// What came with a datagram.
struct Received {
    std::size_t bytes = 0;
    std::uint64_t at_ns = 0;  ///< By the kernel; now, where it did not say.
    std::optional<std::uint32_t> overflowed;  ///< Since the socket was made.
    int error = 0;  ///< errno; EAGAIN: nothing was there.
};

/// One datagram and its sender, and room for what the kernel says beside it.
class Envelope {
public:
    Received receive(int fd, std::span<std::byte> room);
    /// Sends to where the last datagram came from, from the address that it was for. 0 or errno.
    int answer(int fd, std::span<std::byte const> bytes);

private:
    SocketAddress peer_;
    alignas(cmsghdr) std::array<char, 256> ancillary_{};
    std::size_t ancillary_bytes_ = 0;
};

}  // namespace netmove
