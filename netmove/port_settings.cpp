#include "netmove/port_settings.hpp"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <array>
#include <cstring>

#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::uint16_t vlan_min = 1;
constexpr std::uint16_t vlan_max = 4094;

struct PortFlag {
    char const* name;  ///< Of `bridge -d link`.
    int type;  ///< IFLA_BRPORT_*
    bool usual;  ///< Of a new port.
};
constexpr std::array port_flags = {PortFlag{"hairpin", IFLA_BRPORT_MODE, false},
                                   PortFlag{"guard", IFLA_BRPORT_GUARD, false},
                                   PortFlag{"root_block", IFLA_BRPORT_PROTECT, false},
                                   PortFlag{"fastleave", IFLA_BRPORT_FAST_LEAVE, false},
                                   PortFlag{"learning", IFLA_BRPORT_LEARNING, true},
                                   PortFlag{"flood", IFLA_BRPORT_UNICAST_FLOOD, true},
                                   PortFlag{"mcast_flood", IFLA_BRPORT_MCAST_FLOOD, true},
                                   PortFlag{"bcast_flood", IFLA_BRPORT_BCAST_FLOOD, true},
                                   PortFlag{"mcast_to_unicast", IFLA_BRPORT_MCAST_TO_UCAST, false},
                                   PortFlag{"neigh_suppress", IFLA_BRPORT_NEIGH_SUPPRESS, false},
                                   PortFlag{"isolated", IFLA_BRPORT_ISOLATED, false},
                                   PortFlag{"locked", IFLA_BRPORT_LOCKED, false}};
constexpr std::array floods = {"flood", "mcast_flood", "bcast_flood"};

PortFlag const* flag_named(std::string const& name) {
    auto const at = std::ranges::find_if(
        port_flags, [&name](PortFlag const& flag) { return name == flag.name; });
    return at == port_flags.end() ? nullptr : &*at;
}

std::set<std::string> changed_flags(nlattr* port) {
    std::array<nlattr*, IFLA_BRPORT_MAX + 1> parts{};
    nla_parse_nested(parts.data(), IFLA_BRPORT_MAX, port, nullptr);
    std::set<std::string> changed;
    for (auto const& flag : port_flags) {
        auto* const part = parts[static_cast<std::size_t>(flag.type)];
        if (part != nullptr && (nla_get_u8(part) != 0) != flag.usual) changed.insert(flag.name);
    }
    // A port that nothing is flooded to serves no guest: it waits for one (bridge_mover.hpp).
    bool const closed = std::ranges::all_of(
        floods, [&changed](char const* flood) { return changed.contains(flood); });
    for (auto const* flood : floods) {
        if (closed) changed.erase(flood);
    }
    return changed;
}

/// A range comes as two entries.
std::vector<PortVlan> vlans_from(nlattr* spec) {
    std::vector<PortVlan> vlans;
    nlattr* entry = nullptr;
    int left = 0;
    nla_for_each_nested(entry, spec, left) {
        bridge_vlan_info info{};
        if (nla_type(entry) != IFLA_BRIDGE_VLAN_INFO ||
            nla_len(entry) < static_cast<int>(sizeof info)) {
            continue;
        }
        std::memcpy(&info, nla_data(entry), sizeof info);
        if ((info.flags & BRIDGE_VLAN_INFO_RANGE_END) != 0 && !vlans.empty()) {
            vlans.back().last = info.vid;
            continue;
        }
        vlans.push_back({info.vid, info.vid, (info.flags & BRIDGE_VLAN_INFO_PVID) != 0,
                         (info.flags & BRIDGE_VLAN_INFO_UNTAGGED) != 0});
    }
    return vlans;
}

/// The kernel answers for single ports of this family only with all of them.
Result<PortSettings> read_port(Netlink& netlink, int index) {
    PortSettings made;
    auto const request = make_message(RTM_GETLINK, NLM_F_DUMP, link_header(0, AF_BRIDGE));
    nla_put_u32(request.get(), IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
    TRY_VOID(netlink.request(*request, "list the ports of bridges", [&](nlmsghdr* header) {
        auto const* fixed = static_cast<ifinfomsg const*>(nlmsg_data(header));
        if (fixed->ifi_index != index) return;
        std::array<nlattr*, IFLA_MAX + 1> parts{};
        nlmsg_parse(header, sizeof *fixed, parts.data(), IFLA_MAX, nullptr);
        if (parts[IFLA_PROTINFO] != nullptr) made.changed = changed_flags(parts[IFLA_PROTINFO]);
        if (parts[IFLA_AF_SPEC] != nullptr) made.vlans = vlans_from(parts[IFLA_AF_SPEC]);
    }));
    return made;
}

void put_vlan(Message& message, std::uint16_t vlan, int flags) {
    bridge_vlan_info const info{static_cast<std::uint16_t>(flags), vlan};
    nla_put(message.get(), IFLA_BRIDGE_VLAN_INFO, sizeof info, &info);
}

Result<> change_vlans(Netlink& netlink, int index, int type, std::vector<PortVlan> const& vlans) {
    if (vlans.empty()) return {};
    auto message = make_message(type, NLM_F_ACK, link_header(index, AF_BRIDGE));
    auto* spec = nla_nest_start(message.get(), IFLA_AF_SPEC);
    for (auto const& vlan : vlans) {
        int const flags = (vlan.pvid ? BRIDGE_VLAN_INFO_PVID : 0) |
                          (vlan.untagged ? BRIDGE_VLAN_INFO_UNTAGGED : 0);
        if (vlan.first == vlan.last) {
            put_vlan(message, vlan.first, flags);
        } else {
            put_vlan(message, vlan.first, flags | BRIDGE_VLAN_INFO_RANGE_BEGIN);
            put_vlan(message, vlan.last, flags | BRIDGE_VLAN_INFO_RANGE_END);
        }
    }
    nla_nest_end(message.get(), spec);
    return netlink.request(*message, fmt::format("change the VLANs of bridge port {}", index));
}

Result<> change_flags(Netlink& netlink, int index, std::set<std::string> const& changed) {
    if (changed.empty()) return {};
    auto message = make_message(RTM_SETLINK, NLM_F_ACK, link_header(index, AF_BRIDGE));
    auto* port = nla_nest_start(message.get(), IFLA_PROTINFO | NLA_F_NESTED);
    for (auto const& name : changed) {
        auto const* const flag = flag_named(name);
        if (flag != nullptr) nla_put_u8(message.get(), flag->type, flag->usual ? 0 : 1);
    }
    nla_nest_end(message.get(), port);
    return netlink.request(*message, fmt::format("change bridge port {}", index));
}

Result<PortVlan> vlan_from(Json const& json) {
    auto const id = [&json](char const* key) -> Result<std::uint16_t> {
        TRY(auto const number, json.integer(key));
        if (number < vlan_min || number > vlan_max) {
            return fail(Errc::protocol, "{} is not a VLAN", number);
        }
        return static_cast<std::uint16_t>(number);
    };
    PortVlan made;
    TRY(made.first, id("first"));
    TRY(made.last, id("last"));
    TRY(made.pvid, json.boolean("pvid"));
    TRY(made.untagged, json.boolean("untagged"));
    if (made.last < made.first || (made.pvid && made.first != made.last)) {
        return fail(Errc::protocol, "VLANs {} to {} cannot be so", made.first, made.last);
    }
    return made;
}

}  // namespace

bool PortSettings::in_default_vlan() const {
    return !filters_vlans || vlans == std::vector<PortVlan>{{1, 1, true, true}};
}

std::string PortSettings::vlans_text() const {
    if (vlans.empty()) return "no VLAN";
    std::string text;
    for (auto const& vlan : vlans) {
        if (!text.empty()) text += ", ";
        text += std::to_string(vlan.first);
        if (vlan.last != vlan.first) text += fmt::format("-{}", vlan.last);
    }
    bool const one = vlans.size() == 1 && vlans.front().first == vlans.front().last;
    return (one ? "VLAN " : "VLANs ") + text;
}

Json PortSettings::to_json() const {
    Json flags = Json::array();
    for (auto const& name : changed) flags.add(name);
    Json list = Json::array();
    for (auto const& vlan : vlans) {
        list.add(Json::object({{"first", static_cast<int>(vlan.first)},
                               {"last", static_cast<int>(vlan.last)},
                               {"pvid", vlan.pvid},
                               {"untagged", vlan.untagged}}));
    }
    return Json::object({{"changed", flags}, {"filters_vlans", filters_vlans}, {"vlans", list}});
}

Result<PortSettings> PortSettings::from_json(Json const& json) {
    PortSettings made;
    if (json["changed"].size() > port_flags.size() || json["vlans"].size() > vlan_max) {
        return fail(Errc::protocol, "a bridge port has too many settings");
    }
    for (auto const& one : json["changed"].elements()) {
        auto const name = one.text_or("");
        if (flag_named(name) == nullptr) {
            return fail(Errc::protocol, "a bridge port has no flag {}", name);
        }
        made.changed.insert(name);
    }
    TRY(made.filters_vlans, json.boolean("filters_vlans"));
    for (auto const& one : json["vlans"].elements()) {
        TRY(auto const vlan, vlan_from(one));
        made.vlans.push_back(vlan);
    }
    return made;
}

Result<std::optional<PortSettings>> port_settings(Netlink& netlink, std::string const& tap) {
    TRY(auto const port, netlink.link(tap));
    if (port.master == 0) return std::nullopt;
    TRY(auto const bridge, netlink.link(port.master));
    if (bridge.kind != "bridge") return std::nullopt;
    TRY(auto made, read_port(netlink, port.index));
    made.filters_vlans = bridge.vlan_filtering;
    if (!made.filters_vlans) made.vlans.clear();
    return made;
}

Result<> set_port_settings(Netlink& netlink, std::string const& tap, PortSettings const& settings) {
    TRY(auto const port, netlink.link(tap));
    TRY(auto const bridge, netlink.link(port.master));
    TRY_VOID(change_flags(netlink, port.index, settings.changed));
    if (!bridge.vlan_filtering || !settings.filters_vlans) return {};
    TRY(auto const now, read_port(netlink, port.index));
    if (now.vlans == settings.vlans) return {};
    TRY_VOID(change_vlans(netlink, port.index, RTM_DELLINK, now.vlans));
    return change_vlans(netlink, port.index, RTM_SETLINK, settings.vlans);
}

}  // namespace netmove
