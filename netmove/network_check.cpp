// Networks, looked at: what is there, and what is not as it was defined.
#include <algorithm>
#include <cerrno>

#include "netmove/ipv6_setting.hpp"
#include "netmove/network_links.hpp"
#include "netmove/network_rules.hpp"

namespace netmove {

using core::Result;

namespace {

// Differences of one kind that are listed; after a flush of all rules there are hundreds.
constexpr std::size_t differences_told_max = 8;

/// One look, and what it finds wrong.
class Check {
public:
    Check(NetworkRecord const& record, Links const& links)
        : record_(record), definition_(record.definition), links_(links) {}

    std::vector<Difference> take() { return std::move(found_); }

    /// False when there is no bridge, and nothing more can be said.
    bool bridge() {
        auto const* own = own_bridge(links_, record_);
        if (own == nullptr) {
            if (links_.find(definition_.name) != nullptr) {
                add(fmt::format("{} is not the bridge that was made for the network",
                                definition_.name),
                    fmt::format("remove or rename it, then {}", again()));
            } else {
                add(fmt::format("the bridge {} is not there", definition_.name), again());
            }
            return false;
        }
        if (!own->up) add(fmt::format("the bridge {} is down", own->name), again());
        if (own->stp) {
            add(fmt::format("the bridge {} runs the spanning tree protocol", own->name),
                fmt::format("ip link set {} type bridge stp_state 0", own->name));
        }
        return true;
    }

    void addresses(std::vector<InterfaceAddress> const& on_bridge) {
        auto const* own = own_bridge(links_, record_);
        auto wanted = definition_.addresses;
        for (auto const& entry : on_bridge) {
            HostAddress const one{entry.address, entry.prefix_length};
            if (std::erase(wanted, one) > 0) continue;
            bool const linked = entry.address.is_ipv6() && entry.address.is_link_local();
            if (linked && host_has_ipv6()) continue;
            add(fmt::format("the host has the address {} on {}, which it was not given", one.text(),
                            own->name),
                fmt::format("ip address del {} dev {}", one.text(), own->name));
        }
        for (auto const& entry : wanted) {
            add(fmt::format("the host does not have its address {} on {}", entry.text(), own->name),
                again());
        }
        if (!host_has_ipv6()) quiet(own->name);
    }

    void ports(std::vector<std::string> const& admitted) {
        auto const* own = own_bridge(links_, record_);
        auto left = admitted;
        for (auto const& port : links_.ports_of(*own)) {
            if (std::erase(left, port.name) > 0) continue;
            add(fmt::format("{} is in the bridge {} but not in the network: nothing passes it",
                            port.name, own->name),
                fmt::format("`sidecar network create {}` takes it in; or ip link set {} nomaster",
                            definition_.name, port.name));
        }
        for (auto const& port : left) {
            // One that is gone leaves its number, which no other interface gets.
            if (links_.find(port) == nullptr) continue;
            add(fmt::format("{} has left the bridge {}, and its rules still hold for it", port,
                            own->name),
                again());
        }
    }

    void rules(std::string const& now) {
        if (record_.rules.empty()) {
            add("the network was not made to its end", again());
            return;
        }
        if (record_.made_from != network_rules(definition_, {})) {
            add("the rules are those of another version of sidecar", again());
            return;
        }
        auto const differing = rule_differences(record_.rules, now);
        for (auto const& what : differing) {
            if (&what - differing.data() == static_cast<std::ptrdiff_t>(differences_told_max))
                break;
            add(what, again());
        }
    }

    void wire() {
        auto const* bridge = own_bridge(links_, record_);
        if (definition_.uplink.empty()) return;
        if (!definition_.shared_uplink) {
            port_of(definition_.uplink, *bridge);
            return;
        }
        auto const* wire = own_wire(links_, definition_);
        if (wire == nullptr) {
            add(fmt::format("the bridge {} of the wire {} is not there", definition_.wire(),
                            definition_.uplink),
                again());
            return;
        }
        if (!wire->up) add(fmt::format("the bridge {} is down", wire->name), again());
        quiet(wire->name);
        port_of(definition_.uplink, *wire);
        port_of(definition_.cable(), *bridge);
        port_of(definition_.cable_end(), *wire);
        auto const* end = links_.find(definition_.cable_end());
        if (end != nullptr && end->port && !end->port->isolated) {
            add(fmt::format("{} is not isolated: other networks of the wire reach it", end->name),
                again());
        }
    }

    void add(std::string what, std::string advice) {
        found_.push_back({std::move(what), std::move(advice)});
    }
    [[nodiscard]] std::string again() const {
        return fmt::format("`sidecar network create {}` puts it right", definition_.name);
    }

private:
    [[nodiscard]] bool host_has_ipv6() const {
        return definition_.protocol == Protocol::ipv6 && !definition_.addresses.empty();
    }
    void port_of(std::string const& port, Link const& bridge) {
        auto const* link = links_.find(port);
        if (link == nullptr) {
            add(fmt::format("the interface {} is not there", port), again());
            return;
        }
        if (link->master != bridge.index) {
            add(fmt::format("{} is not in the bridge {}", port, bridge.name), again());
        }
        if (!link->up) add(fmt::format("{} is down", port), again());
        quiet(port);
    }
    void quiet(std::string const& interface) {
        auto const disabled = read_ipv6_setting(interface, "disable_ipv6");
        auto const none = read_ipv6_setting(interface, "addr_gen_mode");
        if (!disabled || *disabled == "1" || none == "1") return;
        add(fmt::format("the host speaks IPv6 on {}", interface), again());
    }

    NetworkRecord const& record_;
    NetworkDefinition const& definition_;
    Links const& links_;
    std::vector<Difference> found_;
};

}  // namespace

Result<std::vector<Difference>> check_network(Netlink& netlink, NetworkRecord const& record) {
    TRY(auto const links, Links::of(netlink));
    Check check(record, links);
    if (!check.bridge()) return check.take();
    TRY(auto nft, Nft::open());
    auto const rules = current_rules(nft, record.definition);
    auto const listed = nft.run_for_json(list_ports(record.definition.name));
    if (!rules || !listed) {
        auto const& error = !rules ? rules.error() : listed.error();
        if (error.os != 0) return std::unexpected(error);
        check.add("the rules are not there: the protocols are not kept apart", check.again());
    } else {
        check.rules(*rules);
        TRY(auto const json, core::Json::parse(*listed));
        check.ports(ports_in(json));
    }
    TRY(auto const addresses, netlink.addresses(own_bridge(links, record)->index));
    check.addresses(addresses);
    check.wire();
    return check.take();
}

Result<NetworkState> look_at_network(Netlink& netlink, NetworkRecord const& record) {
    TRY(auto const links, Links::of(netlink));
    NetworkState state;
    auto const* bridge = own_bridge(links, record);
    if (bridge == nullptr) return state;
    state.present = true;
    state.up = bridge->up;
    std::vector<std::string> admitted;
    TRY(auto nft, Nft::open());
    auto const listed = nft.run_for_json(list_ports(record.definition.name));
    if (!listed && listed.error().os == EPERM) return std::unexpected(listed.error());
    if (listed) {
        TRY(auto const json, core::Json::parse(*listed));
        admitted = ports_in(json);
        state.dropped_frames = dropped_in(json);
    }
    for (auto const& port : links.ports_of(*bridge)) {
        if (!is_own_port(record.definition, port.name)) state.ports.push_back(port.name);
        if (std::ranges::find(admitted, port.name) == admitted.end()) {
            state.not_admitted.push_back(port.name);
        }
    }
    return state;
}

}  // namespace netmove
