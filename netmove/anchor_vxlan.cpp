#include "netmove/anchor_vxlan.hpp"

#include <algorithm>

#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

Json AnchorVxlan::to_json() const {
    return Json::object({{"vni", static_cast<std::int64_t>(vni)},
                         {"port", static_cast<int>(port)},
                         {"home", home.text()}});
}

Result<AnchorVxlan> AnchorVxlan::from_json(Json const& json) {
    constexpr std::int64_t port_last = 65'535;
    AnchorVxlan made;
    TRY(auto const vni, json.integer("vni"));
    TRY(auto const port, json.integer("port"));
    TRY(auto const home, json.text("home"));
    TRY(made.home, Address::parse(home));
    bool const sane = vni >= 0 && vni <= UINT32_MAX &&
                      is_anchor_vni(static_cast<std::uint32_t>(vni)) && port >= 1 &&
                      port <= port_last && made.home.is_host();
    if (!sane) return fail(Errc::protocol, "an anchor's VXLAN with an impossible member");
    made.vni = static_cast<std::uint32_t>(vni);
    made.port = static_cast<std::uint16_t>(port);
    return made;
}

std::uint32_t anchor_vni(std::uint64_t tunnel_id) {
    return anchor_vni_first + static_cast<std::uint32_t>(tunnel_id % anchor_vnis);
}

std::string anchor_vxlan_name(std::uint64_t tunnel_id) {
    return fmt::format("sax{:08x}", static_cast<std::uint32_t>(tunnel_id ^ tunnel_id >> 32));
}

Result<> make_anchor_vxlan(Netlink& netlink, AnchorVxlan const& vxlan, AnchorVxlanEnd const& end) {
    TRY(auto const there, netlink.find_link(end.name));
    if (there && (!there->vxlan || there->vxlan->vni != vxlan.vni)) {
        return fail(Errc::refused, "{} is in the way on this host (`ip link delete {}`)", end.name,
                    end.name);
    }
    if (!there) TRY_VOID(netlink.make_vxlan(end.name, vxlan.vni, vxlan.port, end.remote));
    TRY_VOID(make_quiet(netlink, end.name));
    TRY(auto const bridge, netlink.link(end.bridge));
    TRY(auto const device, netlink.link(end.name));
    // A bridge takes the smallest MTU of its ports.
    if (device.mtu != bridge.mtu) TRY_VOID(netlink.set_mtu(end.name, bridge.mtu));
    if (device.master != bridge.index) TRY_VOID(netlink.set_master(end.name, end.bridge));
    if (end.port) TRY_VOID(set_port_settings(netlink, end.name, *end.port));
    return netlink.set_up(end.name);
}

Result<> remove_anchor_vxlan(Netlink& netlink, std::string const& name) {
    TRY(auto const there, netlink.find_link(name));
    if (!there || !there->vxlan || !is_anchor_vni(there->vxlan->vni)) return {};
    return netlink.delete_link(name);
}

Result<bool> way_is_encrypted(Netlink& netlink, Address const& remote) {
    TRY(auto const route, netlink.route(remote));
    TRY(auto const device, netlink.link(route.link));
    constexpr std::string_view kinds[] = {"wireguard", "xfrm", "vti", "vti6"};
    return std::ranges::find(kinds, device.kind) != std::end(kinds);
}

}  // namespace netmove
