#include "tests/support/stretch.hpp"

namespace lab {

namespace {

constexpr auto client_mac = "02:00:00:00:00:64";
// Guests have an MTU of 1500 bytes; VXLAN's overhead is added to it.
constexpr auto guest_mtu = "1500";
constexpr auto underlay_mtu = "1600";
constexpr Milliseconds fabric_sessions_limit = 60s;  // BGP

void fdb(std::string const& netns, Argv words) {
    Argv argv{"bridge", "-n", netns, "fdb"};
    argv.insert(argv.end(), words.begin(), words.end());
    must_run(std::move(argv));
}

/// Host c, with its wire to the switch, and the client's wire in its bridge.
void add_third(Lab const& lab, Host const& c) {
    for (auto const& made : {c.run_dir, c.state_dir, c.images, c.logs}) {
        fs::create_directories(made);
    }
    must_run({"ip", "netns", "add", c.netns});
    ip(c.netns, {"link", "set", "lo", "up"});
    ip(c.netns, {"link", "add", bridge, "address", "02:00:00:00:00:03", "type", "bridge",
                 "forward_delay", "0"});
    ip(c.netns, {"link", "set", bridge, "up"});
    ip(c.netns, {"link", "add", "up0", "type", "veth", "peer", "name", "host-c", "netns",
                 lab.switch_netns()});
    ip(lab.switch_netns(), {"link", "set", "host-c", "master", bridge, "up"});
    ip(lab.switch_netns(), {"link", "set", "client", "nomaster", "netns", c.netns});
    ip(c.netns, {"link", "set", "client", "master", bridge, "up"});
    // A fixed MAC, which every table can name. A link that is set down loses its IPv6 address.
    auto const& client = lab.client_netns();
    ip(client, {"link", "set", "up0", "down"});
    ip(client, {"link", "set", "up0", "address", client_mac, "up"});
    ip(client, {"address", "replace", "fd77::100/64", "dev", "up0", "nodad"});
}

/// From now on the host's wire is the underlay, and its bridge carries the decapsulated frames.
void put_into(Host const& host) {
    auto const& netns = host.netns;
    ip(netns, {"link", "set", "up0", "mtu", underlay_mtu, "nomaster", "up"});
    ip(netns, {"address", "flush", "dev", bridge, "scope", "global"});
    ip(netns, {"address", "add", host.ip4 + "/24", "dev", "up0"});
    ip(netns, {"address", "add", host.ip6 + "/64", "dev", "up0", "nodad"});
    ip(netns, {"link", "add", "vx0", "mtu", guest_mtu, "type", "vxlan", "id", "77", "local",
               host.ip4, "dstport", "4789", "nolearning"});
    ip(netns, {"link", "set", "vx0", "addrgenmode", "none", "master", bridge, "up"});
    must_run({"bridge", "-n", netns, "link", "set", "dev", "vx0", "learning", "off"});
}

/// The three hosts on their underlay, with empty tables.
void add_vteps(Lab const& lab, Host const& c) {
    add_third(lab, c);
    ip(lab.switch_netns(), {"link", "set", bridge, "mtu", underlay_mtu});
    for (auto const* host : {&lab.a(), &lab.b(), &c}) {
        ip(lab.switch_netns(), {"link", "set", "host-" + host->name, "mtu", underlay_mtu});
        put_into(*host);
    }
}

}  // namespace

Host third_vtep(Lab const& lab) {
    Host c;
    c.name = "c";
    c.netns = lab.a().netns.substr(0, lab.a().netns.size() - 1) + "c";
    c.directory = lab.directory() / "c";
    c.images = c.directory / "images";
    c.run_dir = c.directory / "run";
    c.state_dir = c.directory / "state";
    c.logs = lab.directory() / "logs-c";
    c.ip4 = "10.77.0.3";
    c.ip6 = "fd77::3";
    return c;
}

void stretch(Lab const& lab) {
    auto const c = third_vtep(lab);
    add_vteps(lab, c);
    Host const* const hosts[] = {&lab.a(), &lab.b(), &c};
    for (auto const* host : hosts) {
        for (auto const* peer : hosts) {
            if (peer == host) continue;
            fdb(host->netns, {"append", "00:00:00:00:00:00", "dev", "vx0", "dst", peer->ip4});
        }
        auto const know = [host](char const* station, Host const& at) {
            if (host->name == at.name) return;
            fdb(host->netns, {"add", station, "dev", "vx0", "dst", at.ip4, "self", "static"});
            fdb(host->netns, {"add", station, "dev", "vx0", "master", "static"});
        };
        know(guest_mac, lab.a());
        know(client_mac, c);
    }
}

void EvpnFabric::furnish(Lab const& lab) {
    auto const c = third_vtep(lab);
    add_vteps(lab, c);
    Host const* const hosts[] = {&lab.a(), &lab.b(), &c};
    int number = 0;
    for (auto const* host : hosts) {
        must_run(
            {"bridge", "-n", host->netns, "link", "set", "dev", "vx0", "neigh_suppress", "on"});
        daemons_.push_back(std::make_unique<Frr>(host->netns, frr_changes(++number, "10.77.0")));
    }
    for (auto const* host : hosts) {
        wait_until("host " + host->name + " to flood to both others", fabric_sessions_limit, [&] {
            auto const table = must_run({"bridge", "-n", host->netns, "fdb", "show", "dev", "vx0"});
            constexpr std::string_view flood = "00:00:00:00:00:00 dst";
            auto const first = table.find(flood);
            return first != std::string::npos && table.find(flood, first + 1) != std::string::npos;
        });
    }
}

std::string guest_vtep(Host const& host) {
    auto const table = must_run({"bridge", "-n", host.netns, "fdb", "show", "dev", "vx0"});
    for (auto at = table.find(guest_mac); at != std::string::npos;
         at = table.find(guest_mac, at + 1)) {
        auto const line = table.substr(at, table.find('\n', at) - at);
        auto const begin = line.find("dst ");
        if (begin == std::string::npos) continue;
        auto const rest = line.substr(begin + 4);
        return rest.substr(0, rest.find(' '));
    }
    return {};
}

}  // namespace lab
