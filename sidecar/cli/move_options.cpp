#include "sidecar/cli/move_options.hpp"

#include <CLI/CLI.hpp>

namespace sidecar {

using core::Result;

void MoveFlags::add_to(CLI::App& app) {
    app.add_option("--network", network_,
                   "How the guest's addresses move: auto, bridge, vxlan, evpn, or anchor (to "
                   "another subnet; frames take a tunnel)")
        ->check(CLI::IsMember({"auto", "bridge", "vxlan", "evpn", "anchor"}))
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
    app.add_option("--home-subnet", home_subnets_,
                   "A subnet of the guest's home network, whose neighbours it reaches through the "
                   "tunnel (default: those of its bridge)")
        ->needs(address)
        ->allow_extra_args(false);
}

Result<> MoveFlags::finish(MigrateOptions& into) const {
    into.network = network_choice_from(network_).value_or(NetworkChoice::automatic);
    auto& made = into.local;
    for (auto const& text : addresses_) {
        TRY(auto const address, netmove::Address::parse(text));
        made.addresses.push_back(address);
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
