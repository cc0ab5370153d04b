// The nftables rules of a network, as text of nft(8), and what nftables says of them. Pure code.
//
// What a list passes, exactly (counted from the first byte of the frame, so that nothing a parser
// believes matters):
//   IPv4  EtherType 0x0800 with version 4 and a header of 20 bytes or more;
//         0x0806 with hardware type Ethernet, protocol type IPv4, lengths 6 and 4 (RFC 826)
//   IPv6  EtherType 0x86dd with version 6 and a header of 40 bytes (ND and MLD are among these)
//   both  0x8035, and in it only the announcement of a moved station: "request reverse" of RFC 903
//         without an address of any protocol in it, as QEMU and the bridge mover send it; and the
//         EtherTypes that were named, whatever is in them
// So no VLAN tag (0x8100, 0x88a8 or another, once or twice), no 802.3 length with LLC or SNAP
// after it, and no other EtherType with a packet of the other protocol in it. What a packet of the
// network's own protocol carries is its payload, another packet in a tunnel too: only the
// tunnel's ends make a frame of that.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "netmove/network.hpp"

namespace netmove {

/// The two tables of a network, or of a wire, have one name.
std::string table_name(std::string const& bridge);

/// Replaces the network's tables by new ones, in one transaction. The bridge must be there.
/// `ports`: link indices that are under the rules from the first moment.
std::string network_rules(NetworkDefinition const& definition, std::vector<int> const& ports);

/// The same for the bridge of a shared wire: it passes everything from port to port (the wire
/// carries both protocols), and nothing to the host.
std::string wire_rules(std::string const& wire, std::vector<int> const& ports);

/// Commands that ask whether this kernel and this user can have such rules; for Nft::try_out().
std::string trial_rules();

/// Each for a run of its own: nft does not list two families at a time.
std::string list_ports(std::string const& bridge);  ///< The table `bridge`.
std::string list_host(std::string const& bridge);  ///< The table `netdev`.
std::string delete_rules(std::string const& bridge);
std::string add_port(std::string const& bridge, int port);

/// The chain that every frame passes: its name gives the protocol.
std::string_view list_chain(Protocol protocol);

/// Of `list table` as JSON: the set `ports`, by name, or by index when there is no such interface.
std::vector<std::string> ports_in(core::Json const& listed);
/// ... and how many frames its list dropped.
std::uint64_t dropped_in(core::Json const& listed);

/// Lines of one text that the other has not: "the rule `...` is missing", "... is not ours".
std::vector<std::string> rule_differences(std::string const& wanted, std::string const& found);

}  // namespace netmove
