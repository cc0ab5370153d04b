#include "sidecar/migration/network_choice.hpp"

#include "netmove/netlink.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

bool in_vxlan(netmove::GuestInterface const& interface) {
    return interface.vxlan_source && interface.vxlan_destination;
}

bool in_fabric(netmove::GuestInterface const& interface) {
    return in_vxlan(interface) && interface.vxlan_source->evpn && interface.vxlan_destination->evpn;
}

/// Why EVPN does not move an interface whose bridges are both in a VXLAN.
std::string why_no_fabric(netmove::GuestInterface const& interface) {
    if (!interface.vxlan_source->evpn) {
        return "EVPN does not control the VXLAN of this host: its device needs `nolearning`, its "
               "port `learning off` and a bridge without VLAN filtering, and the guest must have "
               "sent something";
    }
    return "no routing daemon of the destination has the guest from EVPN: both hosts need one that "
           "announces this VNI, and a device with `nolearning` whose port has `learning off`";
}

}  // namespace

Result<> choose_mover(NetworkChoice choice, netmove::GuestInterface& interface) {
    interface.evpn = false;
    switch (choice) {
        case NetworkChoice::anchor:
        case NetworkChoice::automatic:
            interface.evpn = in_fabric(interface);
            return {};
        case NetworkChoice::bridge:
            interface.vxlan_source.reset();
            interface.vxlan_destination.reset();
            return {};
        case NetworkChoice::vxlan:
        case NetworkChoice::evpn:
            break;
    }
    if (interface.bridge.empty()) return {};
    if (!in_vxlan(interface)) {
        return fail(Errc::refused,
                    "--network={}: the bridge {} of interface {} has no VXLAN device on {}",
                    name(choice), interface.bridge, interface.mac.text(),
                    interface.vxlan_source ? "the destination" : "this host");
    }
    if (choice == NetworkChoice::vxlan) return {};
    if (!in_fabric(interface)) {
        return fail(Errc::refused, "--network=evpn: {}", why_no_fabric(interface));
    }
    interface.evpn = true;
    return {};
}

std::string choice_in_vxlan(NetworkChoice choice, netmove::GuestInterface const& interface) {
    auto const vni = interface.vxlan_source->vni;
    if (interface.evpn) {
        return fmt::format(
            "moved by evpn: both bridges are in VNI {}, and the destination has the guest's place "
            "from a routing daemon",
            vni);
    }
    return fmt::format(
        "moved by vxlan: both bridges are in VNI {}; {}", vni,
        choice == NetworkChoice::vxlan ? "--network=vxlan says so" : why_no_fabric(interface));
}

std::string plane_text(netmove::Netlink& netlink, netmove::AnchorVxlan const& vxlan,
                       std::string const& destination) {
    auto text = fmt::format("; the kernel carries them (VXLAN, VNI {}, UDP port {})", vxlan.vni,
                            vxlan.port);
    auto const remote = netmove::Address::parse(destination);
    auto const encrypted =
        remote ? netmove::way_is_encrypted(netlink, *remote) : Result<bool>(false);
    if (encrypted && *encrypted) return text;
    return text +
           "; WARNING: in clear, and whoever reaches that port can send frames into the guest's "
           "network: protect the path (WireGuard, IPsec)";
}

}  // namespace sidecar
