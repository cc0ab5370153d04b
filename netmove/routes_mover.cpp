#include "netmove/routes_mover.hpp"

#include <linux/neighbour.h>

#include <algorithm>

#include "netmove/routed_tap.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

RoutingRule rule(Address::Family family) {
    RoutingRule made;
    made.family = family;
    made.table = guest_routes_table;
    made.priority = guest_rule_priority;
    made.not_mark = guest_rule_not_mark;
    made.protocol = guest_routes_protocol;
    return made;
}

TableRoute route_to(GuestAddress const& entry, int link, std::uint32_t metric) {
    auto const& address = entry.address;
    return {address, static_cast<int>(address.bytes().size() * 8), link, metric,
            guest_routes_protocol};
}

Result<> add_rules(Netlink& netlink, GuestInterface const& interface) {
    for (auto const& entry : interface.addresses) {
        TRY_VOID(netlink.add_rule(rule(entry.address.family())));
    }
    return {};
}

/// A route comes last: a routing daemon announces it at once, and what then arrives must find the
/// rule that leads to it, and a neighbour entry, because a stopped guest would not answer ARP. The
/// rules are there again in the end if a guest that left has removed them meanwhile.
Result<> write_routes(Netlink& netlink, GuestInterface const& interface, int link) {
    TRY_VOID(add_rules(netlink, interface));
    for (auto const& entry : interface.addresses) {
        TRY_VOID(netlink.replace_neighbour(link, entry.address, interface.mac, NUD_PERMANENT));
        TRY_VOID(netlink.write_route(guest_routes_table,
                                     route_to(entry, link, guest_metric(interface.renewals))));
    }
    return add_rules(netlink, interface);
}

Result<std::vector<TableRoute>> routes_on(Netlink& netlink, int link) {
    TRY(auto all, netlink.routes(guest_routes_table));
    std::erase_if(all, [link](TableRoute const& route) {
        return route.link != link || route.protocol != guest_routes_protocol;
    });
    return all;
}

/// Deletes all but those that `interface` has; an interface without addresses has none.
Result<> delete_others(Netlink& netlink, GuestInterface const& interface, int link) {
    TRY(auto const all, routes_on(netlink, link));
    for (auto const& route : all) {
        bool const wanted =
            route.metric == guest_metric(interface.renewals) &&
            std::ranges::any_of(interface.addresses, [&route](GuestAddress const& entry) {
                return entry.address == route.destination;
            });
        if (!wanted) TRY_VOID(netlink.delete_route(guest_routes_table, route));
    }
    return {};
}

Result<> delete_neighbours(Netlink& netlink, int link) {
    TRY(auto const all, netlink.neighbours(link));
    for (auto const& entry : all) {
        if (entry.permanent()) TRY_VOID(netlink.delete_neighbour(link, entry.address));
    }
    return {};
}

/// A guest that comes meanwhile may find the rule still there, so the table is looked at again.
Result<> remove_unneeded_rules(Netlink& netlink) {
    TRY(auto const before, netlink.routes(guest_routes_table));
    if (!before.empty()) return {};
    for (auto const family : {Address::Family::ipv4, Address::Family::ipv6}) {
        TRY_VOID(netlink.delete_rule(rule(family)));
    }
    TRY(auto const after, netlink.routes(guest_routes_table));
    for (auto const& route : after) TRY_VOID(netlink.add_rule(rule(route.destination.family())));
    return {};
}

/// No other tap of this host has a route to an address of the guest.
Result<> check_free(Netlink& netlink, GuestInterface const& interface, int link) {
    TRY(auto const all, netlink.routes(guest_routes_table));
    for (auto const& route : all) {
        bool const same = std::ranges::any_of(
            interface.addresses,
            [&route](GuestAddress const& entry) { return entry.address == route.destination; });
        if (!same || route.link == link) continue;
        TRY(auto const other, netlink.link(route.link));
        return fail(Errc::refused, "{} is routed to another guest of this host, on the tap {}",
                    route.destination.text(), other.name);
    }
    return {};
}

class RoutesHalf : public Mover {
public:
    RoutesHalf(Netlink& netlink, GuestInterface interface)
        : netlink_(netlink), interface_(std::move(interface)) {}

    [[nodiscard]] std::string_view name() const override { return "routes"; }
    [[nodiscard]] std::vector<std::string> moves() const override {
        std::vector<std::string> out;
        for (auto const& entry : interface_.addresses) out.push_back(entry.address.text());
        return out;
    }
    // The addresses of a routed guest are those that the operator gave.
    void update(GuestInterface const&) override {}

protected:
    Netlink& netlink_;
    GuestInterface interface_;
};

class RoutesSource final : public RoutesHalf {
public:
    using RoutesHalf::RoutesHalf;

    core::Task<Result<>> prepare(core::Deadline) override {
        CO_TRY_VOID(check_routing(netlink_, interface_.addresses));
        CO_TRY_VOID(claim_routes(netlink_, interface_));
        prepared_ = true;
        co_return Result<>{};
    }

    Result<> fire() override {
        fired_ = true;
        return {};
    }

    bool may_release() override {
        auto const link = netlink_.find_link(interface_.tap);
        if (!link || !*link) return true;
        return std::ranges::all_of(interface_.addresses, [&](GuestAddress const& entry) {
            auto const route = netlink_.route_with_mark(entry.address, guest_rule_not_mark);
            return route && *route && (*route)->link != (*link)->index &&
                   (*route)->prefix_length == static_cast<int>(entry.address.bytes().size() * 8);
        });
    }

    Result<> release() override { return remove_routes(netlink_, interface_.tap); }
    core::Task<Result<>> settle(core::Deadline) override { co_return release(); }

    // Without waiting for the destination's half: that host may be unreachable.
    Result<> rollback() override {
        if (prepared_ && !fired_) return {};
        auto renewed_here = interface_;
        renewed_here.renewals = renewed(interface_.renewals, 2);
        return claim_routes(netlink_, renewed_here);
    }

private:
    bool prepared_ = false;
    bool fired_ = false;
};

class RoutesDestination final : public RoutesHalf {
public:
    RoutesDestination(Netlink& netlink, Tap const& tap, GuestInterface interface)
        : RoutesHalf(netlink, std::move(interface)), tap_(tap) {}

    core::Task<Result<>> prepare(core::Deadline) override {
        CO_TRY_VOID(check_routing(netlink_, interface_.addresses));
        CO_TRY_VOID(
            place_routed_tap(netlink_, interface_.tap, {interface_.addresses, interface_.mtu, 0}));
        CO_TRY(auto const link, netlink_.link(interface_.tap));
        CO_TRY_VOID(check_free(netlink_, interface_, link.index));
        CO_TRY_VOID(tap_.drain());
        link_ = link.index;
        co_return Result<>{};
    }

    Result<> fire() override {
        if (link_ == 0) return claim_routes(netlink_, interface_);  // made after a restart
        return write_routes(netlink_, interface_, link_);
    }

    core::Task<Result<>> settle(core::Deadline) override { co_return Result<>{}; }

    Result<> rollback() override { return remove_routes(netlink_, interface_.tap); }

private:
    Tap const& tap_;
    int link_ = 0;  ///< The tap's, from prepare() on.
};

}  // namespace

std::uint32_t guest_metric(std::uint32_t renewals) {
    return guest_metric_first - std::min(renewals, guest_renewals_max);
}

std::uint32_t renewed(std::uint32_t renewals, std::uint32_t more) {
    return renewals + more <= guest_renewals_max ? renewals + more : more;
}

Result<> claim_routes(Netlink& netlink, GuestInterface const& interface) {
    TRY(auto const link, netlink.link(interface.tap));
    TRY_VOID(check_free(netlink, interface, link.index));
    TRY_VOID(write_routes(netlink, interface, link.index));
    return delete_others(netlink, interface, link.index);
}

Result<std::optional<std::uint32_t>> renewals_of(Netlink& netlink, std::string const& tap) {
    std::optional<std::uint32_t> out;
    TRY(auto const link, netlink.find_link(tap));
    if (!link) return out;
    TRY(auto const all, routes_on(netlink, link->index));
    for (auto const& route : all) {
        if (route.metric > guest_metric_first) continue;
        auto const renewals = guest_metric_first - route.metric;
        if (renewals <= guest_renewals_max) out = std::max(out.value_or(0), renewals);
    }
    return out;
}

Result<> remove_routes(Netlink& netlink, std::string const& tap) {
    TRY(auto const link, netlink.find_link(tap));
    if (link) {
        TRY_VOID(delete_others(netlink, {}, link->index));
        TRY_VOID(delete_neighbours(netlink, link->index));
    }
    return remove_unneeded_rules(netlink);
}

std::unique_ptr<Mover> routes_mover_source(Netlink& netlink, GuestInterface const& interface) {
    return std::make_unique<RoutesSource>(netlink, interface);
}

std::unique_ptr<Mover> routes_mover_destination(Netlink& netlink, Tap const& tap,
                                                GuestInterface const& interface) {
    return std::make_unique<RoutesDestination>(netlink, tap, interface);
}

}  // namespace netmove
