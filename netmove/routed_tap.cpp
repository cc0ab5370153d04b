#include "netmove/routed_tap.hpp"

#include <algorithm>

#include "netmove/ipv6_setting.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr int ipv4_gateway_prefix = 32;
constexpr int ipv6_gateway_prefix = 64;

bool has(std::vector<GuestAddress> const& addresses, Address::Family family) {
    return std::ranges::any_of(
        addresses, [family](auto const& entry) { return entry.address.family() == family; });
}

Result<> check_addresses(Netlink& netlink, std::vector<GuestAddress> const& addresses) {
    if (addresses.empty()) {
        return fail(Errc::refused,
                    "a routed guest needs --address: routes are made only for addresses that the "
                    "operator gives, not for those that the guest's traffic shows");
    }
    TRY(auto const own, netlink.addresses());
    for (auto const& [address, vlan] : addresses) {
        if (vlan != 0 || address.is_link_local() || !address.is_host()) {
            return fail(Errc::refused, "{} cannot be routed to a guest{}", address.text(),
                        vlan != 0 ? ": it is in a VLAN of the guest's interface"
                                  : ": only unicast addresses that are not link-local can");
        }
        bool const ours = std::ranges::any_of(
            own, [&](InterfaceAddress const& entry) { return entry.address == address; });
        if (ours) return fail(Errc::refused, "{} is an address of the host itself", address.text());
    }
    return {};
}

Result<> check_table(Netlink& netlink) {
    TRY(auto const all, netlink.routes(guest_routes_table));
    for (auto const& route : all) {
        if (route.protocol == guest_routes_protocol) continue;
        return fail(Errc::refused,
                    "the routing table {} has a route to {}/{} of another program (protocol {}): "
                    "it must belong to sidecar alone",
                    guest_routes_table, route.destination.text(), route.prefix_length,
                    route.protocol);
    }
    return {};
}

std::unexpected<core::Error> cannot_set(std::string const& tap, char const* setting) {
    return fail(Errc::refused,
                "cannot set net.ipv6.conf.{}.{}: /proc/sys is read-only here; set it as the "
                "default for new interfaces on the host (net.ipv6.conf.default)",
                tap, setting);
}

}  // namespace

Result<> check_forwarding(std::vector<GuestAddress> const& addresses) {
    auto const off = [](std::optional<std::string> const& value) { return value == "0"; };
    if (has(addresses, Address::Family::ipv4) && off(read_ipv4_setting("all", "forwarding"))) {
        return fail(Errc::refused,
                    "the host does not forward IPv4: set net.ipv4.ip_forward=1 (sysctl)");
    }
    if (!has(addresses, Address::Family::ipv6)) return {};
    auto const forwarding = read_ipv6_setting("all", "forwarding");
    if (!forwarding) return fail(Errc::refused, "the host has no IPv6");
    if (off(forwarding)) {
        return fail(Errc::refused,
                    "the host does not forward IPv6: set net.ipv6.conf.all.forwarding=1 (sysctl); "
                    "an uplink that gets its routes from router advertisements then needs "
                    "accept_ra=2");
    }
    return {};
}

Result<> make_ipv6_router(Netlink& netlink, std::string const& link) {
    // No address of the host's own choice; and none of the duplicate address detection, because the
    // same address is on each host.
    TRY_VOID(netlink.set_address_generation_none(link));
    (void)write_ipv6_setting(link, "accept_dad", "0");
    struct Setting {
        char const* name;
        char const* value;
        char const* also;  ///< A value that does as well.
    };
    // A guest must not give the host routes: a router takes advertisements only with accept_ra 2.
    constexpr Setting settings[] = {
        {"disable_ipv6", "0", "0"}, {"forwarding", "1", "1"}, {"accept_ra", "0", "1"}};
    for (auto const& [name, value, also] : settings) {
        if (write_ipv6_setting(link, name, value)) continue;
        auto const now = read_ipv6_setting(link, name);
        if (now != value && now != also) return cannot_set(link, name);
    }
    return {};
}

Result<> check_routing(Netlink& netlink, std::vector<GuestAddress> const& addresses) {
    TRY_VOID(check_addresses(netlink, addresses));
    TRY_VOID(check_forwarding(addresses));
    return check_table(netlink);
}

Result<> place_routed_tap(Netlink& netlink, std::string const& tap, RoutedPlace const& place) {
    TRY(auto const link, netlink.link(tap));
    if (link.master != 0) {
        TRY(auto const bridge, netlink.link(link.master));
        return fail(Errc::refused,
                    "the tap {} is in {}, and a routed one is in no bridge: take it out (ip link "
                    "set {} nomaster)",
                    tap, bridge.name, tap);
    }
    bool const ipv4 = has(place.addresses, Address::Family::ipv4);
    bool const ipv6 = has(place.addresses, Address::Family::ipv6);
    if (link.mac != routed_gateway_mac) TRY_VOID(netlink.set_mac(tap, routed_gateway_mac));
    TRY_VOID(ipv6 ? make_ipv6_router(netlink, tap) : make_quiet(netlink, tap));
    if (ipv4) {
        TRY_VOID(netlink.set_ipv4(tap, {true, true, true, false}));
        TRY_VOID(netlink.set_no_proxy_delay(tap));
    }
    if (place.mtu != 0 && link.mtu != place.mtu) TRY_VOID(netlink.set_mtu(tap, place.mtu));
    if (place.queue_length > link.queue_length) {
        TRY_VOID(netlink.set_queue_length(tap, place.queue_length));
    }
    if (!link.up) TRY_VOID(netlink.set_up(tap));
    if (ipv4) {
        TRY(auto const gateway, Address::parse(routed_gateway_ipv4));
        TRY_VOID(netlink.add_address(tap, gateway, ipv4_gateway_prefix, true));
    }
    if (ipv6) {
        TRY(auto const gateway, Address::parse(routed_gateway_ipv6));
        TRY_VOID(netlink.add_address(tap, gateway, ipv6_gateway_prefix));
    }
    return {};
}

}  // namespace netmove
