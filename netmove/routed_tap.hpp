// A routed tap: in no bridge. The host is the guest's gateway, in both families, with the same MAC
// and the same link-local addresses on each host, so the gateway of a
// guest does not change when it moves. Used by `sidecar run --routed`, and by the destination of
// such a guest.
//
//   IPv4  The host answers ARP for routed_gateway_ipv4, and for every address to which it has a
//         route elsewhere (proxy ARP): the guest may use any gateway, and any prefix length.
//   IPv6  The host answers neighbour solicitations for routed_gateway_ipv6 only. It sends no router
//         advertisements.
//
// All of it is set on the tap alone. Forwarding of the whole host is the operator's to switch on.
#pragma once

#include <vector>

#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// The host's end of every routed tap: locally administered. The IPv6 address is the one that this
/// MAC makes by EUI-64.
constexpr MacAddress routed_gateway_mac{{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}};
constexpr char const* routed_gateway_ipv4 = "169.254.1.1";
constexpr char const* routed_gateway_ipv6 = "fe80::ecee:eeff:feee:eeee";

/// Fails with refused, saying what to change, if this host cannot route for a guest with these
/// addresses: there are none, or one that cannot be routed or is the host's own; the host does not
/// forward that family; the table has another program's routes. Changes nothing.
core::Result<> check_routing(Netlink& netlink, std::vector<GuestAddress> const& addresses);

/// Fails with refused, naming the setting, if this host does not forward a family of `addresses`.
core::Result<> check_forwarding(std::vector<GuestAddress> const& addresses);

/// The host's end of a link that it routes IPv6 to, before it is up: no address of the host's own
/// choice, and no router advertisements taken. Fails with refused where /proc/sys is read-only and
/// the kernel's defaults are not those of a router.
core::Result<> make_ipv6_router(Netlink& netlink, std::string const& link);

struct RoutedPlace {
    std::vector<GuestAddress> addresses;  ///< Of the guest: they say which families it has.
    int mtu = 0;  ///< 0: as it is.
    int queue_length = 0;  ///< Frames; never shortened. 0: as it is.
};

/// Makes a tap ready for QEMU as place_tap() does, and the host its gateway. Its routes are not
/// made: routes_mover.hpp. May be called again. Where /proc/sys is read-only, it works as long as
/// the kernel's defaults for new interfaces are those of a router; else it fails with refused.
core::Result<> place_routed_tap(Netlink& netlink, std::string const& tap, RoutedPlace const& place);

}  // namespace netmove
