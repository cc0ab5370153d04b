#include "sidecar/migration/source_local.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "netmove/local_address.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr std::int64_t seconds_per_minute = 60;

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

/// --release-when-idle: what the guest has without its anchor must be all that it needs.
Result<> note_release(SourceContext const& context, SourceAnchors const& anchors,
                      netmove::GuestInterface const& interface, netmove::LocalChoice& local) {
    if (!context.peer.offers(protocol::Feature::anchor_release)) {
        return fail(Errc::refused, "the sidecar of {} is too old for --release-when-idle",
                    context.options.destination);
    }
    if (interface.anchor->vxlan) {
        return fail(Errc::refused,
                    "--release-when-idle: the anchor is in the kernel (--anchor-plane=vxlan), and "
                    "only one in user space can be released so");
    }
    auto const& all = context.description.interfaces;
    if (std::ranges::count_if(all, [](auto const& one) { return one.anchor.has_value(); }) > 1) {
        return fail(Errc::refused,
                    "--release-when-idle: several interfaces of {} have an anchor, and one alone "
                    "has a local address",
                    context.guest.name);
    }
    for (auto const& address : netmove::translatable(interface.addresses)) {
        if (local.of(address.family())) continue;
        return fail(Errc::refused,
                    "--release-when-idle: the guest has {}, and would have no {} without its "
                    "anchor: name a local address of that family too",
                    address.text(), address.is_ipv4() ? "IPv4" : "IPv6");
    }
    if (anchors.leaves_home() || anchors.begins_stand_in()) {
        local.home_bridge = interface.bridge;
        return {};
    }
    TRY(auto const fars, far_records(context.guest.paths, context.guest.name));
    auto const far = std::ranges::find(fars, interface.mac, &FarRecord::mac);
    if (far != fars.end() && far->local) local.home_bridge = far->local->choice.home_bridge;
    if (far != fars.end() && local.home_bridge.empty()) local.home_bridge = far->home_bridge;
    if (!local.home_bridge.empty()) return {};
    return fail(Errc::refused,
                "--release-when-idle: which bridge the guest has at home is not known on this "
                "host; give the option when it leaves home");
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
    if (local.release_when_idle) TRY_VOID(note_release(context, anchors, *at, local));
    if (auto const valid = local.validate(); !valid) {
        return fail(Errc::refused, "{}", valid.error().sentence());
    }
    at->anchor->local = std::move(local);
    return {};
}

std::string local_choice_text(netmove::LocalChoice const& local) {
    std::vector<std::string> addresses;
    for (auto const& address : local.addresses) addresses.push_back(address.text());
    auto text = fmt::format("; reached there as {} too{}", fmt::join(addresses, " and "),
                            local.new_sessions ? ", which its new sessions use" : "");
    if (!local.release_when_idle) return text;
    return text + fmt::format(
                      "; its anchor ends when no session has used it for {} min: the guest cannot "
                      "renew a DHCP lease from its home network then",
                      limits::anchor_release_idle.count() / seconds_per_minute);
}

}  // namespace sidecar
