// Networks: made, looked at and removed. Every function reads what the kernel has and does the
// rest.
#include "netmove/network.hpp"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "netmove/ipv6_setting.hpp"
#include "netmove/network_links.hpp"
#include "netmove/network_rules.hpp"
#include "netmove/nft.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

Result<NetworkRecord> record_for(Netlink& netlink, NetworkDefinition const& definition,
                                 std::vector<NetworkRecord> const& others) {
    NetworkRecord record;
    record.definition = definition;
    std::uint32_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) {
        return core::fail_errno(errno, "cannot get random bytes for a MAC address");
    }
    record.mac = network_mac(number);
    if (definition.uplink.empty()) return record;
    for (auto const& other : others) {
        if (other.definition.uplink == definition.uplink)
            record.uplink_before = other.uplink_before;
    }
    if (record.uplink_before) return record;
    TRY(auto const uplink, netlink.find_link(definition.uplink));
    if (!uplink) return record;  // check_possible() says so
    record.uplink_before = {uplink->up,
                            read_ipv6_setting(definition.uplink, "disable_ipv6").value_or(""),
                            read_ipv6_setting(definition.uplink, "addr_gen_mode").value_or("")};
    return record;
}

// ---- refusals -----------------------------------------------------------------------------------

namespace {

/// Another network that wants the same wire in a way that does not go.
Result<> check_others(NetworkDefinition const& wanted, std::vector<NetworkRecord> const& others) {
    for (auto const& other : others) {
        auto const& theirs = other.definition;
        if (theirs.name == wanted.name || theirs.uplink != wanted.uplink) continue;
        if (!theirs.shared_uplink || !wanted.shared_uplink) {
            return fail(Errc::refused,
                        "{} is the uplink of the network {}: two networks on one wire are both "
                        "made with --shared-uplink {}",
                        wanted.uplink, theirs.name, wanted.uplink);
        }
        if (theirs.protocol == wanted.protocol) {
            return fail(Errc::refused,
                        "on the wire {} there is an {} network already, {}: the two would be one",
                        wanted.uplink, name(wanted.protocol), theirs.name);
        }
    }
    return {};
}

Result<> check_uplink(Netlink& netlink, Links const& links, NetworkDefinition const& definition) {
    auto const* uplink = links.find(definition.uplink);
    if (uplink == nullptr) {
        return fail(Errc::refused, "there is no network interface {} on this host",
                    definition.uplink);
    }
    if (uplink->kind == "bridge" || uplink->name == "lo") {
        return fail(Errc::refused,
                    "{} cannot be the uplink of a network: it must be an interface that can be the "
                    "port of a bridge",
                    uplink->name);
    }
    if (uplink->master != 0) {
        TRY(auto const master, netlink.link(uplink->master));
        auto const* wire = own_wire(links, definition);
        bool const ours = wire != nullptr && wire->index == master.index;
        if (!ours) {
            return fail(Errc::refused,
                        "{} is in {} already: remove it first (ip link set {} nomaster), or name "
                        "another uplink",
                        uplink->name, master.name, uplink->name);
        }
    }
    TRY(auto const addresses, netlink.addresses(uplink->index));
    for (auto const& entry : addresses) {
        if (entry.address.is_link_local() && entry.address.is_ipv6()) continue;
        return fail(
            Errc::refused,
            "the host has the address {}/{} on {}, which it would lose: the port of a bridge has "
            "none. Remove it first (ip address del); a native network can have it "
            "(--address)",
            entry.address.text(), entry.prefix_length, uplink->name);
    }
    return {};
}

Result<> check_name_free(Links const& links, std::string const& interface) {
    if (links.find(interface) == nullptr) return {};
    return fail(Errc::refused,
                "there is an interface {} on this host already, and it was not made for this "
                "network: give the network another name, or remove the interface",
                interface);
}

}  // namespace

Result<> check_kernel() {
    TRY(auto nft, Nft::open());
    auto tried = nft.try_out(trial_rules());
    if (tried) return tried;
    if (tried.error().os == EPERM) {
        tried.error().code = Errc::refused;  // nothing was touched
        return tried;
    }
    return fail(Errc::refused,
                "this kernel cannot have the rules that keep the protocols apart (it needs "
                "CONFIG_NF_TABLES_BRIDGE and CONFIG_NF_TABLES_NETDEV): {}",
                tried.error().what);
}

Result<> check_possible(Netlink& netlink, NetworkRecord const& record,
                        std::vector<NetworkRecord> const& others) {
    auto const& definition = record.definition;
    TRY(auto const links, Links::of(netlink));
    if (own_bridge(links, record) == nullptr) {
        TRY_VOID(check_name_free(links, definition.name));
        if (definition.shared_uplink) {
            TRY_VOID(check_name_free(links, definition.cable()));
            TRY_VOID(check_name_free(links, definition.cable_end()));
        }
    }
    if (!definition.uplink.empty()) {
        TRY_VOID(check_others(definition, others));
        auto const* bridge = own_bridge(links, record);
        auto const* uplink = links.find(definition.uplink);
        bool const there =
            bridge != nullptr && uplink != nullptr && uplink->master == bridge->index;
        if (!there) TRY_VOID(check_uplink(netlink, links, definition));
    }
    if (definition.shared_uplink && own_wire(links, definition) == nullptr) {
        TRY_VOID(check_name_free(links, definition.wire()));
    }
    return check_kernel();
}

// ---- making -------------------------------------------------------------------------------------

namespace {

std::vector<int> indices(std::vector<Link> const& links) {
    std::vector<int> out;
    for (auto const& link : links) out.push_back(link.index);
    return out;
}

/// Under the rules first, then in the bridge, then up.
Result<> connect(Netlink& netlink, Nft& nft, std::string const& port, Link const& bridge) {
    TRY(auto const link, netlink.link(port));
    TRY_VOID(make_quiet(netlink, port));
    TRY_VOID(nft.run(add_port(bridge.name, link.index)));
    if (link.master != bridge.index) TRY_VOID(netlink.set_master(port, bridge.name));
    if (!link.up) TRY_VOID(netlink.set_up(port));
    return {};
}

/// The bridge of the wire, its rules, and the cable to it.
Result<> make_wire(Netlink& netlink, Nft& nft, NetworkDefinition const& definition,
                   Link const& bridge) {
    auto const wire_name = definition.wire();
    TRY(auto found, netlink.find_link(wire_name));
    if (!found) {
        TRY_VOID(netlink.make_bridge(wire_name, mac_of_wire(definition.uplink)));
        TRY_VOID(make_quiet(netlink, wire_name));
    }
    TRY(auto const wire, netlink.link(wire_name));
    TRY(auto const links, Links::of(netlink));
    TRY_VOID(nft.run(wire_rules(wire_name, indices(links.ports_of(wire)))));
    if (!wire.up) TRY_VOID(netlink.set_up(wire_name));
    TRY_VOID(connect(netlink, nft, definition.uplink, wire));
    if (links.find(definition.cable()) == nullptr) {
        TRY_VOID(netlink.make_veth(definition.cable(), definition.cable_end()));
        TRY(auto const uplink, netlink.link(definition.uplink));
        for (auto const& end : {definition.cable(), definition.cable_end()}) {
            TRY_VOID(netlink.set_mtu(end, uplink.mtu));
        }
    }
    // The end at the wire is isolated before the other end is up: nothing passes the cable until
    // then.
    TRY(auto const end, netlink.link(definition.cable_end()));
    if (end.master != wire.index) {
        TRY_VOID(make_quiet(netlink, end.name));
        TRY_VOID(nft.run(add_port(wire_name, end.index)));
        TRY_VOID(netlink.set_master(end.name, wire_name));
    }
    TRY_VOID(netlink.set_isolated(end.name, true));
    TRY_VOID(netlink.set_up(end.name));
    return connect(netlink, nft, definition.cable(), bridge);
}

Result<> give_addresses(Netlink& netlink, NetworkDefinition const& definition) {
    if (definition.addresses.empty() || definition.protocol == Protocol::ipv4) {
        TRY_VOID(make_quiet(netlink, definition.name));
    } else {
        // The host's addresses are those it was given.
        (void)write_ipv6_setting(definition.name, "accept_ra", "0");
        (void)write_ipv6_setting(definition.name, "disable_ipv6", "0");
    }
    for (auto const& entry : definition.addresses) {
        TRY_VOID(netlink.add_address(definition.name, entry.address, entry.prefix_length));
    }
    return {};
}

}  // namespace

Result<> make_network(Netlink& netlink, NetworkRecord& record) {
    auto const& definition = record.definition;
    TRY(auto const before, Links::of(netlink));
    if (own_bridge(before, record) == nullptr) {
        TRY_VOID(netlink.make_bridge(definition.name, record.mac));
    }
    TRY(auto const bridge, netlink.link(definition.name));
    TRY(auto const links, Links::of(netlink));
    TRY(auto nft, Nft::open());
    TRY_VOID(nft.run(network_rules(definition, indices(links.ports_of(bridge)))));
    // A tap that a guest's sidecar connected between the look and the new rules.
    TRY(auto const after, Links::of(netlink));
    for (auto const& port : after.ports_of(bridge)) {
        TRY_VOID(nft.run(add_port(bridge.name, port.index)));
    }
    TRY_VOID(give_addresses(netlink, definition));
    TRY_VOID(netlink.set_up(definition.name));
    if (definition.shared_uplink) {
        TRY_VOID(make_wire(netlink, nft, definition, bridge));
    } else if (!definition.uplink.empty()) {
        TRY_VOID(connect(netlink, nft, definition.uplink, bridge));
    }
    TRY(record.rules, current_rules(nft, definition));
    record.made_from = network_rules(definition, {});
    return {};
}

// ---- removing -----------------------------------------------------------------------------------

namespace {

/// `from`: the bridge it was made a port of; null when that is gone. An uplink that is in no bridge
/// any more gets back what we changed only where it still is as we left it.
Result<> give_back_uplink(Netlink& netlink, NetworkRecord const& record, Link const* from) {
    auto const& name = record.definition.uplink;
    TRY(auto const link, netlink.find_link(name));
    if (!link) return {};  // it was taken away
    auto const before = record.uplink_before.value_or(UplinkBefore{});
    bool const in_bridge = from != nullptr && link->master == from->index;
    bool const as_we_left_it = read_ipv6_setting(name, "disable_ipv6") == "1" &&
                               read_ipv6_setting(name, "addr_gen_mode") == "1";
    if (!in_bridge && (link->master != 0 || !as_we_left_it)) return {};
    if (in_bridge) TRY_VOID(netlink.set_master(name, ""));
    if (in_bridge && !before.up) TRY_VOID(netlink.set_down(name));
    for (auto const& [setting, value] : {std::pair("addr_gen_mode", before.addr_gen_mode),
                                         std::pair("disable_ipv6", before.disable_ipv6)}) {
        if (!value.empty()) (void)write_ipv6_setting(name, setting, value);
    }
    return {};
}

/// The cable; and the wire with its last cable.
Result<> remove_wire(Netlink& netlink, Nft& nft, NetworkRecord const& record) {
    auto const& definition = record.definition;
    TRY(auto const before, Links::of(netlink));
    auto const* wire = own_wire(before, definition);
    auto const* end = before.find(definition.cable_end());
    if (wire == nullptr) return {};
    if (end != nullptr && end->kind == "veth" && end->master == wire->index) {
        TRY_VOID(netlink.delete_link(end->name));
    }
    TRY(auto const links, Links::of(netlink));
    for (auto const& port : links.ports_of(*wire)) {
        if (port.name != definition.uplink) return {};  // another network's cable
    }
    TRY_VOID(give_back_uplink(netlink, record, wire));
    TRY_VOID(netlink.delete_link(definition.wire()));
    TRY_VOID(nft.run(delete_rules(definition.wire())));
    return {};
}

std::string joined(std::vector<std::string> const& names) {
    std::string out;
    for (auto const& one : names) out += (out.empty() ? "" : ", ") + one;
    return out;
}

}  // namespace

Result<> delete_network(Netlink& netlink, NetworkRecord const& record, bool force) {
    auto const& definition = record.definition;
    TRY(auto const links, Links::of(netlink));
    auto const* bridge = own_bridge(links, record);
    TRY(auto nft, Nft::open());
    if (bridge != nullptr) {
        std::vector<std::string> guests;
        for (auto const& port : links.ports_of(*bridge)) {
            if (!is_own_port(definition, port.name)) guests.push_back(port.name);
        }
        if (!guests.empty() && !force) {
            return fail(Errc::refused,
                        "the network {} is in use: {} {} in it; move or end the guests first, or "
                        "remove the network anyway (--force)",
                        definition.name, joined(guests), guests.size() == 1 ? "is" : "are");
        }
    }
    if (definition.shared_uplink) {
        TRY_VOID(remove_wire(netlink, nft, record));
    } else if (!definition.uplink.empty()) {
        TRY_VOID(give_back_uplink(netlink, record, bridge));
    }
    // The rules go last, so that nothing they forbid could pass meanwhile.
    if (bridge != nullptr) TRY_VOID(netlink.delete_link(definition.name));
    TRY_VOID(nft.run(delete_rules(definition.name)));
    return {};
}

// ---- connecting a port --------------------------------------------------------------------------

Result<> admit(Link const& bridge, Link const& port) {
    if (!may_be_ours(bridge)) return {};
    TRY(auto nft, Nft::open());
    auto const added = nft.run(add_port(bridge.name, port.index));
    if (added || added.error().os == EPERM) {
        TRY_VOID(added);
        return {};
    }
    return fail(Errc::refused,
                "the rules of the network {} are missing, and without them {} is not connected to "
                "it: `sidecar network create {}` restores them",
                bridge.name, port.name, bridge.name);
}

Result<std::string> network_of(Link const& bridge) {
    if (!may_be_ours(bridge)) return std::string();
    TRY(auto nft, Nft::open());
    for (auto const protocol : {Protocol::ipv4, Protocol::ipv6}) {
        auto const chain = list_chain(protocol);
        if (nft.run(fmt::format("list chain bridge {} {}", table_name(bridge.name), chain))) {
            return std::string(chain);
        }
    }
    return std::string();
}

}  // namespace netmove
