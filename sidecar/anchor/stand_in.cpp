#include "sidecar/anchor/stand_in.hpp"

#include "core/log.hpp"
#include "netmove/network.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;
using netmove::GuestInterface;

Task<Result<>> StandIn::prepare() {
    return mover_->prepare(Deadline::after(limits::prepare_timeout));
}

Result<> StandIn::announce(std::optional<GuestInterface> const& now) {
    if (now) mover_->update(*now);
    TRY_VOID(mover_->fire());
    to_repeat_ = true;
    return {};
}

void StandIn::withdraw() {
    to_repeat_ = false;
    if (auto const back = mover_->rollback(); !back) {
        core::log::warning("anchor state=withdrawn {}", back.error().sentence());
    }
}

Task<void> StandIn::announce_again() {
    if (!std::exchange(to_repeat_, false)) co_return;
    auto const settled =
        co_await mover_->settle(Deadline::after(limits::anchor_answer_timeout, ended_.get_token()));
    if (!settled) {
        core::log::warning("anchor: announcing a guest again failed: {}",
                           settled.error().sentence());
    }
}

namespace {

Result<> check_not_here(Paths const& paths, std::string const& guest) {
    TRY(auto const manifest, read_manifest(paths, guest));
    if (manifest.is_null()) return {};
    auto const process = core::Process::open(core::ProcessIdentity::from_json(manifest));
    if (!process || !process->running()) return {};
    return fail(Errc::refused, "{} runs on it: `--network=anchor` alone makes it the anchor",
                guest);
}

/// Of the bridge that is to have the tap.
Result<> check_bridge(netmove::Netlink& netlink, netmove::Link const& bridge,
                      GuestInterface const& here) {
    if (bridge.mtu < here.mtu) {
        return fail(Errc::refused,
                    "its bridge {} has an MTU of {}, and the guest's interface {} uses {}: raise "
                    "it",
                    bridge.name, bridge.mtu, here.netdev, here.mtu);
    }
    TRY(auto const network, netmove::network_of(bridge));
    if (network != here.network) {
        return fail(Errc::refused,
                    "its bridge {} is {}, and the guest's is {}: map the guest's bridge to another "
                    "one (`serve --map-bridge`)",
                    bridge.name, network.empty() ? "for all protocols" : "for " + network + " only",
                    here.network.empty() ? "for all protocols" : "for " + here.network + " only");
    }
    TRY(auto const vxlan, netmove::vxlan_end(netlink, bridge.name));
    if (!vxlan || vxlan->learning) return {};
    return fail(Errc::refused,
                "its bridge {} has a VXLAN device that does not learn: the hosts of VNI {} would "
                "not learn that the guest's addresses are there",
                bridge.name, vxlan->vni);
}

/// A bridge that is mapped to another one may be that of the VLAN: the operator has said so.
Result<> check_vlans(netmove::Link const& bridge, GuestInterface const& at_source) {
    auto const& port = at_source.port;
    bool const mapped = bridge.name != at_source.bridge;
    if (!port || port->in_default_vlan() || bridge.vlan_filtering || mapped) return {};
    return fail(Errc::refused,
                "its bridge {} filters no VLANs, and the guest is in {}: `ip link set {} type "
                "bridge vlan_filtering 1`, or map the bridge to that of the VLAN (`serve "
                "--map-bridge`)",
                bridge.name, port->vlans_text(), bridge.name);
}

/// Another station with the guest's MAC address must not be there: both would lose frames.
Result<> check_no_station(netmove::Netlink& netlink, netmove::Link const& bridge,
                          GuestInterface const& here) {
    TRY(auto const table, netlink.fdb(bridge.index));
    for (auto const& entry : table) {
        if (entry.mac != here.mac || entry.port == bridge.index) continue;
        TRY(auto const port, netlink.link(entry.port));
        if (!port.tun || port.name == here.tap) continue;
        return fail(Errc::refused,
                    "its bridge {} has a station with the MAC address {} already, at the tap {}",
                    bridge.name, here.mac.text(), port.name);
    }
    return {};
}

}  // namespace

GuestInterface stood_in_here(HostMaps const& maps, std::string const& guest,
                             GuestInterface interface) {
    interface.tap = fmt::format("sas{:08x}", anchor_name_hash(guest, interface.mac));
    interface.bridge = map_bridge(maps, interface.bridge);
    // These are of the source's bridge, or of the destination's.
    interface.vxlan_source.reset();
    interface.vxlan_destination.reset();
    interface.evpn = false;
    interface.anchor.reset();
    return interface;
}

Result<> check_stand_in_here(netmove::Netlink& netlink, HostMaps const& maps, Paths const& paths,
                             std::string const& guest, GuestInterface const& at_source) {
    auto const here = stood_in_here(maps, guest, at_source);
    TRY_VOID(check_not_here(paths, guest));
    if (!is_allowed_bridge(maps, here.bridge)) {
        return fail(Errc::refused, "guests may not use its bridge {} (`serve --allow-bridge {}`)",
                    here.bridge, here.bridge);
    }
    TRY(auto const bridge, netlink.find_link(here.bridge));
    if (!bridge || bridge->kind != "bridge") {
        return fail(Errc::refused,
                    "it has no bridge {}: make it, or map the guest's bridge to another one "
                    "(`serve --map-bridge`)",
                    here.bridge);
    }
    TRY_VOID(check_bridge(netlink, *bridge, here));
    TRY_VOID(check_vlans(*bridge, at_source));
    return check_no_station(netlink, *bridge, here);
}

}  // namespace sidecar
