// HomeAgent::check(): whether a home agent can run here, before anything is touched.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "netmove/ipv6_setting.hpp"
#include "netmove/mobile_ipv6/home_agent.hpp"
#include "netmove/nft.hpp"

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::fail;
using core::Result;

namespace {

Result<> check_privileges() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, data) < 0) {
        return core::fail_errno(errno, "cannot ask for the privileges of this process");
    }
    for (auto const& [number, text] :
         {std::pair(CAP_NET_ADMIN, "CAP_NET_ADMIN"), std::pair(CAP_NET_RAW, "CAP_NET_RAW")}) {
        if ((data[0].effective & (1U << static_cast<unsigned>(number))) != 0) continue;
        return fail(Errc::refused,
                    "no privilege: a home agent needs CAP_NET_ADMIN and CAP_NET_RAW, and this "
                    "process is without {}; run as root",
                    text);
    }
    return {};
}

Result<Link> check_link(Netlink& netlink, std::string const& name) {
    TRY(auto const found, netlink.find_link(name));
    if (!found) {
        return fail(Errc::refused, "there is no network interface {} on this host", name);
    }
    if (!found->mac.is_unicast()) {
        return fail(Errc::refused, "{} is no Ethernet interface: it cannot be a home link", name);
    }
    if (!found->up) {
        return fail(Errc::refused, "{} is down: `ip link set {} up`", name, name);
    }
    return *found;
}

Result<> check_own_addresses(Netlink& netlink, Link const& link, HomeAgentOptions const& options) {
    TRY(auto const all, netlink.addresses());
    auto const own = std::ranges::find_if(all, [&](InterfaceAddress const& one) {
        return one.link == link.index && one.address == options.address;
    });
    if (own == all.end() || own->prefix_length != options.prefix_length) {
        return fail(Errc::refused,
                    "{}/{} is not an address of {}: `ip address add {}/{} dev {}` first",
                    options.address.text(), options.prefix_length, link.name,
                    options.address.text(), options.prefix_length, link.name);
    }
    if (own->tentative) {
        return fail(Errc::refused,
                    "the kernel has not yet ended duplicate address detection of {} on {}",
                    options.address.text(), link.name);
    }
    bool const missing =
        options.ipv4_address &&
        std::ranges::find(all, *options.ipv4_address, &InterfaceAddress::address) == all.end();
    if (missing) {
        return fail(Errc::refused, "{} is not an address of this host",
                    options.ipv4_address->text());
    }
    for (auto const& permission : options.permissions) {
        if (!permission.ipv4_home) continue;
        bool const on_link = std::ranges::any_of(all, [&](InterfaceAddress const& one) {
            return one.link == link.index &&
                   is_within(*permission.ipv4_home, one.address, one.prefix_length);
        });
        if (on_link) continue;
        return fail(Errc::refused,
                    "the IPv4 home address {} is in no network of {}: the home link needs an IPv4 "
                    "address of this host in that network",
                    permission.ipv4_home->text(), link.name);
    }
    return {};
}

Result<> check_forwarding(HomeAgentOptions const& options) {
    if (read_ipv6_setting("all", "forwarding").value_or("0") == "0") {
        return fail(Errc::refused,
                    "this host does not forward IPv6, and a home agent is a router: `sysctl "
                    "net.ipv6.conf.all.forwarding=1`");
    }
    bool const ipv4 = std::ranges::any_of(
        options.permissions, [](Permission const& one) { return one.ipv4_home.has_value(); });
    if (ipv4 && read_ipv4_setting("all", "forwarding").value_or("0") == "0") {
        return fail(Errc::refused,
                    "this host does not forward IPv4, and there are IPv4 home addresses: `sysctl "
                    "net.ipv4.ip_forward=1`");
    }
    return {};
}

Result<> check_nftables() {
    auto const opened = Nft::open();
    if (opened) return {};
    return fail(Errc::refused, "{}", opened.error().what);
}

}  // namespace

Result<> HomeAgent::check(HomeAgentOptions const& options) {
    if (!options.address.is_ipv6() || !options.address.is_host() ||
        options.address.is_link_local()) {
        return fail(Errc::invalid, "{} cannot be the address of a home agent",
                    options.address.text());
    }
    BindingCache::Options const decided{.agent = options.address,
                                        .home_prefix = options.address,
                                        .home_prefix_length = options.prefix_length,
                                        .permissions = options.permissions};
    TRY_VOID(decided.validate());
    if (options.permissions.empty()) {
        return fail(Errc::invalid, "no home address is permitted: the configuration is empty");
    }
    TRY(auto netlink, Netlink::open());
    TRY(auto const link, check_link(netlink, options.link));
    TRY_VOID(check_own_addresses(netlink, link, options));
    TRY_VOID(check_forwarding(options));
    TRY_VOID(check_privileges());
    return check_nftables();
}

}  // namespace netmove::mobile_ipv6
