#include "netmove/network_rules.hpp"

#include <algorithm>
#include <sstream>

namespace netmove {

using core::Json;

namespace {

// Ours is the first look at a frame that enters and the last at one that leaves: what other
// programs' rules make of it in between is checked as well. (nft's own names: dstnat is -300,
// srcnat 300.)
constexpr int first_priority = -400;
constexpr int last_priority = 400;

/// (`meta length` is that of the packet, without the Ethernet header.)
std::string protocol_lines(Protocol protocol) {
    if (protocol == Protocol::ipv6) return "ether type ip6 meta length >= 40 @ll,112,4 6 accept\n";
    return "ether type ip meta length >= 20 @ll,112,4 4 @ll,116,4 >= 5 accept\n"
           "ether type arp meta length >= 28 @ll,112,16 1 @ll,128,16 0x0800 @ll,144,16 0x0604"
           " accept\n";
}

/// RARP with operation 3 and both protocol addresses 0 (frame.hpp, rarp_announcement).
constexpr char const* announcement_line =
    "ether type 0x8035 @ll,112,16 1 @ll,128,16 0x0800 @ll,144,16 0x0604 @ll,160,16 3"
    " @ll,224,32 0 @ll,304,32 0 accept\n";

std::string chain(std::string_view name, std::string_view hook, int priority,
                  std::string const& rules) {
    return fmt::format("chain {} {{\ntype filter hook {} priority {}; policy accept;\n{}}}\n", name,
                       hook, priority, rules);
}

std::string replaced_table(std::string const& family, std::string const& bridge,
                           std::string const& inside) {
    return fmt::format("add table {0} {1}\ndelete table {0} {1}\ntable {0} {1} {{\n{2}}}\n", family,
                       table_name(bridge), inside);
}

std::string port_set(std::vector<int> const& ports) {
    std::string elements;
    for (int const port : ports)
        elements += fmt::format("{}{}", elements.empty() ? "" : ", ", port);
    if (!elements.empty()) elements = fmt::format("elements = {{ {} }}\n", elements);
    return fmt::format("set ports {{\ntype iface_index\n{}}}\n", elements);
}

/// Frames to 01:80:c2:00:00:0X end at their port and are handed to the host as if it were none
/// (IEEE 802.1D reserves them): the host takes LLDP and the like, and no packet.
std::string reserved_chain() {
    return chain("reserved", "input", first_priority,
                 "iif @ports ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"
                 " ether type { ip, arp, ip6 } drop\n");
}

/// What comes to the bridge itself, for the host's stack.
std::string host_table(std::string const& bridge, std::string const& accepted) {
    return replaced_table(
        "netdev", bridge,
        fmt::format("chain host {{\ntype filter hook ingress device \"{}\" priority {}; policy "
                    "drop;\n{}}}\n",
                    bridge, first_priority, accepted));
}

}  // namespace

std::string table_name(std::string const& bridge) { return "sidecar-" + bridge; }

std::string_view list_chain(Protocol protocol) {
    return protocol == Protocol::ipv4 ? "ipv4" : "ipv6";
}

std::string network_rules(NetworkDefinition const& definition, std::vector<int> const& ports) {
    auto const list = list_chain(definition.protocol);
    bool const with_host = !definition.addresses.empty();
    auto lines = protocol_lines(definition.protocol) + announcement_line;
    for (auto const type : definition.allowed) {
        lines += fmt::format("ether type {:#06x} accept\n", type);
    }
    std::string inside = port_set(ports);
    inside += fmt::format("chain {} {{\n{}counter drop\n}}\n", list, lines);
    inside +=
        chain("enter", "prerouting", first_priority, fmt::format("iif @ports jump {}\n", list));
    inside += chain("pass", "forward", first_priority,
                    "iif @ports oif != @ports drop\niif != @ports oif @ports drop\n");
    inside +=
        chain("leave", "postrouting", last_priority, fmt::format("oif @ports jump {}\n", list));
    inside += reserved_chain();
    if (!with_host) inside += chain("own", "output", first_priority, "oif @ports drop\n");
    return replaced_table("bridge", definition.name, inside) +
           host_table(definition.name, with_host ? protocol_lines(definition.protocol) : "");
}

std::string wire_rules(std::string const& wire, std::vector<int> const& ports) {
    auto const inside = port_set(ports) + reserved_chain() +
                        chain("own", "output", first_priority, "oif @ports drop\n");
    return replaced_table("bridge", wire, inside) + host_table(wire, "");
}

std::string trial_rules() {
    return replaced_table("bridge", "trial", port_set({1}) + reserved_chain()) +
           host_table("lo", protocol_lines(Protocol::ipv4) + announcement_line);
}

std::string list_ports(std::string const& bridge) {
    return "list table bridge " + table_name(bridge);
}

std::string list_host(std::string const& bridge) {
    return "list table netdev " + table_name(bridge);
}

std::string delete_rules(std::string const& bridge) {
    return fmt::format(
        "add table bridge {0}\ndelete table bridge {0}\nadd table netdev {0}\n"
        "delete table netdev {0}\n",
        table_name(bridge));
}

std::string add_port(std::string const& bridge, int port) {
    return fmt::format("add element bridge {} ports {{ {} }}\n", table_name(bridge), port);
}

std::vector<std::string> ports_in(Json const& listed) {
    std::vector<std::string> out;
    for (auto const& entry : listed["nftables"].elements()) {
        auto const set = entry["set"];
        if (set["name"].text_or("") != "ports") continue;
        for (auto const& element : set["elem"].elements()) {
            out.push_back(element.is_integer() ? std::to_string(element.integer_or(0))
                                               : element.text_or(""));
        }
    }
    return out;
}

std::uint64_t dropped_in(Json const& listed) {
    std::int64_t dropped = 0;
    for (auto const& entry : listed["nftables"].elements()) {
        for (auto const& part : entry["rule"]["expr"].elements()) {
            dropped += part["counter"]["packets"].integer_or(0);
        }
    }
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, dropped));
}

std::vector<std::string> rule_differences(std::string const& wanted, std::string const& found) {
    auto const lines_of = [](std::string const& text) {
        std::vector<std::string> lines;
        std::istringstream stream(text);
        for (std::string line; std::getline(stream, line);) {
            auto const begin = line.find_first_not_of(" \t");
            if (begin != std::string::npos) lines.push_back(line.substr(begin));
        }
        return lines;
    };
    auto const missing_in = [](std::vector<std::string> const& lines,
                               std::vector<std::string> others) {
        std::vector<std::string> missing;
        for (auto const& line : lines) {
            auto const at = std::ranges::find(others, line);
            if (at == others.end()) {
                missing.push_back(line);
            } else {
                others.erase(at);
            }
        }
        return missing;
    };
    auto const before = lines_of(wanted);
    auto const now = lines_of(found);
    std::vector<std::string> out;
    for (auto const& line : missing_in(before, now)) {
        out.push_back(fmt::format("the rule `{}` is missing", line));
    }
    for (auto const& line : missing_in(now, before)) {
        out.push_back(fmt::format("the rule `{}` does not belong to the network", line));
    }
    if (out.empty() && before != now) out.emplace_back("the rules are in another order");
    return out;
}

}  // namespace netmove
