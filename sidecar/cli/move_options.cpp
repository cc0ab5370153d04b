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
