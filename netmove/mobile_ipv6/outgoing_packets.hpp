// OutgoingPackets: whole IPv6 or IPv4 packets, each with an outer header of ours, sent many at a
// time. Used by DataPath. One raw socket of one family.
#pragma once

#include <sys/socket.h>

#include <array>
#include <stop_token>
#include <vector>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/task.hpp"
#include "netmove/frame.hpp"

namespace netmove::mobile_ipv6 {

/// Packets of one flush() at most; put() refuses more.
constexpr std::size_t outgoing_packets_max = 256;
/// How long a flush waits for an interface that takes no packets; then it drops them.
constexpr std::chrono::milliseconds outgoing_patience{200};

class OutgoingPackets {
public:
    /// A raw socket whose packets bring their own headers. Needs CAP_NET_RAW.
    static core::Result<OutgoingPackets> open(Address::Family family);

    /// `header` is copied; `inner` must stay until flush() has ended. False: full.
    bool put(Address const& to, ByteView header, ByteView inner);
    /// A packet of its own bytes.
    bool put(Address const& to, Bytes packet);
    [[nodiscard]] bool empty() const { return used_ == 0; }

    /// What flush() could not send.
    struct Failed {
        Address to;
        int error;  ///< errno; EMSGSIZE: longer than the interface's MTU.
    };
    /// Sends all; one at a time. What cannot be sent is dropped and returned.
    core::Task<std::vector<Failed>> flush(core::Loop& loop, std::stop_token stop);

    /// One packet at once, past those that wait. 0, or errno.
    [[nodiscard]] int send(Address const& to, ByteView packet) const;

private:
    OutgoingPackets(core::Fd fd, Address::Family family)
        : fd_(std::move(fd)), family_(family), slots_(outgoing_packets_max) {}

    struct OutgoingSlot {
        Address to;
        std::array<std::uint8_t, 48> header;
        std::size_t header_size = 0;
        ByteView inner;
        Bytes owned;
        sockaddr_storage name;
        std::array<iovec, 2> parts;
    };
    void prepare(OutgoingSlot& slot, mmsghdr& message) const;

    core::Fd fd_;
    Address::Family family_;
    std::vector<OutgoingSlot> slots_;
    std::size_t used_ = 0;
    std::vector<mmsghdr> messages_ = std::vector<mmsghdr>(outgoing_packets_max);
};

}  // namespace netmove::mobile_ipv6
