// A lab whose host b is in another subnet: a router is between it and the network of host a and the
// client, so no frame of that network reaches it.
#pragma once

#include <chrono>
#include <memory>

#include "tests/support/lab.hpp"
#include "tests/support/packet_line.hpp"

namespace lab {

/// Builds this network; before any sidecar runs (SceneOptions::furnish). Host b keeps its
/// addresses, as a host route, so that a scene names it as in each lab; its bridge has no wire.
void separate(Lab const& lab);

/// After separate(): the namespace of the router. Its link home leads to host a, host-b to host b.
std::string router_netns(Lab const& lab);

/// A link of 1500 bytes and what VXLAN adds.
inline constexpr int vxlan_mtu = 1600;
/// After separate(): all links of the way between hosts a and b have this MTU.
void widen(Lab const& lab, int mtu = vxlan_mtu);

/// A host d in the network of host a and the client, with the bridge br0, after separate(). Its
/// files and its namespace go with the lab.
Host add_relay(Lab const& lab);

/// Makes host b's wire a long one, before this network or that of RoutedSite is built. Must outlive
/// all that uses it.
std::unique_ptr<PacketLine> lengthen(Lab const& lab, std::chrono::microseconds round_trip);

}  // namespace lab
