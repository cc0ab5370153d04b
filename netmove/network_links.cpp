#include "netmove/network_links.hpp"

#include <algorithm>
#include <iterator>
#include <span>

#include "netmove/network_rules.hpp"

namespace netmove {

using core::Result;

namespace {

// How bridges of ours begin: locally administered, and rare enough that another bridge has it by
// chance once in some millions.
constexpr std::uint8_t mac_head[] = {0x02, 0x5c, 0xa2};

}  // namespace

Result<Links> Links::of(Netlink& netlink) {
    TRY(auto all, netlink.links());
    return Links{std::move(all)};
}

Link const* Links::find(std::string const& name) const {
    auto const at = std::ranges::find(all, name, &Link::name);
    return at == all.end() ? nullptr : &*at;
}

std::vector<Link> Links::ports_of(Link const& bridge) const {
    std::vector<Link> out;
    std::ranges::copy_if(all, std::back_inserter(out),
                         [&bridge](Link const& link) { return link.master == bridge.index; });
    return out;
}

bool may_be_ours(Link const& link) {
    return link.kind == "bridge" &&
           std::ranges::equal(mac_head, std::span(link.mac.bytes).first(std::size(mac_head)));
}

MacAddress network_mac(std::uint32_t number) {
    MacAddress mac;
    std::ranges::copy(mac_head, mac.bytes.begin());
    for (std::size_t i = 3; i < 6; ++i) {
        mac.bytes[i] = static_cast<std::uint8_t>(number >> (8 * (5 - i)));
    }
    return mac;
}

MacAddress mac_of_wire(std::string const& uplink) {
    std::uint32_t hash = 2'166'136'261;  // FNV-1a
    for (char const c : uplink) hash = (hash ^ static_cast<unsigned char>(c)) * 16'777'619;
    return network_mac(hash);
}

Link const* own_bridge(Links const& links, NetworkRecord const& record) {
    auto const* link = links.find(record.definition.name);
    return link != nullptr && link->kind == "bridge" && link->mac == record.mac ? link : nullptr;
}

Link const* own_wire(Links const& links, NetworkDefinition const& definition) {
    auto const* link = links.find(definition.wire());
    bool const ours =
        link != nullptr && link->kind == "bridge" && link->mac == mac_of_wire(definition.uplink);
    return ours ? link : nullptr;
}

bool is_own_port(NetworkDefinition const& definition, std::string const& port) {
    if (definition.uplink.empty()) return false;
    return port == (definition.shared_uplink ? definition.cable() : definition.uplink);
}

Result<std::string> current_rules(Nft& nft, NetworkDefinition const& definition) {
    std::vector<std::string> bridges{definition.name};
    if (definition.shared_uplink) bridges.push_back(definition.wire());
    std::string rules;
    for (auto const& bridge : bridges) {
        for (auto const& command : {list_ports(bridge), list_host(bridge)}) {
            TRY(auto const listed, nft.run_for_rules(command));
            rules += listed;
        }
    }
    return rules;
}

}  // namespace netmove
