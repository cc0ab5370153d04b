#include "sidecar/cli/network_options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

template <class T>
void sort_unique(std::vector<T>& list) {
    std::ranges::sort(list);
    list.erase(std::ranges::unique(list).begin(), list.end());
}

}  // namespace

void NetworkFlags::add_to(CLI::App& network) {
    network.require_subcommand(1);
    add_create(network);
    list_ = network.add_subcommand("list", "The networks of this host");
    show_ = network.add_subcommand("show", "One network: what it is, and what is in it");
    show_->add_option("NAME", options_.name, "The network's name")->required();
    check_ = network.add_subcommand(
        "check", "Compare bridges, rules and settings with what was defined; 1: they differ");
    check_->add_option("NAME", options_.name, "Only this one");
    for (auto* command : {list_, show_, check_}) {
        command->add_flag("--json", options_.json, "As JSON");
    }
    delete_ = network.add_subcommand("delete", "Remove what `create` made");
    delete_->add_option("NAME", options_.name, "The network's name")->required();
    delete_->add_flag("--force", options_.force, "Even if guests are in it");
}

void NetworkFlags::add_create(CLI::App& network) {
    create_ = network.add_subcommand(
        "create", "Make a network, or repair it; with NAME alone: by its earlier definition");
    create_->add_option("NAME", options_.name, "The network's name, and its bridge's")->required();
    auto* ipv4 = create_->add_flag("--ipv4", ipv4_, "It carries IPv4 and ARP, and nothing else");
    create_->add_flag("--ipv6", ipv6_, "It carries IPv6, and nothing else")->excludes(ipv4);
    auto* native = create_->add_flag("--native", native_,
                                     "The host's own protocol: it may have addresses in it");
    create_->add_flag("--parallel", parallel_, "Only for the guests: the host has no address in it")
        ->excludes(native);
    create_
        ->add_option("--address", addresses_,
                     "ADDRESS/LENGTH of the host, in a native network; more than once")
        ->allow_extra_args(false);
    auto* uplink = create_->add_option("--uplink", uplink_,
                                       "The wire: an interface that becomes a port of the bridge");
    create_
        ->add_option("--shared-uplink", shared_uplink_,
                     "The same for a wire that a network of the other protocol uses too")
        ->excludes(uplink);
    create_
        ->add_option("--allow", allowed_,
                     "An EtherType to pass besides the protocol's, such as 0x88cc")
        ->allow_extra_args(false);
}

Result<NetworkOptions> NetworkFlags::finish() const {
    using Action = NetworkOptions::Action;
    auto made = options_;
    std::pair<CLI::App*, Action> const actions[] = {{create_, Action::create},
                                                    {list_, Action::list},
                                                    {show_, Action::show},
                                                    {check_, Action::check},
                                                    {delete_, Action::remove}};
    for (auto const& [command, action] : actions) {
        if (command->parsed()) made.action = action;
    }
    bool const only_named = !ipv4_ && !ipv6_ && !native_ && !parallel_ && uplink_.empty() &&
                            shared_uplink_.empty() && addresses_.empty() && allowed_.empty();
    if (made.action != Action::create || only_named) return made;
    if (!ipv4_ && !ipv6_) {
        return fail(Errc::invalid,
                    "choose the protocol that the network carries: --ipv4 or --ipv6");
    }
    if (!native_ && !parallel_) {
        return fail(Errc::invalid,
                    "choose who uses the network: --native (also the host) or --parallel (only the "
                    "guests)");
    }
    netmove::NetworkDefinition definition;
    definition.name = made.name;
    definition.protocol = ipv6_ ? netmove::Protocol::ipv6 : netmove::Protocol::ipv4;
    definition.native = native_;
    definition.uplink = shared_uplink_.empty() ? uplink_ : shared_uplink_;
    definition.shared_uplink = !shared_uplink_.empty();
    for (auto const& text : addresses_) {
        TRY(auto const address, netmove::HostAddress::parse(text));
        definition.addresses.push_back(address);
    }
    for (auto const& text : allowed_) {
        TRY(auto const type, netmove::parse_ether_type(text));
        definition.allowed.push_back(type);
    }
    // The same options in another order are the same network.
    sort_unique(definition.addresses);
    sort_unique(definition.allowed);
    TRY_VOID(definition.validate());
    made.definition = std::move(definition);
    return made;
}

}  // namespace sidecar
