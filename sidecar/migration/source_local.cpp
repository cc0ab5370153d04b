#include "sidecar/migration/source_local.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/guest/preflight.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// Of the home network: what its bridge on this host says, or what an earlier move has recorded.
Result<std::vector<netmove::HostAddress>> home_subnets(SourceContext const& context,
                                                       SourceAnchors const& anchors,
                                                       netmove::GuestInterface const& interface) {
    if (!anchors.leaves_home() && !anchors.begins_stand_in()) {
        TRY(auto const fars, far_records(context.guest.paths, context.guest.name));
        auto const far = std::ranges::find(fars, interface.mac, &FarRecord::mac);
        if (far == fars.end() || !far->local) return std::vector<netmove::HostAddress>();
        return far->local->choice.home;
    }
    std::vector<netmove::HostAddress> home;
    TRY(auto const subnets, subnets_of(*context.guest.netlink, interface.bridge));
    for (auto const& text : subnets.value_or(std::vector<std::string>())) {
        if (home.size() == netmove::home_subnets_max) break;
        TRY(auto const subnet, netmove::HostAddress::parse(text));
        home.push_back(subnet);
    }
    return home;
}

}  // namespace

Result<> check_local_choice(SourceContext const& context, SourceAnchors const& anchors) {
    if (context.options.local.addresses.empty()) return {};
    if (anchors.empty()) {
        return fail(Errc::refused,
                    "--local-address is for a guest that moves by an anchor, and no interface of "
                    "{} does: --network=anchor moves it so",
                    context.guest.name);
    }
    if (!anchors.returns_home()) return {};
    return fail(Errc::refused,
                "{} returns to its home network: --local-address is for a host of another network",
                context.guest.name);
}

Result<> note_local_choice(SourceContext const& context, SourceAnchors const& anchors) {
    if (context.options.local.addresses.empty()) return {};
    if (!context.peer.offers(protocol::Feature::local_address)) {
        return fail(Errc::refused, "the sidecar of {} is too old for --local-address",
                    context.options.destination);
    }
    auto& all = context.description.interfaces;
    auto const at =
        std::ranges::find_if(all, [](auto const& one) { return one.anchor.has_value(); });
    if (at == all.end()) return {};
    auto local = context.options.local;
    if (local.home.empty()) {
        TRY(local.home, home_subnets(context, anchors, *at));
    }
    for (auto const& address : local.addresses) {
        auto const of_family = [&address](netmove::HostAddress const& subnet) {
            return subnet.address.family() == address.family();
        };
        if (!local.new_sessions || std::ranges::any_of(local.home, of_family)) continue;
        return fail(Errc::refused,
                    "--new-sessions=local: the {} subnet of the guest's home network is not known, "
                    "because {} has no address of it: name it (--home-subnet)",
                    address.is_ipv4() ? "IPv4" : "IPv6", at->bridge);
    }
    if (auto const valid = local.validate(); !valid) {
        return fail(Errc::refused, "{}", valid.error().sentence());
    }
    at->anchor->local = std::move(local);
    return {};
}

std::string local_choice_text(netmove::LocalChoice const& local) {
    std::vector<std::string> addresses;
    for (auto const& address : local.addresses) addresses.push_back(address.text());
    return fmt::format("; reached there as {} too{}", fmt::join(addresses, " and "),
                       local.new_sessions ? ", which its new sessions use" : "");
}

}  // namespace sidecar
