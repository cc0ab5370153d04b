#include "netmove/mobile_ipv6/tun_device.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "netmove/ipv6_setting.hpp"

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// The kernel ends the io_uring of a process that was killed a moment after the process, and with it
// the device. Less than a second was seen on a busy host.
constexpr int predecessor_looks_max = 500;
constexpr int predecessor_look_ms = 10;

Result<> wait_until_gone(Netlink& netlink, std::string const& name) {
    for (int looks = 0; looks < predecessor_looks_max; ++looks) {
        TRY(auto const existing, netlink.find_link(name));
        if (!existing) return {};
        if (!existing->tun || existing->tun->persistent) break;
        ::poll(nullptr, 0, predecessor_look_ms);
    }
    return fail(Errc::refused, "there is an interface {} on this host already", name);
}

}  // namespace

Result<TunDevice> TunDevice::make(Netlink& netlink, std::string const& name, int mtu) {
    assert(name.size() < IFNAMSIZ);
    TRY_VOID(wait_until_gone(netlink, name));
    core::Fd made(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!made) {
        return core::fail_os(Errc::netlink, errno,
                             "cannot open /dev/net/tun (module tun), which packets to and from "
                             "mobile nodes pass");
    }
    ifreq request{};
    std::ranges::copy(name, request.ifr_name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (::ioctl(made.get(), TUNSETIFF, &request) < 0) {
        return core::fail_os(Errc::netlink, errno,
                             errno == EPERM ? "no privilege: CAP_NET_ADMIN is needed to make the "
                                              "interface for mobile nodes"
                                            : fmt::format("cannot make the interface {}", name));
    }
    // The host itself says nothing on it.
    TRY_VOID(netlink.set_address_generation_none(name));
    TRY_VOID(netlink.set_mtu(name, mtu));
    TRY_VOID(netlink.set_queue_length(name, tun_queue_length));
    if (read_ipv6_setting(name, "disable_ipv6").value_or("0") != "0" &&
        !write_ipv6_setting(name, "disable_ipv6", "0")) {
        return fail(Errc::refused,
                    "new interfaces of this host have no IPv6: set "
                    "net.ipv6.conf.default.disable_ipv6=0");
    }
    TRY_VOID(netlink.set_up(name));
    TRY(auto const link, netlink.link(name));
    return TunDevice(std::move(made), name, link.index, mtu);
}

TableRoute TunDevice::route_of(Address const& address) const {
    TableRoute route;
    route.destination = address;
    route.prefix_length = static_cast<int>(address.bytes().size() * 8);
    route.link = index_;
    route.metric = 1;  // before any other route to that one address
    route.protocol = home_route_protocol;
    return route;
}

Result<> TunDevice::add_route(Netlink& netlink, Address const& address) const {
    return netlink.write_route(RT_TABLE_MAIN, route_of(address));
}

Result<> TunDevice::remove_route(Netlink& netlink, Address const& address) const {
    TRY_VOID(netlink.delete_route(RT_TABLE_MAIN, route_of(address)));
    return {};
}

Result<std::size_t> TunDevice::read(std::span<std::uint8_t> buffer) const {
    auto const got = ::read(fd_.get(), buffer.data(), buffer.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno == EAGAIN || errno == EINTR) return 0;
    return core::fail_errno(errno, "cannot read from {}", name_);
}

bool TunDevice::write(ByteView packet) const {
    return ::write(fd_.get(), packet.data(), packet.size()) == static_cast<ssize_t>(packet.size());
}

}  // namespace netmove::mobile_ipv6
