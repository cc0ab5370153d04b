#include "netmove/local_address.hpp"

#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "netmove/conntrack.hpp"
#include "netmove/frame.hpp"
#include "netmove/local_rules.hpp"
#include "netmove/nft.hpp"
#include "netmove/routed_tap.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Before the main table (32766), and before that of routed guests.
constexpr std::uint32_t local_rule_priority = 32'690;
constexpr std::uint32_t number_end = local_number_first + local_numbers_max;

int host_length(Address const& address) { return static_cast<int>(address.bytes().size() * 8); }

RoutingRule rule_of(LocalAddress const& local, Address::Family family) {
    RoutingRule rule;
    rule.family = family;
    rule.table = local.number;
    rule.priority = local_rule_priority;
    rule.mark = local.number;
    rule.protocol = guest_routes_protocol;
    return rule;
}

std::string_view family_name(Address::Family family) {
    return family == Address::Family::ipv4 ? "IPv4" : "IPv6";
}

Result<int> uplink_of(std::vector<InterfaceAddress> const& own, Address const& address) {
    InterfaceAddress const* best = nullptr;
    for (auto const& one : own) {
        bool const network =
            !one.address.is_link_local() && one.prefix_length < host_length(address);
        if (!network || !covers({one.address, one.prefix_length}, address)) continue;
        if (best == nullptr || one.prefix_length > best->prefix_length) best = &one;
    }
    if (best != nullptr) return best->link;
    return fail(Errc::refused,
                "no interface of this host is in the network of {}: a local address is one of this "
                "host's networks",
                address.text());
}

bool is_own(std::vector<InterfaceAddress> const& own, Address const& address) {
    return std::ranges::find(own, address, &InterfaceAddress::address) != own.end();
}

Result<> check_families(std::vector<Address> const& guest_addresses, LocalChoice const& choice) {
    for (auto const& address : choice.addresses) {
        auto const family = address.family();
        if (std::ranges::find(guest_addresses, family, &Address::family) == guest_addresses.end()) {
            return fail(Errc::refused,
                        "the guest has no {} address that {} could stand for; if it has one that "
                        "its traffic has not shown, name it (`sidecar attach --address`)",
                        family_name(family), address.text());
        }
    }
    return {};
}

Result<> check_home_addresses(std::vector<InterfaceAddress> const& own,
                              std::vector<Address> const& guest_addresses,
                              LocalChoice const& choice) {
    for (auto const& address : guest_addresses) {
        if (!choice.of(address.family()) || !is_own(own, address)) continue;
        return fail(Errc::refused,
                    "{} is the guest's address at home, and an address of this host too: its "
                    "direct sessions would end here",
                    address.text());
    }
    return {};
}

/// Down, so that nothing of this host is on it before the rules hold.
Result<> make_cable(Netlink& netlink, LocalAddress const& local) {
    TRY(auto const there, netlink.find_link(local.end));
    if (!there) TRY_VOID(netlink.make_veth(local.port, local.end));
    TRY_VOID(make_quiet(netlink, local.port));
    TRY(auto const end, netlink.link(local.end));
    if (end.mac != local.end_mac) TRY_VOID(netlink.set_mac(local.end, local.end_mac));
    for (auto const& link : {local.port, local.end}) {
        TRY(auto const now, netlink.link(link));
        if (now.mtu != local.mtu) TRY_VOID(netlink.set_mtu(link, local.mtu));
    }
    if (local.choice.of(Address::Family::ipv4)) {
        Ipv4Settings settings;
        settings.forwarding = true;
        settings.source_by_mark = true;  // a strict rp_filter finds the guest in our table
        TRY_VOID(netlink.set_ipv4(local.end, settings));
    }
    if (local.choice.of(Address::Family::ipv6)) {
        TRY_VOID(make_ipv6_router(netlink, local.end));
    } else {
        TRY_VOID(make_quiet(netlink, local.end));
    }
    TRY(auto const bridge, netlink.link(local.bridge));
    TRY(auto port, netlink.link(local.port));
    if (port.master != bridge.index) TRY_VOID(netlink.set_master(local.port, local.bridge));
    // Only what the rules turn here comes here.
    BridgePort hidden;
    hidden.learning = hidden.unicast_flood = false;
    hidden.multicast_flood = hidden.broadcast_flood = false;
    return netlink.set_bridge_port(port.index, hidden);
}

Result<> make_rules(LocalAddress const& local) {
    TRY(auto nft, Nft::open());
    auto const sessions = nft.run_for_rules(list_local_sessions(local.bridge));
    auto const translation = nft.run_for_rules(list_local_translation(local.bridge));
    if (sessions && translation && local_rules_complete(local, *sessions, *translation)) return {};
    TRY_VOID(nft.run(local_rules(local)));
    return {};
}

Result<> make_routes(Netlink& netlink, LocalAddress const& local) {
    TRY_VOID(netlink.set_up(local.port));
    TRY_VOID(netlink.set_up(local.end));
    TRY(auto const end, netlink.link(local.end));
    for (auto const& address : local.guest_addresses) {
        if (!local.choice.of(address.family())) continue;
        TRY_VOID(netlink.replace_neighbour(end.index, address, local.guest_mac, NUD_PERMANENT));
        TRY_VOID(netlink.write_route(
            local.number, {address, host_length(address), end.index, 0, guest_routes_protocol}));
    }
    for (auto const& address : local.choice.addresses) {
        TRY_VOID(netlink.add_rule(rule_of(local, address.family())));
    }
    return {};
}

/// Best effort: a station that had the address in its cache learns ours at its next question.
void announce(Link const& uplink, Address const& address) {
    core::Fd const fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!fd || !uplink.mac.is_unicast()) return;
    auto const frame = address.is_ipv4() ? gratuitous_arp(uplink.mac, address, ArpForm::request)
                                         : neighbour_advertisement(uplink.mac, address, true);
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = uplink.index;
    (void)::sendto(fd.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to),
                   sizeof to);
}

Result<> take_addresses(Netlink& netlink, LocalAddress const& local) {
    TRY(auto const own, netlink.addresses());
    for (auto const& address : local.choice.addresses) {
        if (is_own(own, address)) continue;
        TRY(int const index, uplink_of(own, address));
        TRY(auto const uplink, netlink.link(index));
        TRY_VOID(netlink.add_address(uplink.name, address, host_length(address), true));
        announce(uplink, address);
    }
    return {};
}

}  // namespace

std::optional<Address> LocalAddress::guest_address(Address::Family family) const {
    auto const at = std::ranges::find(guest_addresses, family, &Address::family);
    return at == guest_addresses.end() ? std::nullopt : std::optional(*at);
}

std::vector<Address> translatable(std::vector<GuestAddress> const& addresses) {
    std::vector<Address> out;
    for (auto const& [address, vlan] : addresses) {
        if (vlan == 0 && address.is_host() && !address.is_link_local()) out.push_back(address);
    }
    return out;
}

Result<> check_local_kernel() {
    TRY(auto nft, Nft::open());
    for (auto const& need : local_needs()) {
        auto const tried = nft.try_out(need.trial);
        if (tried) continue;
        if (tried.error().os == EPERM) return tried;
        return fail(Errc::refused, "this kernel cannot translate a local address: {}: {}",
                    need.name, tried.error().sentence());
    }
    return {};
}

Result<int> local_uplink(Netlink& netlink, Address const& address) {
    TRY(auto const own, netlink.addresses());
    return uplink_of(own, address);
}

Result<> check_local_address(Netlink& netlink, std::vector<Address> const& guest_addresses,
                             LocalChoice const& choice) {
    TRY_VOID(choice.validate());
    TRY_VOID(check_families(guest_addresses, choice));
    TRY_VOID(check_local_kernel());
    std::vector<GuestAddress> forwarded;
    for (auto const& address : choice.addresses) forwarded.push_back({address, 0});
    TRY_VOID(check_forwarding(forwarded));
    TRY(auto const own, netlink.addresses());
    for (auto const& address : choice.addresses) {
        if (is_own(own, address)) {
            return fail(Errc::refused,
                        "{} is an address of this host already: a local address is "
                        "the guest's alone",
                        address.text());
        }
        TRY_VOID(uplink_of(own, address));
    }
    return check_home_addresses(own, guest_addresses, choice);
}

Result<> make_local_address(Netlink& netlink, LocalAddress const& local) {
    if (local.number < local_number_first || local.number >= number_end) {
        return fail(Errc::invalid, "{} is no number of a local address", local.number);
    }
    TRY_VOID(make_cable(netlink, local));
    TRY_VOID(make_rules(local));
    TRY_VOID(make_routes(netlink, local));
    return take_addresses(netlink, local);
}

Result<> remove_local_address(Netlink& netlink, LocalAddress const& local) {
    Result<> first;
    auto const keep = [&first](auto const& done) {
        if (!done && first) first = std::unexpected(done.error());
    };
    auto const own = netlink.addresses();
    keep(own);
    for (auto const& address : local.choice.addresses) {
        for (auto const& one : own ? *own : std::vector<InterfaceAddress>()) {
            if (one.address != address || one.prefix_length != host_length(address)) continue;
            keep(netlink.delete_address(one.link, address, one.prefix_length));
        }
        keep(netlink.delete_rule(rule_of(local, address.family())));
    }
    auto nft = Nft::open();
    keep(nft);
    if (nft) keep(nft->run(delete_local_rules(local.bridge)));
    auto const end = netlink.find_link(local.end);
    keep(end);
    if (end && *end) keep(netlink.delete_link(local.end));  // its routes and neighbours go with it
    return first;
}

Task<Result<>> forget_local_sessions(core::Loop& loop, LocalAddress local,
                                     core::Deadline deadline) {
    CO_TRY(auto conntrack, Conntrack::open());
    CO_TRY(auto const dump, co_await conntrack.dump(loop, local.guest_addresses, deadline));
    std::vector<ConntrackKey> ours;
    for (auto const& [key, entry] : dump.entries) {
        if (key.zone == local.number) ours.push_back(key);
    }
    CO_TRY_VOID(conntrack.remove(ours));
    co_return Result<>{};
}

}  // namespace netmove
