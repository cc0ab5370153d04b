// TunDevice: an interface of the host whose packets a process reads and writes. The routes of home
// addresses that are away lead to it. Used by DataPath. Invariant: it, and with it the routes, is
// gone as soon as the process has ended, however it ended.
#pragma once

#include <optional>
#include <string>

#include "core/fd.hpp"
#include "netmove/frame.hpp"
#include "netmove/netlink.hpp"

namespace netmove::mobile_ipv6 {

/// Packets that wait for the process, at most: 20,000 a second for 200 ms.
constexpr int tun_queue_length = 4'000;
/// Number of the program that made a route, in the kernel's list (RTPROT_*).
constexpr int home_route_protocol = 152;

class TunDevice {
public:
    /// Makes it, up, without addresses. Waits for that of a process that was killed to go (5 s at
    /// most, blocking). Fails with refused if there is another interface of that name,
    /// with netlink if CAP_NET_ADMIN or /dev/net/tun is missing.
    static core::Result<TunDevice> make(Netlink& netlink, std::string const& name, int mtu);

    [[nodiscard]] int descriptor() const { return fd_.get(); }
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] int mtu() const { return mtu_; }

    /// Packets for the address come here from now on, or no more.
    core::Result<> add_route(Netlink& netlink, Address const& address) const;
    core::Result<> remove_route(Netlink& netlink, Address const& address) const;

    /// The next packet that waits; 0: none does. `buffer`: at least mtu() bytes.
    core::Result<std::size_t> read(std::span<std::uint8_t> buffer) const;
    /// The host takes the packet as if it had come from a wire. False: it did not take it.
    [[nodiscard]] bool write(ByteView packet) const;

private:
    TunDevice(core::Fd fd, std::string name, int index, int mtu)
        : fd_(std::move(fd)), name_(std::move(name)), index_(index), mtu_(mtu) {}
    [[nodiscard]] TableRoute route_of(Address const& address) const;

    core::Fd fd_;
    std::string name_;
    int index_;
    int mtu_;
};

}  // namespace netmove::mobile_ipv6
