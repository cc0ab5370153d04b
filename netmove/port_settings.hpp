// PortSettings: what an operator has set on a guest's port of a bridge (`bridge link`, `bridge
// vlan`), and what the guest's tap gets on another host too. Without it a guest in a VLAN would
// arrive in the bridge's default VLAN.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace netmove {

class Netlink;

struct PortVlan {
    std::uint16_t first = 0;  ///< 1 to 4094.
    std::uint16_t last = 0;  ///< Not lower than `first`.
    bool pvid = false;  ///< Of untagged frames that the guest sends; only of a single VLAN.
    bool untagged = false;  ///< Frames of this VLAN reach the guest without a tag.
    friend bool operator==(PortVlan const&, PortVlan const&) = default;
};

struct PortSettings {
    /// The flags that are not as a new port has them, by iproute2's names: "isolated", "learning".
    std::set<std::string> changed = {};
    bool filters_vlans = false;  ///< The bridge does; else `vlans` means nothing.
    std::vector<PortVlan> vlans = {};

    /// Whether its VLANs are those that a bridge gives to a new port.
    [[nodiscard]] bool in_default_vlan() const;
    /// "VLAN 20", "VLANs 20, 30-40"; "no VLAN".
    [[nodiscard]] std::string vlans_text() const;
    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol.
    static core::Result<PortSettings> from_json(core::Json const& json);
    friend bool operator==(PortSettings const&, PortSettings const&) = default;
};

/// Of a tap; none: it is in no bridge. Fails with netlink.
core::Result<std::optional<PortSettings>> port_settings(Netlink& netlink, std::string const& tap);

/// Gives them to a tap in a bridge. VLANs only where that bridge filters them. Fails with netlink.
core::Result<> set_port_settings(Netlink& netlink, std::string const& tap,
                                 PortSettings const& settings);

}  // namespace netmove
