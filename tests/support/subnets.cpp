#include "tests/support/subnets.hpp"

namespace lab {

namespace {

void ip_at(std::string const& netns, Argv words) {
    Argv argv{"ip", "-n", netns};
    argv.insert(argv.end(), words.begin(), words.end());
    must_run(std::move(argv));
}

void add_router(Lab const& lab, std::string const& router) {
    must_run({"ip", "netns", "add", router});
    ip_at(router, {"link", "set", "lo", "up"});
    must_run({"sh", "-c",
              "echo 1 >/proc/sys/net/ipv4/ip_forward;"
              " echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"},
             {router, {}});
    ip_at(router, {"link", "add", "home", "type", "veth", "peer", "name", "router", "netns",
                   lab.switch_netns()});
    ip_at(lab.switch_netns(), {"link", "set", "router", "master", bridge, "up"});
    ip_at(lab.switch_netns(), {"link", "set", "host-b", "nomaster", "netns", router});
    for (auto const* link : {"home", "host-b"}) ip_at(router, {"link", "set", link, "up"});
    ip_at(router, {"address", "add", "10.77.0.254/24", "dev", "home"});
    ip_at(router, {"address", "add", "fd77::fe/64", "dev", "home", "nodad"});
    ip_at(router, {"address", "add", "10.78.0.254/24", "dev", "host-b"});
    ip_at(router, {"address", "add", "fd78::fe/64", "dev", "host-b", "nodad"});
    ip_at(router, {"route", "add", lab.b().ip4 + "/32", "dev", "host-b"});
    ip_at(router, {"-6", "route", "add", lab.b().ip6 + "/128", "dev", "host-b"});
}

}  // namespace

/// One that the reaper of a lab removes too.
std::string router_netns(Lab const& lab) {
    return lab.a().netns.substr(0, lab.a().netns.size() - 1) + "c";
}

void separate(Lab const& lab) {
    auto const router = router_netns(lab);
    add_router(lab, router);
    auto const& b = lab.b();
    ip_at(b.netns, {"link", "set", "up0", "nomaster"});
    ip_at(b.netns, {"address", "flush", "dev", bridge, "scope", "global"});
    ip_at(b.netns, {"address", "add", b.ip4 + "/32", "dev", "up0"});
    ip_at(b.netns, {"address", "add", b.ip6 + "/128", "dev", "up0", "nodad"});
    ip_at(b.netns, {"route", "add", "10.78.0.254/32", "dev", "up0"});
    ip_at(b.netns, {"route", "add", "default", "via", "10.78.0.254"});
    ip_at(b.netns, {"-6", "route", "add", "fd78::fe/128", "dev", "up0"});
    ip_at(b.netns, {"-6", "route", "add", "default", "via", "fd78::fe"});
    // The way to it from its former network.
    ip_at(lab.a().netns, {"route", "add", b.ip4 + "/32", "via", "10.77.0.254"});
    ip_at(lab.a().netns, {"-6", "route", "add", b.ip6 + "/128", "via", "fd77::fe"});
}

void widen(Lab const& lab, int mtu) {
    auto const router = router_netns(lab);
    // The bridges first: one that takes its MTU from its ports does not keep it.
    std::pair<std::string, char const*> const links[] = {{lab.switch_netns(), bridge},
                                                         {lab.a().netns, bridge},
                                                         {lab.switch_netns(), "router"},
                                                         {lab.switch_netns(), "host-a"},
                                                         {lab.a().netns, "up0"},
                                                         {router, "home"},
                                                         {router, "host-b"},
                                                         {lab.b().netns, "up0"}};
    for (auto const& [netns, link] : links)
        ip_at(netns, {"link", "set", link, "mtu", std::to_string(mtu)});
}

Host add_relay(Lab const& lab) {
    auto const router = router_netns(lab);
    Host d;
    d.name = "d";
    d.netns = router.substr(0, router.size() - 1) + "d";
    d.directory = lab.directory() / "d";
    d.images = d.directory / "images";
    d.run_dir = d.directory / "run";
    d.state_dir = d.directory / "state";
    d.logs = lab.directory() / "logs-d";
    d.ip4 = "10.77.0.4";
    d.ip6 = "fd77::4";
    for (auto const& one : {d.images, d.run_dir, d.state_dir, d.logs}) fs::create_directories(one);
    must_run({"ip", "netns", "add", d.netns});
    ip_at(d.netns, {"link", "set", "lo", "up"});
    ip_at(d.netns, {"link", "add", bridge, "address", "02:00:00:00:00:04", "type", "bridge",
                    "forward_delay", "0"});
    ip_at(d.netns, {"link", "set", bridge, "up"});
    ip_at(d.netns, {"link", "add", "up0", "type", "veth", "peer", "name", "host-d", "netns",
                    lab.switch_netns()});
    ip_at(d.netns, {"link", "set", "up0", "master", bridge, "up"});
    ip_at(lab.switch_netns(), {"link", "set", "host-d", "master", bridge, "up"});
    ip_at(d.netns, {"address", "add", d.ip4 + "/24", "dev", bridge});
    ip_at(d.netns, {"address", "add", d.ip6 + "/64", "dev", bridge, "nodad"});
    ip_at(d.netns, {"route", "add", lab.b().ip4 + "/32", "via", "10.77.0.254"});
    ip_at(d.netns, {"-6", "route", "add", lab.b().ip6 + "/128", "via", "fd77::fe"});
    return d;
}

std::unique_ptr<PacketLine> lengthen(Lab const& lab, std::chrono::microseconds round_trip) {
    ip_at(lab.b().netns, {"link", "delete", "up0"});  // and its other end
    auto line = std::make_unique<PacketLine>(lab.switch_netns(), lab.b().netns, round_trip, 0);
    std::pair<std::string, char const*> const ends[] = {{lab.switch_netns(), "host-b"},
                                                        {lab.b().netns, "up0"}};
    for (auto const& [netns, wire] : ends) {
        ip_at(netns, {"address", "flush", "dev", "line"});
        ip_at(netns, {"link", "set", "line", "down", "name", wire});
        ip_at(netns, {"link", "set", wire, "up"});
    }
    return line;
}

}  // namespace lab
