#include "sidecar/cli/move_options.hpp"

#include <CLI/CLI.hpp>

#include "core/stream.hpp"

namespace sidecar {

using core::Result;

void MoveFlags::add_to(CLI::App& app) {
    app.add_option("--network", network_,
                   "How the guest's addresses move: auto, bridge, vxlan, evpn, or anchor (to "
                   "another subnet; frames take a tunnel)")
        ->check(CLI::IsMember({"auto", "bridge", "vxlan", "evpn", "anchor"}))
        ->capture_default_str();
    app.add_option("--anchor", anchor_host_,
                   "HOST[:PORT] of a `sidecar serve` in the guest's network that is to be its "
                   "anchor, so that this host can be switched off (implies --network=anchor)");
    app.add_option(
           "--anchor-plane", anchor_plane_,
           "With an anchor that begins: udp, an encrypted tunnel of `serve` that passes "
           "every path; or vxlan, in the kernel and in clear, for a path of large enough MTU")
        ->check(CLI::IsMember({"udp", "vxlan"}))
        ->capture_default_str();
    app.add_option("--vxlan-port", vxlan_port_, "UDP port of --anchor-plane=vxlan, on both hosts")
        ->check(CLI::Range(1, UINT16_MAX))
        ->capture_default_str();
    auto* address =
        app.add_option("--local-address", addresses_,
                       "With an anchor: an address of the destination's network, at which the "
                       "guest is reached without the tunnel; one of each family")
            ->allow_extra_args(false);
    app.add_option("--new-sessions", new_sessions_,
                   "Which address sessions that the guest opens use: home, or local")
        ->needs(address)
        ->check(CLI::IsMember({"home", "local"}))
        ->capture_default_str();
    app.add_flag("--release-when-idle", release_when_idle_,
                 "With --local-address and --new-sessions=local: the anchor ends when no session "
                 "has used it for 10 minutes");
    app.add_option("--home-subnet", home_subnets_,
                   "A subnet of the guest's home network, whose neighbours it reaches through the "
                   "tunnel (default: those of its bridge)")
        ->needs(address)
        ->allow_extra_args(false);
}

Result<> MoveFlags::finish_vxlan(MigrateOptions& into) const {
    auto const refuse = [](std::string_view other) {
        return core::fail(core::Errc::invalid,
                          "--anchor-plane=vxlan cannot be used with {}: leave one of them out",
                          other);
    };
    if (!anchor_host_.empty()) return refuse("--anchor");
    if (release_when_idle_) return refuse("--release-when-idle");
    if (into.network != NetworkChoice::automatic && into.network != NetworkChoice::anchor) {
        return refuse("--network=" + network_);
    }
    into.anchor_vxlan_port = vxlan_port_;
    return {};
}

Result<> MoveFlags::finish(MigrateOptions& into) const {
    into.network = network_choice_from(network_).value_or(NetworkChoice::automatic);
    if (!anchor_host_.empty()) {
        if (into.network != NetworkChoice::automatic && into.network != NetworkChoice::anchor) {
            return core::fail(core::Errc::invalid,
                              "--anchor moves the guest by an anchor: leave --network={} out",
                              network_);
        }
        TRY_VOID(core::split_host_port(anchor_host_, default_port));
        into.network = NetworkChoice::anchor;
        into.anchor_host = anchor_host_;
    }
    if (anchor_plane_ == "vxlan") TRY_VOID(finish_vxlan(into));
    auto& made = into.local;
    made.release_when_idle = release_when_idle_;
    for (auto const& text : addresses_) {
        TRY(auto const address, netmove::Address::parse(text));
        made.addresses.push_back(address);
    }
    if (made.addresses.empty() && release_when_idle_) {
        return core::fail(core::Errc::invalid,
                          "--release-when-idle needs --local-address: without its anchor the guest "
                          "is reached only there");
    }
    if (made.addresses.empty()) return {};
    for (auto const& text : home_subnets_) {
        TRY(auto const subnet, netmove::HostAddress::parse(text));
        made.home.push_back(subnet);
    }
    made.new_sessions = new_sessions_ == "local";
    return made.validate();
}

}  // namespace sidecar
