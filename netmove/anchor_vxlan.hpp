// The kernel's plane of an anchor: a VXLAN of two hosts for one interface of one guest. A device at
// each end makes one L2 network of the guest's bridge at home and its bridge where it runs; so the
// bridge mover moves the guest, and no process sees a frame. Used by both ends of anchors.
//
//   home network                                                            host of the guest
//   bridge -- VXLAN device ============ UDP, in clear ============ VXLAN device -- bridge -- tap
//
// A device knows one other end and looks up nothing: what enters it goes there. It never cuts a
// frame (DF), encrypts nothing, and believes every sender that knows its port and VNI.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/json.hpp"
#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/port_settings.hpp"

namespace netmove {

class Netlink;

/// VNIs of anchors: 15,000,000 to 15,999,999. Keep them free of other VXLANs.
constexpr std::uint32_t anchor_vni_first = 15'000'000;
constexpr std::uint32_t anchor_vnis = 1'000'000;
/// UDP, of VXLAN (RFC 7348).
constexpr std::uint16_t vxlan_port_default = 4789;
/// UDP payload around a frame's packet: VXLAN and Ethernet headers.
constexpr int vxlan_payload_overhead = 22;

constexpr bool is_anchor_vni(std::uint32_t vni) {
    return vni >= anchor_vni_first && vni < anchor_vni_first + anchor_vnis;
}

/// One pair of ends, as both know it.
struct AnchorVxlan {
    std::uint32_t vni = 0;
    std::uint16_t port = vxlan_port_default;  ///< UDP, of both hosts.
    Address home;  ///< Of the anchor's host, as the other reaches it.
    [[nodiscard]] core::Json to_json() const;
    static core::Result<AnchorVxlan> from_json(core::Json const& json);
    friend bool operator==(AnchorVxlan const&, AnchorVxlan const&) = default;
};

/// The VNI of a tunnel with this id.
std::uint32_t anchor_vni(std::uint64_t tunnel_id);
/// The name of its device on the anchor's host. (At the far end it has the name of the tap.)
std::string anchor_vxlan_name(std::uint64_t tunnel_id);

struct AnchorVxlanEnd {
    std::string name;
    Address remote;
    std::string bridge;
    std::optional<PortSettings> port = {};  ///< In that bridge; none: as new.
};
/// Makes a device and its place in a bridge, or what of it is missing. Fails with netlink, in the
/// kernel's words: another device may have that VNI and UDP port.
core::Result<> make_anchor_vxlan(Netlink& netlink, AnchorVxlan const& vxlan,
                                 AnchorVxlanEnd const& end);
/// Also when it is not there.
core::Result<> remove_anchor_vxlan(Netlink& netlink, std::string const& name);

/// Whether the way to `remote` leaves by a device that encrypts (WireGuard, IPsec).
core::Result<bool> way_is_encrypted(Netlink& netlink, Address const& remote);

}  // namespace netmove
