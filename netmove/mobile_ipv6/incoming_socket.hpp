// IncomingSocket: what mobile nodes and routers send to a home agent's address, without its outer
// headers, many packets at a time. Used by DataPath. The kernel joins outer fragments.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/fd.hpp"
#include "netmove/frame.hpp"

namespace netmove::mobile_ipv6 {

/// Packets of one receive().
constexpr std::size_t incoming_packets_max = 32;

/// A packet without its outer headers. `bytes` is valid until the next receive() of any socket with
/// the same buffers; it may be changed.
struct Incoming {
    Address from;
    std::uint16_t port = 0;  ///< UDP; else 0.
    std::uint8_t traffic_class = 0;  ///< Of the outer header.
    std::span<std::uint8_t> bytes;
};

class IncomingSocket {
public:
    enum class Kind : std::uint8_t {
        ipv6_in_ipv6,
        ipv4_in_ipv6,
        ipv6_in_ipv4,
        ipv4_in_ipv4,
        udp,  ///< IPv4, port 4191.
        icmpv6_too_big,  ///< From the ICMPv6 header on.
        icmpv4_too_big,  ///< From the ICMP header on.
    };
    /// Buffers that sockets share: one reads at a time.
    class Buffers;
    struct BuffersDelete {
        void operator()(Buffers* buffers) const;
    };
    using BuffersPointer = std::unique_ptr<Buffers, BuffersDelete>;
    static BuffersPointer make_buffers();

    /// Receives what is sent to `local`, an address of this host. Needs CAP_NET_RAW.
    static core::Result<IncomingSocket> open(Kind kind, Address const& local);

    [[nodiscard]] int descriptor() const { return fd_.get(); }
    [[nodiscard]] Kind kind() const { return kind_; }
    /// What waits, at most incoming_packets_max; empty: nothing.
    std::span<Incoming const> receive(Buffers& buffers) const;
    /// To where mobile nodes behind IPv4 are (kind udp, or in IPv4). The kernel makes the outer
    /// headers, and fragments the packet if it must. `port`: UDP. 0, or errno.
    [[nodiscard]] int send(Address const& to, std::uint16_t port, ByteView bytes) const;

private:
    IncomingSocket(core::Fd fd, Kind kind) : fd_(std::move(fd)), kind_(kind) {}
    core::Fd fd_;
    Kind kind_;
};

}  // namespace netmove::mobile_ipv6
