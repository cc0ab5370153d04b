#include "tests/process/evpn_lab.hpp"

#include "netmove/bridge_mover.hpp"

namespace evpn_lab {

namespace {

/// A busy machine may make a pause much longer.
constexpr int ring_frames = 20'000;

}  // namespace

Vtep::Vtep(Underlay const& underlay, int number) : local(fmt::format("10.1.0.{}", number)) {
    sh(
        fmt::format("ip link add eth0 mtu 1600 type veth peer name p{0} mtu 1600 netns {1}; "
                    "ip link set eth0 up; ip addr add {2}/24 dev eth0",
                    number, underlay.space.path(), local));
    underlay.space.enter();
    sh(fmt::format("ip link set p{0} master sw0; ip link set p{0} up", number));
    space.enter();
    make_bridge("br0");
    sh(
        fmt::format("ip link add vx0 mtu 1500 type vxlan id 42 local {} dstport 4789 nolearning; "
                    "ip link set vx0 addrgenmode none master br0 up; "
                    "bridge link set dev vx0 learning off neigh_suppress on",
                    local));
}

std::string Vtep::guest_place() {
    auto const mac = guest_interface().mac;
    auto const entry = must(netlink.fdb_entry(index("br0"), mac));
    if (!entry) return "";
    auto const device = index("vx0");
    if (entry->port != device) return must(netlink.link(entry->port)).name;
    auto const beyond = must(netlink.vxlan_entry(device, mac));
    return beyond ? beyond->remote.text() : "";
}

std::set<std::string> Vtep::guest_addresses(bool external) {
    std::set<std::string> out;
    for (auto const& entry : must(netlink.neighbours(index("br0")))) {
        if (entry.mac == guest_interface().mac && entry.external == external) {
            out.insert(entry.address.text());
        }
    }
    return out;
}

EvpnHost::EvpnHost(Underlay const& underlay, int number) : Vtep(underlay, number) {
    must(place_tap(netlink, "tap0", {"br0", 1500, ring_frames}));
    REQUIRE(soon([&] { return must(netlink.link("tap0")).port->forwarding(); }));
}

Station::Station(Vtep& vtep) {
    sh(
        fmt::format("ip link add eth0 type veth peer name station netns {}; "
                    "ip link set eth0 addrgenmode none; ip link set eth0 up; "
                    "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad",
                    vtep.space.path(), station_ipv4, station_ipv6));
    vtep.space.enter();
    sh("ip link set station addrgenmode none; ip link set station master br0 up");
    REQUIRE(soon([&] { return must(vtep.netlink.link("station")).port->forwarding(); }));
}

GuestInterface evpn_interface(Vtep& from, Vtep& to) {
    auto out = guest_interface();
    out.routed = false;
    out.bridge = "br0";
    out.vxlan_source = must(vxlan_end(from.netlink, "br0"));
    out.vxlan_destination = must(vxlan_end(to.netlink, "br0"));
    out.evpn = out.vxlan_source->evpn = out.vxlan_destination->evpn = true;
    return out;
}

MoverSet source_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to) {
    auto const interface = evpn_interface(from, to);
    MoverSet out;
    out.add(evpn_mover_source(from.netlink, interface));
    out.add(bridge_mover_source(loop, from.netlink, from.tap, interface));
    return out;
}

MoverSet destination_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to) {
    auto const interface = evpn_interface(from, to);
    MoverSet out;
    out.add(bridge_mover_destination(loop, to.netlink, to.tap, interface));
    out.add(evpn_mover_destination(to.netlink, interface));
    return out;
}

}  // namespace evpn_lab
