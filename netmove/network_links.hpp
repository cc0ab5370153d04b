// Which of the host's links belong to a network: what network.cpp and network_check.cpp use.
#pragma once

#include <string>
#include <vector>

#include "netmove/network.hpp"
#include "netmove/nft.hpp"

namespace netmove {

/// All links of the host at one moment.
struct Links {
    std::vector<Link> all;

    static core::Result<Links> of(Netlink& netlink);
    [[nodiscard]] Link const* find(std::string const& name) const;
    [[nodiscard]] std::vector<Link> ports_of(Link const& bridge) const;
};

/// The address by which the bridge of a wire is known as ours; it never sends.
MacAddress mac_of_wire(std::string const& uplink);
/// An address of a network's bridge. `number`: what makes it different from others.
MacAddress network_mac(std::uint32_t number);
/// Whether the bridge has such an address; that it is ours the record says, or its rules.
bool may_be_ours(Link const& link);

/// The bridge of the network when it is there and the one that was made; else null.
Link const* own_bridge(Links const& links, NetworkRecord const& record);
/// The same of the wire.
Link const* own_wire(Links const& links, NetworkDefinition const& definition);
/// A port that is the network's own: how it reaches the wire.
bool is_own_port(NetworkDefinition const& definition, std::string const& port);

/// What nftables lists of the network and its wire now.
core::Result<std::string> current_rules(Nft& nft, NetworkDefinition const& definition);

}  // namespace netmove
