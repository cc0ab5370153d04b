// The nftables rules of a local address, as text of nft(8). Pure code.
//
// Table `netdev`: which session a frame belongs to. A session is known by the guest's address and
// the other end's, protocol and ports; echo requests by their identifier. Sets of the table:
//   home, home_echo      go home. What is here is never translated.
//   direct, direct_echo  are translated by this host.
//   ending               have sent FIN: they are forgotten soon.
//   fragments            of direct packets: only the first fragment has ports.
//   started, settling    the guest has sent its first frame here; less than settling_s ago.
//   gateways             the stations that the guest sends packets for other networks to; only if
//                        its anchor is to be released (home_gateway.hpp).
// Chains: `leave` at the tunnel, guest to home; `arrive` there, home to guest; `enter` at the
// cable, this host to guest.
//
// A session of the guest is new, and so may become direct, if its first packet is
//   TCP             a SYN;
//   UDP, UDP-Lite, echo requests
//                   sent later than settling_s after the guest came, and not seen for as long.
// Other protocols, and what is sent to the home network or to this host itself, stay home.
//
// Table `inet`: the translation, in a conntrack zone of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "netmove/local_address.hpp"

namespace netmove {

/// How long a gateway of the guest stays known after a packet to it.
constexpr int gateway_known_s = 600;
/// How long a UDP session may be silent and goes on: NATs keep it as long (RFC 4787, REQ-5).
constexpr int settling_s = 300;
/// Sessions that one set holds: as many as a host's conntrack table holds by default, a quarter. A
/// session that finds the set full is home, or does not begin.
constexpr int local_sessions_max = 65'535;

/// Both tables have this name.
std::string local_table(std::string const& bridge);
/// Replaces both tables by new ones, in one transaction. The links must be there.
std::string local_rules(LocalAddress const& local);
std::string delete_local_rules(std::string const& bridge);

/// Each for a run of its own.
std::string list_local_sessions(std::string const& bridge);  ///< The table `netdev`.
std::string list_local_translation(std::string const& bridge);  ///< The table `inet`.
std::string list_local_counters(std::string const& bridge);
/// Of the set `gateways`.
std::string list_local_gateways(std::string const& bridge);
/// Whether what these two list has all its links; they vanish from it with the link.
bool local_rules_complete(LocalAddress const& local, std::string const& sessions,
                          std::string const& translation);

/// Sets of the table `netdev` whose elements are sessions.
/// IPv4, IPv6. A family without a local address has none.
constexpr std::string_view home_sets[] = {"home4", "home6"};
constexpr std::string_view direct_sets[] = {"direct4", "direct6"};

/// Something that the rules need of the kernel, and a trial of it for Nft::try_out().
struct LocalNeed {
    std::string name;  ///< "network address translation (CONFIG_NFT_NAT)"
    std::string trial;
};
/// The last is the whole: what no other names.
std::vector<LocalNeed> local_needs();

}  // namespace netmove
