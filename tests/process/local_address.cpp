// A local address of a guest: which sessions go home, which go direct, and what is left when it is
// removed. All stations have real sockets; a wire stands for the anchor's tunnel.
#include <netinet/in.h>

#include <cerrno>

#include "netmove/conntrack.hpp"
#include "netmove/local_rules.hpp"
#include "netmove/nft.hpp"
#include "tests/process/local_lab.hpp"

namespace local_address_cases {

using namespace local_lab;

namespace {

constexpr auto dead_after = 700ms;

void exchange(Session const& session, int times) {
    for (int number = 0; number < times; ++number) REQUIRE(session.passes());
}

void ping(Lab& lab, Space const& from, std::string const& to) {
    CHECK_FALSE(lab.at(from, "ping -n -c 2 -i 0.1 -W 3 " + to).empty());
}

}  // namespace

TEST_CASE("local address: old sessions go home, and those that arrive at it go direct",
          "[netmove][local]") {
    Lab lab;
    bool const four = GENERATE(true, false);
    INFO((four ? "IPv4" : "IPv6"));
    std::vector<Session> old;
    for (int const type : {SOCK_STREAM, SOCK_DGRAM}) {
        old.push_back(lab.from_client(type, guest_at_home.of(four)));
        old.push_back(lab.from_guest(type, lab.client_, client_address.of(four)));
        CHECK(old.back().seen == guest_at_home.of(four));
    }
    lab.make(lab.local());
    lab.move();
    for (auto const& session : old) CHECK(session.passes());
    auto const local = lab.local();
    CHECK(lab.sessions(local).home == old.size());
    CHECK(lab.sessions(local).direct == 0);

    auto const tcp = lab.from_client(SOCK_STREAM, local_address.of(four));
    CHECK(tcp.seen == client_address.of(four));
    auto const udp = lab.from_client(SOCK_DGRAM, local_address.of(four));
    CHECK(udp.seen == client_address.of(four));
    auto const before = lab.frames_at_home();
    exchange(tcp, 100);
    exchange(udp, 100);
    CHECK(lab.frames_at_home() - before < 20);  // ARP, ND
    ping(lab, lab.client_, local_address.of(four));
    auto const now = lab.sessions(local);
    CHECK(now.direct == 2);
    CHECK(now.packets_in >= 202);
    CHECK(now.packets_out >= 202);
    for (auto const& session : old) CHECK(session.passes());

    // Sessions that the guest opens go home if nothing else was asked for.
    for (int const type : {SOCK_STREAM, SOCK_DGRAM}) {
        auto const opened = lab.from_guest(type, lab.client_, client_address.of(four));
        CHECK(opened.seen == guest_at_home.of(four));
    }
    // A direct session needs no tunnel; the others wait for it.
    lab.at(lab.core_, "ip link set tun1 nomaster");
    exchange(tcp, 3);
    CHECK_FALSE(old[0].passes(dead_after));
    lab.at(lab.core_, "ip link set tun1 master home");
    CHECK(soon([&] { return old[2].passes(dead_after); }, 10s));
}

TEST_CASE("local address: sessions that the guest opens go direct if they are new",
          "[netmove][local]") {
    Lab lab;
    bool const four = GENERATE(true, false);
    INFO((four ? "IPv4" : "IPv6"));
    auto const client = client_address.of(four);
    auto const home = guest_at_home.of(four);
    auto const here = local_address.of(four);
    auto const old_tcp = lab.from_guest(SOCK_STREAM, lab.client_, client);
    auto const old_udp = lab.from_guest(SOCK_DGRAM, lab.client_, client);
    auto const old_in = lab.from_client(SOCK_STREAM, home);
    auto const local = lab.local(true);
    lab.make(local);
    lab.move();
    CHECK(old_tcp.passes());
    CHECK(old_udp.passes());

    auto const tcp = lab.from_guest(SOCK_STREAM, lab.client_, client);
    CHECK(tcp.seen == here);
    auto const before = lab.frames_at_home();
    exchange(tcp, 100);
    CHECK(lab.frames_at_home() - before < 20);
    // To its home network.
    auto const near = lab.from_guest(SOCK_STREAM, lab.core_, neighbour.of(four));
    CHECK(near.seen == home);
    // A UDP session may be an old one that was silent, at first.
    auto const early = lab.from_guest(SOCK_DGRAM, lab.client_, client);
    CHECK(early.seen == home);
    lab.end_settling(local);
    auto const udp = lab.from_guest(SOCK_DGRAM, lab.client_, client);
    CHECK(udp.seen == here);
    for (auto const* session : {&old_tcp, &old_udp, &old_in, &tcp, &near, &early, &udp}) {
        CHECK(session->passes());
    }
    auto const out = lab.sessions(local).packets_out;
    ping(lab, lab.guest_, client);
    CHECK(lab.sessions(local).packets_out >= out + 2);
    // With the far host itself: only what it opens.
    auto const to_host = lab.from_guest(SOCK_STREAM, lab.far_, far_host.of(four));
    CHECK(to_host.seen == home);
    CHECK(to_host.passes());
    auto const from_host = lab.open(SOCK_STREAM, lab.far_, far_host.of(four), lab.guest_, here);
    CHECK(from_host.seen == far_host.of(four));
    CHECK(from_host.passes());
}

TEST_CASE("local address: a session of which a frame comes from home is a home session",
          "[netmove][local]") {
    Lab lab;
    auto const local = lab.local(true);
    lab.make(local);
    lab.move();
    lab.from_guest(SOCK_STREAM, lab.client_, client_address.ipv4);  // the guest sends something
    lab.end_settling(local);
    // To the rules this UDP session is new. The client answers as to one that it has long had.
    auto const session = lab.from_guest(SOCK_DGRAM, lab.client_, client_address.ipv4);
    CHECK(session.seen == local_address.ipv4);
    CHECK(lab.sessions(local).direct == 2);
    sockaddr_storage bytes{};
    socklen_t size = sizeof bytes;
    REQUIRE(::getsockname(session.opener.get(), reinterpret_cast<sockaddr*>(&bytes), &size) == 0);
    char const byte = 'h';
    // (The address is that of the guest at home.)
    REQUIRE(::sendto(session.answerer.get(), &byte, 1, 0, reinterpret_cast<sockaddr*>(&bytes),
                     size) == 1);
    char got = 0;
    REQUIRE(::recv(session.opener.get(), &got, 1, 0) == 1);
    CHECK(got == 'h');
    CHECK(lab.sessions(local).direct == 1);
    auto const before = lab.frames_at_home();
    REQUIRE(::send(session.opener.get(), &byte, 1, 0) == 1);
    CHECK(soon([&] { return lab.frames_at_home() > before; }));
    CHECK(lab.sessions(local).direct == 1);
}

TEST_CASE("local address: a second session of the same ports does not disturb the old one",
          "[netmove][local]") {
    Lab lab;
    auto const old = lab.from_client(SOCK_STREAM, guest_at_home.ipv4);
    lab.make(lab.local());
    lab.move();
    CHECK(old.passes());
    // To the guest both are one: its address, and the same address and port of the client.
    sockaddr_in own{};
    sockaddr_in to{};
    socklen_t size = sizeof own;
    REQUIRE(::getsockname(old.opener.get(), reinterpret_cast<sockaddr*>(&own), &size) == 0);
    REQUIRE(::getpeername(old.opener.get(), reinterpret_cast<sockaddr*>(&to), &size) == 0);
    std::ranges::copy(ip(local_address.ipv4).bytes(),
                      reinterpret_cast<std::uint8_t*>(&to.sin_addr));
    lab.client_.enter();
    core::Fd const second(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int const on = 1;
    REQUIRE(::setsockopt(second.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    REQUIRE(::bind(second.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) == 0);
    CHECK(::connect(second.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == -1);
    CHECK(errno == EINPROGRESS);
    pollfd answered{second.get(), POLLOUT, 0};
    CHECK(::poll(&answered, 1, static_cast<int>(dead_after.count())) == 0);
    exchange(old, 5);
    CHECK(lab.sessions(lab.local()).home == 1);
}

TEST_CASE("local address: packets in fragments stay together", "[netmove][local]") {
    Lab lab;
    bool const four = GENERATE(true, false);
    auto const local = lab.local();
    lab.make(local);
    lab.move();
    constexpr std::size_t three_fragments = 4'000;
    auto const session = lab.from_client(SOCK_DGRAM, local_address.of(four));
    CHECK(session.passes(8s, three_fragments));
    auto const counted = lab.sessions(local);
    CHECK(counted.packets_in >= 4);
    CHECK(counted.packets_out >= 3);
    auto const home = lab.from_client(SOCK_DGRAM, guest_at_home.of(four));
    CHECK(home.passes(8s, three_fragments));
    auto const tcp = lab.from_client(SOCK_STREAM, local_address.of(four));
    CHECK(tcp.passes(8s, 60'000));  // superframes
    // A router on the way tells the local address that packets are too big; the guest learns it.
    lab.at(lab.core_, "ip link set to-client mtu 1300");
    auto const narrow = lab.from_client(SOCK_STREAM, local_address.of(four));
    CHECK(narrow.passes(8s, 60'000));
}

TEST_CASE("local address: two guests of one host may have the same address at home",
          "[netmove][local]") {
    Lab lab;
    lab.make(lab.local());
    lab.move();
    lab.add_far_bridge(2);
    Space const twin;
    make_twin(twin, lab.far_, 2);
    auto other = lab.local(false, 2);
    other.guest_mac = mac("52:54:00:10:00:22");
    other.guest_addresses = {ip(guest_at_home.ipv4)};
    other.choice.addresses = {ip("10.2.0.51")};
    lab.make(other);
    // Also where the host itself has neighbours of that address.
    lab.at(lab.far_, "ip route add 10.1.0.0/24 via 10.2.0.254");
    auto const first = lab.from_client(SOCK_STREAM, local_address.ipv4);
    auto const second = lab.open(SOCK_STREAM, lab.client_, client_address.ipv4, twin, "10.2.0.51");
    exchange(first, 10);
    exchange(second, 10);
    CHECK(lab.sessions(lab.local()).direct == 1);
    CHECK(lab.sessions(other).direct == 1);
    lab.far_.enter();
    must(remove_local_address(lab.netlink, other));
    exchange(first, 10);
    CHECK_FALSE(second.passes(dead_after));
}

// Not `ip -br link`: the kernel sets the state of a link some time after its carrier is there.
constexpr auto traces =
    "ip -o link | cut -d: -f2; ip rule; ip -6 rule; ip -o address | grep -o 'inet.* scope'";

TEST_CASE("local address: it is made again without loss, and its removal leaves nothing",
          "[netmove][local]") {
    Lab lab;
    auto const before = lab.at(lab.far_, traces);
    auto const local = lab.local(true);
    lab.make(local);
    lab.move();
    auto const home = lab.from_client(SOCK_STREAM, guest_at_home.ipv4);
    auto const direct = lab.from_client(SOCK_STREAM, local_address.ipv6);
    exchange(direct, 5);
    lab.far_.enter();
    must(make_local_address(lab.netlink, local));
    CHECK(lab.sessions(local).direct == 1);
    CHECK(lab.sessions(local).packets_in >= 5);
    exchange(direct, 5);
    CHECK(home.passes());

    // Something else has removed the cable: its rules go with it.
    lab.at(lab.far_, fmt::format("ip link delete {}", local.end));
    must(make_local_address(lab.netlink, local));
    // The kernel notices the carrier of a new cable a moment later.
    REQUIRE(soon([&] {
        auto const port = must(lab.netlink.link(local.port));
        return port.port && port.port->forwarding();
    }));
    CHECK(lab.from_client(SOCK_DGRAM, local_address.ipv4).passes());

    lab.far_.enter();
    auto const loop = must(core::Loop::create());
    must(remove_local_address(lab.netlink, local));
    must(loop->run(forget_local_sessions(*loop, local, core::Deadline::after(10s))));
    CHECK(sh("nft list ruleset").empty());
    CHECK(sh(fmt::format("ip route show table {0}; ip -6 route show table {0}", local.number))
              .empty());
    auto tracking = must(Conntrack::open());
    auto const left =
        must(loop->run(tracking.dump(*loop, local.guest_addresses, core::Deadline::after(10s))));
    for (auto const& [key, entry] : left.entries) CHECK(key.zone != local.number);
    must(remove_local_address(lab.netlink, local));
    CHECK(home.passes());
    lab.at(lab.far_, fmt::format("ip link set guest netns {}", lab.core_.path()));
    CHECK(lab.at(lab.far_, traces) == before);
}

TEST_CASE("local address: a host that cannot have it says why", "[netmove][local]") {
    Lab lab;
    lab.far_.enter();
    auto const local = lab.local();
    auto const check = [&](std::vector<std::string> const& addresses,
                           std::vector<Address> const& guest) {
        auto choice = local.choice;
        choice.addresses.clear();
        for (auto const& one : addresses) choice.addresses.push_back(ip(one));
        return check_local_address(lab.netlink, guest, choice);
    };
    auto const& guest = local.guest_addresses;
    must(check({"10.2.0.50", "fd02::50"}, guest));
    CHECK(contains(sentence(check({"10.2.0.1"}, guest)), "an address of this host already"));
    CHECK(contains(sentence(check({"10.3.0.7"}, guest)), "in the network of 10.3.0.7"));
    CHECK(contains(sentence(check({"10.1.0.7"}, guest)), "home network"));
    CHECK(contains(sentence(check({"10.2.0.50", "10.2.0.51"}, guest)), "one local address"));
    CHECK(contains(sentence(check({"fe80::7"}, guest)), "cannot be the local address"));
    CHECK(contains(sentence(check({"fd02::50"}, {ip("10.1.0.10")})), "no IPv6 address"));
    CHECK(contains(sentence(check({"10.2.0.50"}, {ip("10.2.0.1")})), "address of this host too"));
    sh("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding");
    CHECK(contains(sentence(check({"fd02::50"}, guest)), "net.ipv6.conf.all.forwarding=1"));
    sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
    CHECK(contains(sentence(check({"10.2.0.50"}, guest)), "net.ipv4.ip_forward=1"));

    auto const loop = must(core::Loop::create());
    auto const unused = [&](std::string const& address) {
        return loop->run(check_local_unused(*loop, lab.netlink, {ip(address)}));
    };
    must(unused(local_address.ipv4));
    must(unused(local_address.ipv6));
    for (auto const* address : {"10.2.0.254", "fd02::254"}) {
        auto const refused = sentence(unused(address));
        CHECK(contains(refused, fmt::format("{} is in use already", address)));
    }
}

TEST_CASE("local address: the kernel is asked for each part of the rules by name",
          "[netmove][local]") {
    OneHost host;
    auto nft = must(Nft::open());
    for (auto const& need : local_needs()) {
        INFO(need.name);
        must(nft.try_out(need.trial));
    }
    CHECK(contains(sentence(nft.try_out(
                       "table inet t {\nchain c {\ntype nat hook forward priority 0;\n}\n}\n")),
                   "nftables"));
    CHECK(sh("nft list ruleset").empty());
}

}  // namespace local_address_cases
