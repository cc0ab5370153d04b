// The `vxlan` mover: the guest's L2 network is stretched by VXLAN, over devices that mostly do not
// learn, so that their tables say at which host (VTEP) a station is. Stands beside the `bridge`
// mover in the plan of an interface, which has the tap and the announcements; with devices that
// learn, those move all that is not static.
//
// Three roles: the host the guest leaves, the host it comes to, and every other VTEP.
//
//                bridge's table               table of the VXLAN device
//   source       fire: stays at the tap       fire: guest -> destination, for what is local here
//                release: at the VXLAN port
//   destination  fire: at the tap             fire: guest -> source is deleted
//   other VTEP   stays at the VXLAN port      fire: guest -> source becomes guest -> destination
//
// Invariant: each frame for the guest goes to one place. A bridge sends nothing back through the
// port it came from, so another VTEP is fired when the destination has fired, and the source
// released when every VTEP has; whatever comes to the source before waits in its tap's ring.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// What VXLAN puts around the guest's packets: Ethernet, VXLAN, UDP and the outer IP header.
constexpr int vxlan_overhead_ipv4 = 50;
constexpr int vxlan_overhead_ipv6 = 70;

/// The VXLAN device among a bridge's ports. None where there is none, or where it is not one VNI
/// that is the bridge's: several devices, or one that carries many VNIs.
core::Result<std::optional<Link>> vxlan_port(Netlink& netlink, std::string const& bridge);
/// The same, as it is sent to the other host.
core::Result<std::optional<VxlanEnd>> vxlan_end(Netlink& netlink, std::string const& bridge);
/// Whether both ends are of one network; a sentence why not.
core::Result<> check_vxlan_ends(GuestInterface const& interface);
/// Packets of `mtu` bytes fit through the device, and on the way to that VTEP with what VXLAN adds.
core::Result<> check_vxlan_mtu(Netlink& netlink, Link const& device,
                               std::optional<Address> const& remote, int mtu);

/// The two halves, of an interface with both ends. `netlink` must outlive them. The source's comes
/// before the bridge mover in the set, the destination's after it: then no frame meets a bridge
/// that knows no place for it.
std::unique_ptr<Mover> vxlan_mover_source(Netlink& netlink, GuestInterface const& interface);
std::unique_ptr<Mover> vxlan_mover_destination(Netlink& netlink, GuestInterface const& interface);

/// What another VTEP must know of a move. from_json() trusts nothing.
struct VxlanMove {
    MacAddress mac;
    std::uint32_t vni = 0;
    Address from;  ///< The VTEP the guest leaves.
    Address to;
    int mtu = 1500;  ///< Of the guest's interface.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<VxlanMove> from_json(core::Json const& json);
};

/// The third role.
/// prepare: this host has one VXLAN device of that VNI, and it is large enough. Changes nothing.
/// fire: an entry of the guest that says `from` says `to`; no other one is touched, and none is
///     made. Neighbour entries with the guest's MAC are confirmed.
/// rollback: the same, back; what fire() found to be otherwise stays as it is.
class VxlanVtep final : public Mover {
public:
    /// `netlink` must outlive it.
    VxlanVtep(Netlink& netlink, VxlanMove move) : netlink_(netlink), move_(move) {}

    [[nodiscard]] std::string_view name() const override { return "vxlan"; }
    [[nodiscard]] std::vector<std::string> moves() const override { return {move_.mac.text()}; }
    core::Task<core::Result<>> prepare(core::Deadline deadline) override;
    void update(GuestInterface const&) override {}
    core::Result<> fire() override;
    core::Task<core::Result<>> settle(core::Deadline deadline) override;
    core::Result<> rollback() override;

    /// The device; empty when this host is the source or the destination itself.
    [[nodiscard]] std::string device() const { return device_ ? device_->name : ""; }
    /// fire() or rollback() has changed an entry.
    [[nodiscard]] bool changed() const { return changed_; }

private:
    core::Result<> find_device();
    core::Result<> turn(Address const& from, Address const& to);

    Netlink& netlink_;
    VxlanMove move_;
    bool looked_ = false;
    std::optional<Link> device_;
    std::vector<Neighbour> neighbours_;
    bool fired_ = false;
    bool changed_ = false;
};

}  // namespace netmove
