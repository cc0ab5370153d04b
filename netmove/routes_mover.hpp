// The `routes` mover: the hosts are in one routing domain, in different subnets or not. A guest's
// addresses are /32 and /128 routes to its routed tap (routed_tap.hpp), in a routing table of their
// own. A routing daemon on the host (BIRD 2: docs/recipes/bird.conf) learns them from there and
// announces them.
//
// From fire() to settle() both hosts announce the same addresses, and the newer must win on every
// router. So the metric carries how often the guest's routes have been renewed: lower is newer. The
// daemon makes it a preference that its protocol carries (with BGP: local_pref).
//
//   run          metric first
//   move         the destination's is one lower than the source's
//   rollback     the source's new one is two lower than its old one, and so beats the destination's
//                at once, also when that host is unreachable
//
// The host's rule for the table comes before that for the main table. So a host with a guest's tap
// sends to it, whatever the daemon has learnt about that address from others. That is what lets
// frames on their way reach the source's tap until the routers know the guest's new place.
#pragma once

#include <cstdint>
#include <memory>

#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove {

/// Of the guests' routes. The main table is 254; 4790 is also the port of `serve`.
constexpr std::uint32_t guest_routes_table = 4790;
/// rtm_protocol of the guests' routes and rules: of the numbers above 127, which the kernel leaves
/// to programs, one that iproute2's rt_protos and FRR do not name.
constexpr int guest_routes_protocol = 151;
/// Just before the main table (32766) and before rules that wg-quick puts there.
constexpr std::uint32_t guest_rule_priority = 32'700;
/// Lookups with this firewall mark pass the table by: how we ask what the routers say.
constexpr std::uint32_t guest_rule_not_mark = 4790;
/// The metric of a guest that has never moved.
constexpr std::uint32_t guest_metric_first = 100'000;
/// Renewals after which the counter begins again: BIRD's own preference, which must tell them
/// apart too, has 16 bits. A move in which that happens is slower, not less safe.
constexpr std::uint32_t guest_renewals_max = 60'000;

/// The metric of routes that were renewed so often.
[[nodiscard]] std::uint32_t guest_metric(std::uint32_t renewals);
/// `renewals` and `more` of them.
[[nodiscard]] std::uint32_t renewed(std::uint32_t renewals, std::uint32_t more);

/// Makes the routes and neighbour entries of a guest on its tap, and the rule. Others of the tap
/// are deleted. Fails with refused if another interface has a route to one of its addresses.
core::Result<> claim_routes(Netlink& netlink, GuestInterface const& interface);
/// How often the routes of this tap were renewed; none: it has none. The kernel's table is the
/// record: a rollback by the watchdog is counted too.
core::Result<std::optional<std::uint32_t>> renewals_of(Netlink& netlink, std::string const& tap);
/// Removes what is on this tap, if it is still there, and the rule if no other guest needs it.
core::Result<> remove_routes(Netlink& netlink, std::string const& tap);

/// Source half. `netlink` must outlive it.
/// prepare: the routes are there, and this host may route.
/// fire: nothing; the routes stay, for frames that are on their way.
/// may_release: this host's own routes lead elsewhere, so the routers know the guest's new place.
/// release, settle: the routes are removed.
/// rollback: the routes are renewed.
std::unique_ptr<Mover> routes_mover_source(Netlink& netlink, GuestInterface const& interface);

/// Destination half: `interface.renewals` is already that of this host. `netlink` must outlive it.
/// prepare: the tap is the guest's gateway, and no other interface has its addresses.
/// fire: the neighbour entries and the routes. rollback: they are removed.
std::unique_ptr<Mover> routes_mover_destination(Netlink& netlink, Tap const& tap,
                                                GuestInterface const& interface);

}  // namespace netmove
