#include "netmove/local_rules.hpp"

#include <fmt/ranges.h>

#include <algorithm>

namespace netmove {

namespace {

// What other programs' rules do to the packets comes after our marks, and before our translation
// is looked at. (nft's own names: raw is -300, dstnat -100, srcnat 100.)
constexpr int mark_priority = -310;
constexpr int dstnat_priority = -110;
constexpr int srcnat_priority = 90;
constexpr int leak_priority = 400;

// Seconds that a session counts after its last packet, as conntrack has them by default.
constexpr int established_s = 5 * 24 * 3600;
constexpr int handshake_s = 120;
constexpr int ending_s = 120;
constexpr int reset_s = 10;
constexpr int fragments_s = 30;

/// Protocols with ports whose sessions are known.
constexpr char const* with_ports = "{ tcp, udp, udplite, sctp }";

/// What differs between the families. `ip` and `icmp` are nft's names of headers.
struct FamilyWords {
    Address::Family family;
    char digit;
    char const* ip;
    char const* icmp;
    char const* type;
    char const* later_fragment;
    char const* first_fragment;
    char const* fragment_id;
    char const* never_far;  ///< Destinations that no router passes on.

    [[nodiscard]] std::string leaving() const {
        return fmt::format("{0} saddr . {0} daddr . meta l4proto . th sport . th dport", ip);
    }
    [[nodiscard]] std::string arriving() const {
        return fmt::format("{0} daddr . {0} saddr . meta l4proto . th dport . th sport", ip);
    }
    [[nodiscard]] std::string echo_leaving() const {
        return fmt::format("{0} saddr . {0} daddr . {1} id", ip, icmp);
    }
    [[nodiscard]] std::string echo_arriving() const {
        return fmt::format("{0} daddr . {0} saddr . {1} id", ip, icmp);
    }
    [[nodiscard]] std::string fragment() const {
        return fmt::format("{0} saddr . {0} daddr . {1}", ip, fragment_id);
    }
};

constexpr FamilyWords words4 = {Address::Family::ipv4,
                                '4',
                                "ip",
                                "icmp",
                                "ipv4_addr",
                                "ip frag-off & 0x1fff != 0",
                                "ip frag-off & 0x3fff == 0x2000",
                                "ip id",
                                "127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255"};
constexpr FamilyWords words6 = {Address::Family::ipv6,
                                '6',
                                "ip6",
                                "icmpv6",
                                "ipv6_addr",
                                "frag frag-off != 0",
                                "frag frag-off 0 frag more-fragments 1",
                                "frag id",
                                "::1, fe80::/10, ff00::/8"};

std::string set_of(std::string const& name, std::string const& key, char digit, int timeout_s) {
    return fmt::format("set {}{} {{\n{}\nsize {}\nflags dynamic,timeout\ntimeout {}s\n}}\n", name,
                       digit, key, local_sessions_max, timeout_s);
}

std::string sets(FamilyWords const& in) {
    auto const session =
        fmt::format("type {0} . {0} . inet_proto . inet_service . inet_service", in.type);
    auto const echo = "typeof " + in.echo_leaving();
    return set_of("home", session, in.digit, settling_s) +
           set_of("direct", session, in.digit, settling_s) +
           set_of("ending", session, in.digit, ending_s) +
           set_of("home_echo", echo, in.digit, settling_s) +
           set_of("direct_echo", echo, in.digit, settling_s) +
           set_of("fragments", "typeof " + in.fragment(), in.digit, fragments_s);
}

/// Lines that note a packet of a session in a set, and end in `verdict`. A session that is not
/// answered, or that ends, is soon forgotten.
std::string note(std::string const& set, std::string const& key, char digit,
                 std::string const& verdict) {
    auto const update = [&](int timeout_s) {
        return fmt::format("update @{}{} {{ {} timeout {}s }} {}\n", set, digit, key, timeout_s,
                           verdict);
    };
    return "tcp flags & rst == rst " + update(reset_s) +
           fmt::format("tcp flags & fin == fin update @ending{} {{ {} timeout {}s }}\n", digit, key,
                       ending_s) +
           "tcp flags & syn == syn " + update(handshake_s) +
           fmt::format("{} @ending{} ", key, digit) + update(ending_s) + "meta l4proto tcp " +
           update(established_s) + update(settling_s);
}

std::string chain(std::string const& name, char digit, std::string const& rules) {
    return fmt::format("chain {}{} {{\n{}}}\n", name, digit, rules);
}

/// Destinations of new sessions of the guest that stay home. (So do this host's own addresses, of
/// which some are other guests': in which zone would such a session be?)
std::string near_list(FamilyWords const& in, std::vector<HostAddress> const& home) {
    std::string list = in.never_far;
    for (auto const& subnet : home) {
        if (subnet.address.family() == in.family) list += ", " + subnet.text();
    }
    return list;
}

/// Only direct packets come here. The host drops frames that are not for its own address.
std::string divert_chains(FamilyWords const& in, LocalAddress const& local) {
    return chain("divert", in.digit,
                 fmt::format("{0} update @fragments{1} {{ {2} timeout {3}s }}\n"
                             "counter name direct_out\nether daddr set {4}\nfwd to \"{5}\"\n",
                             in.first_fragment, in.digit, in.fragment(), fragments_s,
                             local.end_mac.text(), local.port));
}

/// From the guest to its home.
std::string leave_chains(FamilyWords const& in, LocalAddress const& local) {
    auto const digit = in.digit;
    auto const key = in.leaving();
    auto const echo = in.echo_leaving();
    auto const divert = fmt::format("goto divert{}", digit);
    // Without a local address of this family a session of the guest has nothing to use.
    bool const opens = local.choice.new_sessions && local.choice.of(in.family).has_value();
    auto const far = fmt::format("{} daddr != {{ {} }} fib daddr type unicast", in.ip,
                                 near_list(in, local.choice.home));
    std::string echoes = fmt::format(
        "{0} @home_echo{1} update @home_echo{1} {{ {0} timeout {2}s }} accept\n"
        "{0} @direct_echo{1} update @direct_echo{1} {{ {0} timeout {2}s }} {3}\n",
        echo, digit, settling_s, divert);
    if (opens) {
        echoes += fmt::format(
            "{} type echo-request ether saddr != @settling {} "
            "add @direct_echo{} {{ {} timeout {}s }} {}\n",
            in.icmp, far, digit, echo, settling_s, divert);
    }
    echoes += fmt::format("update @home_echo{} {{ {} timeout {}s }}\n", digit, echo, settling_s);
    std::string rules = fmt::format(
        "{0} {1} @fragments{2} {3}\n{0} accept\n"
        "{4} type {{ echo-request, echo-reply }} goto echo{2}\n"
        "meta l4proto != {5} accept\n{6} @home{2} goto go_home{2}\n{6} @direct{2} goto direct{2}\n",
        in.later_fragment, in.fragment(), digit, divert, in.icmp, with_ports, key);
    if (opens) {
        rules += fmt::format(
            "{0} tcp flags & (fin | syn | rst | ack) == syn "
            "add @direct{1} {{ {2} timeout {3}s }} {4}\n"
            "{0} meta l4proto {{ udp, udplite }} ether saddr != @settling "
            "add @direct{1} {{ {2} timeout {5}s }} {4}\n",
            far, digit, key, handshake_s, divert, settling_s);
    }
    rules += fmt::format("{} daddr != {{ {} }} goto go_home{}\n", in.ip, in.never_far, digit);
    return chain("go_home", digit, note("home", key, digit, "accept")) +
           chain("direct", digit, note("direct", key, digit, divert)) +
           chain("echo", digit, echoes) + chain("leave", digit, rules);
}

/// From home to the guest. What comes from there is home, whatever it was taken for; but a SYN
/// does not end a direct session of the same ports.
std::string arrive_chain(FamilyWords const& in) {
    auto const key = in.arriving();
    auto const echo = in.echo_arriving();
    return chain(
        "arrive", in.digit,
        fmt::format(
            "{0} accept\n"
            "{1} type {{ echo-request, echo-reply }} delete @direct_echo{2} {{ {3} }}\n"
            "{1} type {{ echo-request, echo-reply }} update @home_echo{2} {{ {3} timeout {4}s }}\n"
            "meta l4proto != {5} accept\n"
            "tcp flags & (fin | syn | rst | ack) == syn {6} @direct{2} accept\n"
            "delete @direct{2} {{ {6} }}\n",
            in.later_fragment, in.icmp, in.digit, echo, settling_s, with_ports, key) +
            note("home", key, in.digit, "accept"));
}

/// From this host to the guest: only direct packets, and only to the guest.
std::string enter_chain(FamilyWords const& in) {
    auto const key = in.arriving();
    auto const echo = in.echo_arriving();
    return chain("enter", in.digit,
                 fmt::format("{0} type {{ echo-request, echo-reply }} {1} @home_echo{2} drop\n"
                             "{0} type echo-request update @direct_echo{2} {{ {1} timeout {3}s }} "
                             "counter name direct_in accept\n"
            // Answers, and errors about direct sessions.
                             "{0} type {{ echo-reply, destination-unreachable, time-exceeded, "
                             "parameter-problem{4} }}"
                             " counter name direct_in accept\n"
                             "{5} counter name direct_in accept\n"
                             "meta l4proto != {6} drop\n"
            // The guest could not tell the two apart.
                             "{7} @home{2} drop\n",
                             in.icmp, echo, in.digit, settling_s,
                             in.family == Address::Family::ipv6 ? ", packet-too-big" : "",
                             in.later_fragment, with_ports, key) +
                     note("direct", key, in.digit, "counter name direct_in accept"));
}

std::string guest_list(LocalAddress const& local, Address::Family family) {
    std::vector<std::string> list;
    for (auto const& address : local.guest_addresses) {
        if (address.family() == family) list.push_back(address.text());
    }
    return fmt::format("{{ {} }}", fmt::join(list, ", "));
}

std::vector<FamilyWords> families_of(LocalAddress const& local) {
    std::vector<FamilyWords> out;
    for (auto const& family : {words4, words6}) {
        bool const used = local.choice.of(family.family) && local.guest_address(family.family);
        if (used) out.push_back(family);
    }
    return out;
}

std::string hook(std::string_view name, std::string_view where, std::string const& device,
                 std::string_view policy, std::string const& rules) {
    return fmt::format(
        "chain {} {{\ntype filter hook {} device \"{}\" priority 0; policy {};\n{}}}\n", name,
        where, device, policy, rules);
}

/// Notes the station that a packet of the guest for another network goes to.
std::string note_gateway(FamilyWords const& in, LocalAddress const& local,
                         std::string const& guests) {
    return fmt::format(
        "{0} saddr {1} {0} daddr != {{ {2} }} ether daddr != @gateways "
        "add @gateways {{ ether daddr timeout {3}s }}\n",
        in.ip, guests, near_list(in, local.choice.home), gateway_known_s);
}

std::string session_table(LocalAddress const& local) {
    std::string inside =
        "counter direct_in {\n}\ncounter direct_out {\n}\n"
        "set started {\ntype ether_addr\nsize 4\nflags dynamic\n}\n"
        "set settling {\ntype ether_addr\nsize 4\nflags dynamic,timeout\n}\n";
    bool const releases = local.choice.release_when_idle;
    if (releases) {
        inside += "set gateways {\ntype ether_addr\nsize 64\nflags dynamic,timeout\n}\n";
    }
    std::string leave = fmt::format(
        "ether type {{ 8021q, 8021ad }} accept\n"
        // Of this host, to a guest that its bridge does not know: it would be flooded.
        "ether saddr {0} drop\nether saddr != {1} accept\n"
        "ether saddr != @started add @started {{ ether saddr }} "
        "add @settling {{ ether saddr timeout {2}s }}\n",
        local.end_mac.text(), local.guest_mac.text(), settling_s);
    std::string arrive = "ether type { 8021q, 8021ad } accept\n";
    std::string enter = fmt::format("ether daddr != {} drop\n", local.guest_mac.text());
    for (auto const& in : families_of(local)) {
        inside += sets(in) + divert_chains(in, local) + leave_chains(in, local) + arrive_chain(in) +
                  enter_chain(in);
        auto const guests = guest_list(local, in.family);
        if (releases) leave += note_gateway(in, local, guests);
        leave += fmt::format("{} saddr {} goto leave{}\n", in.ip, guests, in.digit);
        arrive += fmt::format("{} daddr {} goto arrive{}\n", in.ip, guests, in.digit);
        enter += fmt::format("{} daddr {} goto enter{}\n", in.ip, guests, in.digit);
    }
    return inside + hook("leave", "egress", local.tunnel_tap, "accept", leave) +
           hook("arrive", "ingress", local.tunnel_tap, "accept", arrive) +
           hook("enter", "egress", local.end, "drop", enter);
}

std::string base(std::string_view name, std::string_view what, int priority,
                 std::string const& rules) {
    return fmt::format("chain {} {{\ntype {} priority {}; policy accept;\n{}}}\n", name, what,
                       priority, rules);
}

/// Sessions that the host itself opens to the local address are translated too, hence `output`.
std::string translation_table(LocalAddress const& local) {
    auto const marked = fmt::format("ct zone set {0} meta mark set {0}\n", local.number);
    std::string mark = fmt::format("iif \"{}\" {}", local.end, marked);
    std::string own;
    std::string to_guest;
    std::string from_guest;
    std::string leaked;
    for (auto const& in : families_of(local)) {
        auto const address = local.choice.of(in.family)->text();
        auto const guest = local.guest_address(in.family)->text();
        auto const guests = guest_list(local, in.family);
        auto const at = fmt::format("{} daddr {} ", in.ip, address);
        mark += at + marked;
        own += at + marked;
        // Errors of this host about packets of the guest.
        own += fmt::format(
            "{} daddr {} {} type {{ destination-unreachable, time-exceeded, parameter-problem{} }} "
            "{}",
            in.ip, guests, in.icmp, in.family == Address::Family::ipv6 ? ", packet-too-big" : "",
            marked);
        to_guest += fmt::format(
            "{0}meta l4proto {1} dnat {2} to {3}\n"
            "{0}{4} type echo-request dnat {2} to {3}\n",
            at, with_ports, in.ip, guest, in.icmp);
        from_guest += fmt::format("meta mark {0} {1} saddr {2} snat {1} to {3}\n", local.number,
                                  in.ip, guests, address);
        leaked += fmt::format("meta mark {} oif != \"{}\" {} saddr {} drop\n", local.number,
                              local.end, in.ip, guests);
    }
    return base("to_zone", "filter hook prerouting", mark_priority, mark) +
           base("own_to_zone", "route hook output", mark_priority, own) +
           base("to_guest", "nat hook prerouting", dstnat_priority, to_guest) +
           base("own_to_guest", "nat hook output", dstnat_priority, to_guest) +
           base("from_guest", "nat hook postrouting", srcnat_priority, from_guest) +
           base(
               "forwarded", "filter hook forward", 0,
               fmt::format("iif \"{}\" ct state invalid drop\nmeta mark {} tcp flags & (syn | rst) "
                           "== syn tcp option maxseg size set rt mtu\n",
                           local.end, local.number)) +
           // A packet that was not translated must not leave with the guest's address.
           base("leaked", "filter hook postrouting", leak_priority, leaked);
}

std::string replaced(std::string_view family, std::string const& table, std::string const& inside) {
    return fmt::format("add table {0} {1}\ndelete table {0} {1}\ntable {0} {1} {{\n{2}}}\n", family,
                       table, inside);
}

std::string trial(std::string_view family, std::string const& inside) {
    return fmt::format("table {} sidecar-trial {{\n{}}}\n", family, inside);
}

/// Any that has all the rules, on links that each host has.
LocalAddress example() {
    LocalAddress one;
    one.bridge = "trial";
    one.tunnel_tap = one.port = one.end = "lo";
    one.number = local_number_first;
    one.choice.new_sessions = true;
    one.choice.release_when_idle = true;
    for (std::uint8_t const last : {std::uint8_t{1}, std::uint8_t{2}}) {
        auto const v4 = std::array<std::uint8_t, 4>{192, 0, 2, last};
        std::array<std::uint8_t, 16> v6{0x20, 0x01, 0x0d, 0xb8};
        v6.back() = last;
        auto& into = last == 1 ? one.guest_addresses : one.choice.addresses;
        into.push_back(Address::ipv4(v4));
        into.push_back(Address::ipv6(v6));
    }
    return one;
}

}  // namespace

std::string local_table(std::string const& bridge) { return "sidecar-" + bridge; }

std::string local_rules(LocalAddress const& local) {
    auto const table = local_table(local.bridge);
    return replaced("netdev", table, session_table(local)) +
           replaced("inet", table, translation_table(local));
}

std::string delete_local_rules(std::string const& bridge) {
    auto const table = local_table(bridge);
    return fmt::format(
        "add table netdev {0}\ndelete table netdev {0}\nadd table inet {0}\ndelete table inet "
        "{0}\n",
        table);
}

std::string list_local_sessions(std::string const& bridge) {
    return "list table netdev " + local_table(bridge);
}

std::string list_local_translation(std::string const& bridge) {
    return "list table inet " + local_table(bridge);
}

std::string list_local_counters(std::string const& bridge) {
    return "list counters table netdev " + local_table(bridge);
}

std::string list_local_gateways(std::string const& bridge) {
    return fmt::format("list set netdev {} gateways", local_table(bridge));
}

bool local_rules_complete(LocalAddress const& local, std::string const& sessions,
                          std::string const& translation) {
    auto const times = [](std::string const& text, std::string const& link) {
        auto const quoted = "\"" + link + "\"";
        std::size_t found = 0;
        for (auto at = text.find(quoted); at != std::string::npos; at = text.find(quoted, at + 1)) {
            ++found;
        }
        return found;
    };
    constexpr std::size_t tunnel_chains = 2;
    return times(sessions, local.tunnel_tap) >= tunnel_chains && times(sessions, local.end) >= 1 &&
           times(sessions, local.port) >= 1 && times(translation, local.end) >= 1;
}

std::vector<LocalNeed> local_needs() {
    std::string const nat =
        "type nat hook prerouting priority -110;\nip daddr 192.0.2.1 "
        "meta l4proto tcp dnat ip to 192.0.2.2\n";
    return {
        {"connection tracking with zones (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_ZONES)",
         trial("inet",
               "chain one {\ntype filter hook prerouting priority -310;\n"
               "ct zone set 1\n}\n")},
        {"NAT chains (CONFIG_NFT_NAT, CONFIG_NF_NAT)",
         trial("inet", "chain one {\n" + nat + "}\n")},
        {"rules where a frame leaves (CONFIG_NETFILTER_EGRESS, Linux 5.16)",
         trial("netdev",
               "chain one {\ntype filter hook egress device \"lo\" priority 0;\naccept\n}\n")},
        {"frames passed on to another interface (CONFIG_NFT_FWD_NETDEV)",
         trial("netdev",
               "chain one {\ntype filter hook egress device \"lo\" priority 0;\n"
               "fwd to \"lo\"\n}\n")},
        {"look-ups of a destination's type (CONFIG_NFT_FIB_NETDEV)",
         trial("netdev",
               "chain one {\ntype filter hook egress device \"lo\" priority 0;\n"
               "fib daddr type unicast accept\n}\n")},
        {"all of the rules together", local_rules(example())},
    };
}

}  // namespace netmove
