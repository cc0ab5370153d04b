// A routed tap on the real kernel: the host as the gateway of a guest with a stack of its own, and
// what refuses to route. routed_lab.hpp has the network.
#include <sstream>

#include "tests/process/routed_lab.hpp"

namespace netmove_routed_tap_cases {

namespace {

using namespace routed_lab;

std::vector<GuestAddress> both() { return guest_interface().addresses; }

/// A guest on a host that routes for it, and a client behind a router with static routes.
struct Routed {
    Routed() {
        guest.enter();
        host.space.enter();
        must(check_routing(host.netlink, both()));
        must(place_routed_tap(host.netlink, "tap0", {both(), 1500, 0}));
        must(claim_routes(host.netlink, guest_interface()));
        router.space.enter();
        sh("ip route add 10.9.0.0/16 via 10.1.0.1; ip -6 route add fd09::/64 via fd01::1");
        guest.runs_on(&host.tap);
    }
    std::string in_guest(std::string const& command) const {
        guest.enter();
        return sh(command);
    }
    std::string on_host(std::string const& command) const {
        host.space.enter();
        return sh(command);
    }

    Home home;
    Router router;
    Stub client{router, "c", 3, 100};
    RoutedHost host{router, "a", 1, 1};
    RelayedGuest guest;
};

std::string const gateway_mac = routed_gateway_mac.text();

}  // namespace

TEST_CASE("routed tap: the host is the gateway of both families, with one MAC",
          "[netmove][routes]") {
    Routed net;
    // Of its own subnet and elsewhere.
    net.in_guest("ping -c 1 -W 10 10.3.0.100; ping -6 -c 1 -W 10 fd03::100");
    CHECK(net.on_host("cat /proc/sys/net/ipv4/neigh/tap0/proxy_delay") == "0\n");
    net.in_guest("ip route add 169.254.1.1 dev eth0; ping -c 1 -W 10 169.254.1.1");
    auto const neighbours = net.in_guest("ip neigh show");
    INFO(neighbours);
    for (auto const* gateway : {"10.9.0.254", "169.254.1.1", routed_gateway_ipv6}) {
        CHECK(contains(neighbours, fmt::format("{} dev eth0 lladdr {}", gateway, gateway_mac)));
    }
    CHECK(contains(neighbours, "router"));
    // And from the client, to a guest that has said nothing to it.
    net.client.space.enter();
    sh(fmt::format("ping -c 1 -W 10 {}; ping -6 -c 1 -W 10 {}", guest_ipv4, guest_ipv6));
    // The host never asks for the guest: a stopped one would not answer.
    auto const entries = net.on_host("ip neigh show dev tap0 nud permanent");
    CHECK(contains(entries, guest_ipv4));
    CHECK(contains(entries, guest_ipv6));
}

TEST_CASE("routed tap: a guest cannot send as another, nor give the host routes",
          "[netmove][routes]") {
    Routed net;
    auto const other = ip("10.9.0.11");
    net.client.space.enter();
    auto const before = sh("cat /proc/net/snmp | grep '^Udp:' | tail -1");
    net.guest.runs_on(nullptr);
    auto const guest = guest_interface().mac;
    must(net.host.tap.write_frame(udp_frame(guest, routed_gateway_mac, other, ip(client_ipv4))));
    must(net.host.tap.write_frame(
        udp_frame(guest, routed_gateway_mac, ip(guest_ipv4), ip(client_ipv4))));
    // Of the two only the second arrives; there is no socket for it.
    net.client.space.enter();
    CHECK(soon([&] { return sh("cat /proc/net/snmp | grep '^Udp:' | tail -1") != before; }));
    std::istringstream words(sh("cat /proc/net/snmp | grep '^Udp:' | tail -1"));
    std::istringstream words_before(before);
    std::string word;
    unsigned no_ports = 0;
    unsigned no_ports_before = 0;
    words >> word >> word >> no_ports;
    words_before >> word >> word >> no_ports_before;
    CHECK(no_ports == no_ports_before + 1);
    CHECK(contains(net.on_host("cat /proc/sys/net/ipv6/conf/tap0/accept_ra"), "0"));
    CHECK(contains(net.on_host("cat /proc/sys/net/ipv4/conf/tap0/rp_filter"), "1"));
    CHECK(contains(net.on_host("cat /proc/sys/net/ipv4/conf/tap0/accept_redirects"), "0"));
}

TEST_CASE("routed tap: a host that cannot route refuses, and says what to change",
          "[netmove][routes]") {
    OneHost host;
    auto const why = [&](std::vector<GuestAddress> const& addresses) {
        return sentence(check_routing(host.netlink, addresses));
    };
    forward(false, true);
    CHECK(contains(why(both()), "net.ipv4.ip_forward=1"));
    CHECK(check_routing(host.netlink, {{ip(guest_ipv6), 0}}));
    forward(true, false);
    CHECK(contains(why(both()), "net.ipv6.conf.all.forwarding=1"));
    CHECK(check_routing(host.netlink, {{ip(guest_ipv4), 0}}));
    forward();
    CHECK(check_routing(host.netlink, both()));

    CHECK(contains(why({}), "--address"));
    CHECK(contains(why({{ip("fe80::1"), 0}}), "link-local"));
    CHECK(contains(why({{ip(guest_ipv4), 7}}), "VLAN"));
    sh(fmt::format("ip addr add {}/32 dev lo", guest_ipv4));
    CHECK(contains(why(both()), "address of the host itself"));
    sh(fmt::format("ip addr del {}/32 dev lo", guest_ipv4));

    sh("ip -6 route add fd0a::/64 dev lo table 4790 proto static");
    auto const foreign = why(both());
    CHECK(contains(foreign, "fd0a::/64"));
    CHECK(contains(foreign, "protocol 4"));
    // A table of another number is no matter of ours.
    sh("ip -6 route del fd0a::/64 dev lo table 4790; ip route add 10.8.0.0/16 dev lo table 4791");
    CHECK(check_routing(host.netlink, both()));
}

TEST_CASE("routed tap: two guests with one address, and a tap in a bridge, are refused",
          "[netmove][routes]") {
    OneHost host;
    forward();
    auto const one = must(Tap::open(host.netlink, "tap0", {}));
    auto const two = must(Tap::open(host.netlink, "tap1", {}));
    for (auto const* tap : {"tap0", "tap1"}) {
        must(place_routed_tap(host.netlink, tap, {both(), 0, 0}));
    }
    must(claim_routes(host.netlink, guest_interface()));
    auto second = guest_interface();
    second.tap = "tap1";
    CHECK(contains(sentence(claim_routes(host.netlink, second)), "on the tap tap0"));
    second.addresses = {{ip("10.9.0.11"), 0}};
    must(claim_routes(host.netlink, second));

    // The rule stays as long as one of them is there.
    must(remove_routes(host.netlink, "tap0"));
    CHECK(contains(sh("ip rule"), "lookup 4790"));
    CHECK(sh("ip route show table 4790").starts_with("10.9.0.11 dev tap1 proto 151"));
    must(remove_routes(host.netlink, "tap1"));
    CHECK_FALSE(contains(sh("ip rule; ip -6 rule"), "4790"));
    CHECK(must(host.netlink.routes(guest_routes_table)).empty());
    must(remove_routes(host.netlink, "tap1"));  // nothing left to remove

    make_bridge("br0");
    sh("ip link set tap1 master br0");
    CHECK(contains(sentence(place_routed_tap(host.netlink, "tap1", {both(), 0, 0})), "br0"));
}

TEST_CASE("routed tap: what the kernel has is the record of renewals", "[netmove][routes]") {
    OneHost host;
    forward();
    auto const tap = must(Tap::open(host.netlink, "tap0", {}));
    must(place_routed_tap(host.netlink, "tap0", {both(), 0, 0}));
    CHECK_FALSE(must(renewals_of(host.netlink, "tap0")));
    auto interface = guest_interface();
    for (std::uint32_t const renewals : {0U, 1U, 41U, guest_renewals_max}) {
        interface.renewals = renewals;
        must(claim_routes(host.netlink, interface));
        must(claim_routes(host.netlink, interface));
        CHECK(must(renewals_of(host.netlink, "tap0")) == renewals);
        CHECK(must(host.netlink.routes(guest_routes_table)).size() == 2);
    }
    CHECK_FALSE(must(renewals_of(host.netlink, "gone0")));
    CHECK(renewed(7, 2) == 9);
    CHECK(renewed(guest_renewals_max - 1, 1) == guest_renewals_max);
    CHECK(renewed(guest_renewals_max, 1) == 1);
    CHECK(guest_metric(0) == guest_metric_first);
    CHECK(guest_metric(1) < guest_metric(0));
}

}  // namespace netmove_routed_tap_cases
