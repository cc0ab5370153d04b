// A local address: a guest that runs here and keeps its home network through an anchor (its frames
// take a tunnel) has an address of this host's network too. This host translates it. Used by the
// far end of an anchor.
//
//   guest's tap ─┬─ bridge ─┬─ tap of the tunnel ═══ the anchor, on the home network
//                           └─ port ══ end ── this host: routing, NAT ── its network
//
// Sessions of two kinds leave the guest with the same addresses:
//   home    All that were there before the move, all that come from home, and those that the guest
//           opens unless new_sessions says otherwise. Their frames are not touched.
//   direct  Those that arrive at the local address, and with new_sessions those that the guest
//           opens. This host routes them, and translates the guest's address to the local one.
//
// Where a frame of the guest is about to take the tunnel, the rules (local_rules.hpp) look at its
// session: a direct one is turned to `end`. So the tunnel, the bridge and the guest are the same
// with and without a local address, and what the rules do not know goes home.
//
// Invariant: a session that is home stays home. A frame of it that comes from home makes a session
// home again that was taken for a new one.
//
// All names are of this one interface: two nftables tables, the cable, and one number that is the
// firewall mark, the routing table and the conntrack zone. So two guests may have the same address
// at home, also one that this host's network uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "core/loop.hpp"
#include "core/result.hpp"
#include "core/task.hpp"
#include "netmove/local_choice.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// The first of the numbers; each local address of a host has its own. Marks and tables of other
/// programs begin at 1, or are above 2^16.
constexpr std::uint32_t local_number_first = 47'900;
/// As many as a host has far ends.
constexpr std::uint32_t local_numbers_max = 4'096;

/// Whether a conntrack zone is one of a local address. Its sessions end with that address: no other
/// host can continue them.
constexpr bool is_local_zone(std::uint16_t zone) {
    return zone >= local_number_first && zone < local_number_first + local_numbers_max;
}

/// One interface of a guest that has a local address on this host.
struct LocalAddress {
    std::string bridge;  ///< The guest's own on this host; the tables are named after it.
    std::string tunnel_tap;
    std::string port;  ///< Made: the cable's end in the bridge.
    std::string end;  ///< Made: the cable's end where this host routes.
    MacAddress end_mac;
    MacAddress guest_mac;
    /// Of the guest, at home. The first of each family stands for the local address.
    std::vector<Address> guest_addresses;
    int mtu = 1500;
    std::uint32_t number = 0;
    LocalChoice choice;

    /// The guest's address that the local one of this family stands for.
    [[nodiscard]] std::optional<Address> guest_address(Address::Family family) const;
};

/// The guest's addresses that can be translated: no link-local ones, none in a VLAN.
std::vector<Address> translatable(std::vector<GuestAddress> const& addresses);

/// Whether this kernel can translate a local address. Fails with refused, naming what it lacks.
core::Result<> check_local_kernel();

/// Whether this host can translate. Fails with refused, saying what to change: what the kernel
/// lacks, by its name; no forwarding; a local address that is of no network of this host, or the
/// host's own already; a guest without an address of that family, or with one of this host's.
/// Changes nothing.
core::Result<> check_local_address(Netlink& netlink, std::vector<Address> const& guest_addresses,
                                   LocalChoice const& choice);

/// The interface of this host whose network has `address`. Fails with refused.
core::Result<int> local_uplink(Netlink& netlink, Address const& address);

/// Asks in the networks of this host whether a station has one of these addresses already. Fails
/// with refused, naming the station. Takes local_question_time.
core::Task<core::Result<>> check_local_unused(core::Loop& loop, Netlink& netlink,
                                              std::vector<Address> addresses);
/// Stations answer within milliseconds; the question is asked three times in it. (RFC 5227 waits
/// for 3 to 7 s, RFC 4862 for 1 s.)
constexpr core::milliseconds local_question_time{900};

/// Makes what is not there. What is there stays as it is, with the sessions that it knows. After a
/// failure the caller removes it.
core::Result<> make_local_address(Netlink& netlink, LocalAddress const& local);
/// Removes all of it, also what a failed make_local_address() left. Goes on past what fails, and
/// returns the first failure.
core::Result<> remove_local_address(Netlink& netlink, LocalAddress const& local);

/// After remove_local_address(): the kernel forgets the direct sessions, so that the number can be
/// used for another guest.
core::Task<core::Result<>> forget_local_sessions(core::Loop& loop, LocalAddress local,
                                                 core::Deadline deadline);

/// The sessions of a guest that has a local address, as this host has seen them since the move.
struct LocalSessions {
    std::uint64_t home = 0;  ///< Through the anchor.
    std::uint64_t direct = 0;
    std::uint64_t packets_in = 0;  ///< Of direct sessions, to the guest.
    std::uint64_t packets_out = 0;
};
/// Fails with netlink. A session counts until it is idle: TCP for 5 days, or 2 minutes after FIN;
/// others for 5 minutes.
/// With `packets` it takes longer, because libnftables then reads all of the table.
core::Result<LocalSessions> local_sessions(LocalAddress const& local, bool packets = true);

/// The stations that the guest sends packets for other networks to, of those minutes
/// (gateway_known_s); empty without LocalChoice::release_when_idle. Fails with netlink.
core::Result<std::vector<MacAddress>> local_gateways(LocalAddress const& local);

}  // namespace netmove
