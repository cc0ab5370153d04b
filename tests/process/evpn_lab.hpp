// Shared by the tests of the evpn mover: three VTEPs, each a namespace with a bridge and a VXLAN
// device as docs/recipes/frr-evpn.conf says, on an underlay of their own. The guest's tap is on a
// and b; a station is in the bridge of c. Frr is the real daemons of one host.
//
//   guest eth0 ~ relay ~ tap0 :host a: eth0 ---- :underlay: ---- eth0 :host c: br0 ---- station
//                        tap0 :host b: eth0 ---- :        :
#pragma once

#include <set>

#include "core/loop.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "tests/process/routed_lab.hpp"
#include "tests/support/frr.hpp"

namespace evpn_lab {

using namespace routed_lab;

inline constexpr char const* station_ipv4 = "10.9.0.100";
inline constexpr char const* station_ipv6 = "fd09::100";

struct Underlay {
    Underlay() { make_bridge("sw0"); }
    Space space;
};

/// VTEP `number` of three: 10.1.0.NUMBER. Leaves the thread in its namespace.
struct Vtep {
    Vtep(Underlay const& underlay, int number);
    [[nodiscard]] int index(std::string const& name) { return must(netlink.link(name)).index; }
    /// Where this host sends the guest's frames: "tap0", the address of a VTEP, or "".
    std::string guest_place();
    /// The addresses of the guest in the host's neighbour entries: those that a routing daemon
    /// wrote, or the others.
    std::set<std::string> guest_addresses(bool external);

    Space space;
    std::string local;
    Netlink netlink = must(Netlink::open());
};

struct EvpnHost : Vtep {
    EvpnHost(Underlay const& underlay, int number);
    Tap tap = must(Tap::open(netlink, "tap0", {1, false, true}));
};

/// A station in the bridge of a VTEP.
struct Station {
    explicit Station(Vtep& vtep);
    Space space;
};

/// All of them, without a routing daemon.
struct Vteps {
    Home home;
    std::unique_ptr<core::Loop> loop = must(core::Loop::create());
    Underlay underlay;
    EvpnHost a{underlay, 1};
    EvpnHost b{underlay, 2};
    Vtep c{underlay, 3};
    Station station{c};
};

/// The interface as both sides know it after `check`, for a move between these hosts.
GuestInterface evpn_interface(Vtep& from, Vtep& to);
MoverSet source_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to);
MoverSet destination_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to);

/// FRR in the thread's namespace, for VTEP `number`.
struct Frr : lab::Frr {
    explicit Frr(int number) : lab::Frr("", lab::frr_changes(number)) {}
};

}  // namespace evpn_lab
