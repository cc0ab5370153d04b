// SignallingSocket: Mobility Headers that are sent to a home agent's IPv6 address. Used by
// HomeAgent. Needs CAP_NET_RAW.
//
// It is a packet socket: it has packets before the kernel looks at their Home Address option, which
// a kernel without Mobile IPv6 refuses. host_rules.hpp keeps the kernel from answering them.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/task.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

class SignallingSocket {
public:
    struct Counters {
        std::uint64_t received = 0;
        std::uint64_t malformed = 0;
        std::uint64_t bad_checksum = 0;
    };
    using OnPacket = std::function<void(SignallingPacket const&)>;

    /// On all interfaces: a mobile node that has come home sends on the home link.
    static core::Result<std::unique_ptr<SignallingSocket>> open(core::Loop& loop,
                                                                Address const& agent);
    /// Until stopped. One at a time.
    core::Task<void> run(OnPacket on_packet, std::stop_token stop);

    [[nodiscard]] Counters const& counters() const { return counters_; }

private:
    SignallingSocket(core::Loop& loop, core::Fd socket) : loop_(loop), socket_(std::move(socket)) {}
    /// Whether more waits.
    bool take_in(OnPacket const& on_packet);

    core::Loop& loop_;
    core::Fd socket_;
    Counters counters_;
};

}  // namespace netmove::mobile_ipv6
