// `sidecar network` as an administrator uses it: created, shown, checked, removed; repeated; half
// created; refused with nothing changed. On a host that is a namespace.
#include "tests/process/network_lab.hpp"

namespace network_commands_cases {

using namespace network_lab;

namespace {

using Words = std::vector<std::string>;

Words const native4{"create",    "v4",           "--ipv4",   "--native",
                    "--address", "192.0.2.1/24", "--uplink", "eth1"};
Words const parallel6{"create", "v6", "--ipv6", "--parallel", "--uplink", "eth2"};

/// Two wires with a silent station at each end, which the test does not read.
void make_wires(NetworkHost const&) {
    sh("for i in 1 2; do ip link add eth$i type veth peer name far$i; "
       "ip link set far$i addrgenmode none; ip link set far$i up; "
       "ip link set eth$i up; done");
    REQUIRE(soon([] {
        return sh("ip -o link | grep -c 'state UP' || true") == "4\n" &&
               sh("ip -o -6 addr show scope link | wc -l") == "2\n";
    }));
}

/// The kernel reports carriers and link-local addresses a moment later.
void becomes(NetworkHost const& host, std::string const& before) {
    (void)soon([&] { return host.everything() == before; });
    CHECK(host.everything() == before);
}

void refuses(NetworkHost const& host, Words const& words, std::string const& reason,
             int status = 3) {
    INFO(reason);
    auto const before = host.everything();
    auto const done = host.network(words);
    INFO(done.err);
    CHECK(done.exit_status == status);
    CHECK(done.err.starts_with("error: "));
    CHECK(contains(done.err, reason));
    CHECK(host.everything() == before);
}

/// `check` reports the defect, and `create NAME` repairs it.
void is_noticed_and_repaired(NetworkHost const& host, std::string const& network,
                             std::string const& damage, std::string const& told) {
    INFO(damage);
    sh(damage);
    auto const checked = host.network({"check", network});
    INFO(checked.out);
    CHECK(checked.exit_status == 1);
    CHECK(contains(checked.out, told));
    host.must_network({"create", network});
    auto const repaired = host.network({"check", network});
    INFO(repaired.out);
    CHECK(repaired.exit_status == 0);
}

std::size_t count_of(std::vector<Bytes> const& frames, Kind kind) {
    return static_cast<std::size_t>(
        std::ranges::count_if(frames, [kind](auto const& one) { return kind_of(one) == kind; }));
}

/// ICMPv6 (RFC 4443 4.1).
Bytes echo_request(MacAddress const& from, MacAddress const& to, Address const& source,
                   Address const& destination) {
    auto out = udp_frame(from, to, source, destination, 64, 0);
    out[20] = 58;
    out.resize(54);
    Bytes message{128, 0, 0, 0, 0, 1, 0, 1};
    auto const sum = icmpv6_checksum(source, destination, message);
    message[2] = static_cast<std::uint8_t>(sum >> 8);
    message[3] = static_cast<std::uint8_t>(sum & 0xff);
    out.insert(out.end(), message.begin(), message.end());
    return out;
}

}  // namespace

TEST_CASE("network: made, shown, checked and removed, and nothing is left", "[network]") {
    NetworkHost host;
    make_wires(host);
    sh("ip link add br0 type bridge; nft add table bridge mine; nft add chain bridge mine here");
    auto const before = host.everything();
    CHECK(host.must_network({"list"}).empty());
    host.must_network(native4);
    host.must_network(parallel6);
    auto const listed = host.must_network({"list"});
    INFO(listed);
    CHECK(contains(listed, "native IPv4"));
    CHECK(contains(listed, "parallel IPv6"));
    CHECK(lab::parse_json(host.must_network({"list", "--json"})).size() == 2);
    host.must_network({"check"});

    auto const link = must(host.netlink.link("v4"));
    CHECK(link.up);
    CHECK(must(host.netlink.addresses(link.index)).size() == 1);
    CHECK(must(host.netlink.link("eth1")).master == link.index);
    CHECK(must(host.netlink.addresses(must(host.netlink.link("v6")).index)).empty());

    SECTION("once more changes nothing") {
        auto const made = host.everything();
        CHECK(contains(host.must_network(native4), "already"));
        CHECK(contains(host.must_network({"create", "v6"}), "already"));
        CHECK(host.everything() == made);
    }
    SECTION("under the same name, another network is refused") {
        refuses(host, {"create", "v4", "--ipv6", "--parallel"}, "there is another network");
        refuses(host, {"create", "v4", "--ipv4", "--native", "--uplink", "eth1"},
                "there is another network");
    }
    SECTION("with guests in it, it stays") {
        auto const guest = host.guest("tap0", "v4");
        CHECK(contains(host.must_network({"show", "v4"}), "tap0"));
        refuses(host, {"delete", "v4"}, "tap0 is in it");
        host.must_network({"delete", "v4", "--force"});
        CHECK(must(host.netlink.link("tap0")).master == 0);
        host.must_network(native4);
    }
    host.must_network({"delete", "v4"});
    host.must_network({"delete", "v6"});
    becomes(host, before);
    CHECK(host.must_network({"list"}).empty());
    refuses(host, {"delete", "v4"}, "there is no network v4");
    refuses(host, {"show", "v4"}, "there is no network v4");
    refuses(host, {"check", "v4"}, "there is no network v4");
    refuses(host, {"create", "v4"}, "was defined before");
}

TEST_CASE("network: a shared wire is made with the first and removed with the last", "[network]") {
    NetworkHost host;
    make_wires(host);
    auto const before = host.everything();
    host.must_network({"create", "v4", "--ipv4", "--native", "--shared-uplink", "eth1"});
    auto const with_one = host.everything();
    host.must_network({"create", "v6", "--ipv6", "--parallel", "--shared-uplink", "eth1"});
    host.must_network({"check"});
    auto const wire = must(host.netlink.link("w-eth1"));
    CHECK(must(host.netlink.link("eth1")).master == wire.index);
    for (auto const* end : {"v4-w", "v6-w"}) {
        auto const link = must(host.netlink.link(end));
        CHECK(link.master == wire.index);
        CHECK(link.port->isolated);
    }
    refuses(host, {"create", "w6", "--ipv6", "--parallel", "--shared-uplink", "eth1"},
            "there is an IPv6 network already, v6");
    refuses(host, {"create", "w6", "--ipv6", "--parallel", "--uplink", "eth1"},
            "both made with --shared-uplink eth1");
    is_noticed_and_repaired(host, "v6", "ip link set v6-w type bridge_slave isolated off",
                            "not isolated");
    is_noticed_and_repaired(host, "v6", "ip link del v6-u", "v6-u is not there");
    is_noticed_and_repaired(host, "v4", "ip link set eth1 nomaster", "eth1 is not in the bridge");
    is_noticed_and_repaired(host, "v4", "ip link del w-eth1", "w-eth1");
    host.must_network({"create", "v6"});
    host.must_network({"check"});
    host.must_network({"delete", "v6"});
    host.must_network({"check", "v4"});
    host.must_network({"delete", "v4"});
    becomes(host, before);
}

TEST_CASE("network: what others changed is detected and repaired", "[network]") {
    NetworkHost host;
    make_wires(host);
    host.must_network(native4);
    auto const guest = host.guest("tap0", "v4");
    is_noticed_and_repaired(host, "v4", "nft flush ruleset", "the rules are not there");
    is_noticed_and_repaired(host, "v4", "nft flush chain bridge sidecar-v4 leave",
                            "`oif @ports jump ipv4` is missing");
    is_noticed_and_repaired(host, "v4",
                            "nft insert rule bridge sidecar-v4 ipv4 ether type ip6 accept",
                            "`ether type ip6 accept` does not belong to the network");
    is_noticed_and_repaired(host, "v4", "nft delete element bridge sidecar-v4 ports { tap0 }",
                            "tap0 is in the bridge v4 but not in the network");
    is_noticed_and_repaired(host, "v4", "ip link set tap0 nomaster", "tap0 has left the bridge");
    is_noticed_and_repaired(host, "v4", "ip link set v4 down", "the bridge v4 is down");
    is_noticed_and_repaired(host, "v4", "ip addr del 192.0.2.1/24 dev v4",
                            "does not have its address 192.0.2.1/24");
    is_noticed_and_repaired(host, "v4",
                            "echo 0 >/proc/sys/net/ipv6/conf/v4/disable_ipv6; "
                            "ip link set v4 addrgenmode eui64",
                            "speaks IPv6 on v4");
    is_noticed_and_repaired(host, "v4", "ip link set eth1 nomaster", "eth1 is not in the bridge");
    // After a reboot of the host: only the record is there.
    is_noticed_and_repaired(host, "v4", "ip link del v4; nft flush ruleset",
                            "the bridge v4 is not there");
    auto const record = (host.directory / ".networks/v4.json").string();
    is_noticed_and_repaired(host, "v4", "sed -i 's/priority -400/priority -300/' " + record,
                            "those of another version of sidecar");
    // Addresses of others are not removed.
    sh("ip addr add 198.51.100.1/24 dev v4");
    auto const checked = host.network({"check", "v4"});
    CHECK(checked.exit_status == 1);
    CHECK(contains(checked.out, "ip address del 198.51.100.1/24 dev v4"));
}

TEST_CASE("network: refused before anything is touched", "[network]") {
    NetworkHost host;
    make_wires(host);
    sh("ip link add br0 type bridge; ip link add v4 type bridge; ip link add eth3 type veth peer "
       "name far3; ip link set eth3 master br0; ip addr add 198.51.100.9/24 dev eth2");
    refuses(host, native4, "there is an interface v4 on this host already");
    auto const with = [](Words words) {
        words.insert(words.begin(), {"create", "n4", "--ipv4", "--native"});
        return words;
    };
    refuses(host, with({"--uplink", "eth9"}), "there is no network interface eth9");
    refuses(host, with({"--uplink", "eth3"}), "eth3 is in br0 already");
    refuses(host, with({"--uplink", "eth2"}), "198.51.100.9/24 on eth2, which it would lose");
    refuses(host, with({"--uplink", "br0"}), "cannot be the uplink");
    refuses(host, with({"--uplink", "lo"}), "cannot be the uplink");
    refuses(host, with({"--address", "2001:db8::1/64"}), "is not an address of an IPv4 network", 2);
    refuses(host, with({"--allow", "0x8100"}), "cannot be allowed", 2);
    refuses(host, {"create", "../n4", "--ipv4", "--native"}, "is not a valid name of a network", 2);
    auto const unprivileged = lab::run({"setpriv", "--bounding-set", "-net_admin", "--inh-caps",
                                        "-net_admin", lab::program("sidecar"), "network", "create",
                                        "n4", "--ipv4", "--native", "--state-dir", host.directory});
    INFO(unprivileged.err);
    CHECK(unprivileged.exit_status == 3);
    CHECK(contains(unprivileged.err, "no privilege: CAP_NET_ADMIN is needed"));
    CHECK(host.must_network({"list"}).empty());
}

TEST_CASE("network: a partly made network is completed, or removed", "[network]") {
    NetworkHost host;
    make_wires(host);
    auto const before = host.everything();
    host.must_network(native4);
    auto const made = host.everything();
    auto const record = host.directory / ".networks/v4.json";
    auto json = lab::parse_json(lab::read_file(record));
    json.set("rules", "");  // its value until `create` has finished
    auto const half = GENERATE("ip link del v4; nft delete table bridge sidecar-v4",
                               "ip link set v4 down; ip link set eth1 nomaster",
                               "nft delete table netdev sidecar-v4; ip addr flush dev v4");
    sh(half);
    lab::write_file(record, json.dump());
    if (GENERATE(true, false)) {
        host.must_network(native4);
        host.must_network({"check", "v4"});
    }
    host.must_network({"delete", "v4"});
    becomes(host, before);
}

TEST_CASE("network: a port passes nothing until it is admitted", "[network]") {
    NetworkHost host;
    host.must_network({"create", "v6", "--ipv6", "--parallel"});
    auto const guest = host.guest("tap0", "v6");
    auto const stranger = host.wire("tap1");
    sh("ip link set tap1 master v6 up");
    REQUIRE(soon([&] { return must(host.netlink.link("tap1")).port->forwarding(); }));
    Flood flood(3);
    auto const exchange = [&] {
        send(stranger, flood.good(Protocol::ipv6, 50), [] {});
        auto const to_guest = received(guest).size();
        send(guest, flood.good(Protocol::ipv6, 50), [] {});
        return std::pair(to_guest, received(stranger).size());
    };
    (void)received(guest);
    (void)received(stranger);
    CHECK(exchange() == std::pair<std::size_t, std::size_t>(0, 0));
    CHECK(
        contains(host.must_network({"show", "v6"}), "in the bridge, but not in the network: tap1"));
    CHECK(contains(host.must_network({"create", "v6"}), "v6"));
    CHECK(exchange() == std::pair<std::size_t, std::size_t>(50, 50));
}

TEST_CASE("network: a tap is not connected where the rules are gone", "[network]") {
    NetworkHost host;
    host.must_network({"create", "v4", "--ipv4", "--parallel"});
    sh("nft flush ruleset");
    auto const tap = host.wire("tap0");
    auto const refused = sentence(place_tap(host.netlink, "tap0", {"v4", 0, 0}));
    CHECK(contains(refused, "the rules of the network v4 are missing"));
    CHECK(must(host.netlink.link("tap0")).master == 0);
    // Other bridges are left alone.
    make_bridge("br0");
    must(place_tap(host.netlink, "tap0", {"br0", 0, 0}));
}

TEST_CASE("network: the host takes part where it has an address, and in no other", "[network]") {
    NetworkHost host;
    // Like any Linux host, it answers ARP for each of its addresses on every interface.
    sh("ip link add host0 type veth peer name host1; ip link set host0 up; "
       "ip addr add 198.51.100.1/24 dev host0");
    host.must_network({"create", "n4", "--ipv4", "--native", "--address", "192.0.2.1/24"});
    host.must_network({"create", "n6", "--ipv6", "--native", "--address", "2001:db8::1/64"});
    host.must_network({"create", "p4", "--ipv4", "--parallel"});
    host.must_network({"create", "p6", "--ipv6", "--parallel"});
    host.must_network({"check"});
    auto const station = mac("52:54:00:00:00:07");
    // From a station that the host knows, so that the host needs no ARP or ND to answer.
    auto const answers = [&](Tap const& tap, std::string const& bridge, std::string const& from,
                             std::string const& to) {
        sh(fmt::format("ip neigh replace {} lladdr {} dev {} nud permanent || true", from,
                       station.text(), bridge));
        (void)received(tap);
        auto const target = must(host.netlink.link(bridge)).mac;
        must(tap.write_frame(ip(to).is_ipv4() ? udp_frame(station, target, ip(from), ip(to))
                                              : echo_request(station, target, ip(from), ip(to))));
        // The datagram is answered by ICMP: port unreachable.
        return count_of(received(tap), ip(to).is_ipv4() ? Kind::ipv4 : Kind::ipv6);
    };
    auto const n4 = host.guest("tn4", "n4");
    auto const n6 = host.guest("tn6", "n6");
    auto const p4 = host.guest("tp4", "p4");
    auto const p6 = host.guest("tp6", "p6");
    CHECK(answers(n4, "n4", "192.0.2.7", "192.0.2.1") == 1);
    CHECK(answers(n6, "n6", "2001:db8::7", "2001:db8::1") == 1);
    CHECK(answers(p4, "p4", "192.0.2.7", "192.0.2.1") == 0);
    CHECK(answers(p4, "p4", "198.51.100.7", "198.51.100.1") == 0);
    CHECK(answers(p6, "p6", "2001:db8::7", "2001:db8::1") == 0);
    CHECK(answers(n4, "n4", "2001:db8::7", "2001:db8::1") == 0);
    CHECK(answers(n6, "n6", "192.0.2.7", "192.0.2.1") == 0);

    auto const arp = gratuitous_arp(station, ip("198.51.100.1"), ArpForm::request);
    must(p4.write_frame(arp));
    CHECK(received(p4).empty());
    // Reserved groups end at the port and are delivered to the host; packets are not.
    auto const reserved =
        udp_frame(station, mac("01:80:c2:00:00:0e"), ip("192.0.2.7"), ip("192.0.2.1"));
    must(n4.write_frame(reserved));
    must(p4.write_frame(reserved));
    CHECK(received(n4).empty());
    CHECK(received(p4).empty());
    // The host sends nothing into a network that it is not part of.
    sh("ip addr add 203.0.113.1/24 dev p4; ip neigh replace 203.0.113.9 lladdr 52:54:00:00:00:09 "
       "dev p4; ping -c 1 -W 1 203.0.113.9 || true");
    CHECK(received(p4).empty());
}

}  // namespace network_commands_cases
