#include "tests/process/local_lab.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "core/json.hpp"

namespace local_lab {

namespace {

struct Place {
    sockaddr_storage bytes{};
    socklen_t size = sizeof bytes;
    [[nodiscard]] sockaddr const* raw() const { return reinterpret_cast<sockaddr const*>(&bytes); }
    [[nodiscard]] sockaddr* raw() { return reinterpret_cast<sockaddr*>(&bytes); }
};

Place place(std::string const& text, std::uint16_t port) {
    Place made;
    auto const address = ip(text);
    if (address.is_ipv4()) {
        auto* const v4 = reinterpret_cast<sockaddr_in*>(&made.bytes);
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        std::memcpy(&v4->sin_addr, address.bytes().data(), 4);
        made.size = sizeof *v4;
    } else {
        auto* const v6 = reinterpret_cast<sockaddr_in6*>(&made.bytes);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        std::memcpy(&v6->sin6_addr, address.bytes().data(), 16);
        made.size = sizeof *v6;
    }
    return made;
}

std::string text_of(Place const& place) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    void const* address =
        place.raw()->sa_family == AF_INET
            ? static_cast<void const*>(
                  &reinterpret_cast<sockaddr_in const*>(&place.bytes)->sin_addr)
            : static_cast<void const*>(
                  &reinterpret_cast<sockaddr_in6 const*>(&place.bytes)->sin6_addr);
    return ::inet_ntop(place.raw()->sa_family, address, text.data(), text.size());
}

core::Fd bound(Space const& space, Place const& at, int type) {
    space.enter();
    core::Fd made(::socket(at.raw()->sa_family, type | SOCK_CLOEXEC, 0));
    REQUIRE(made);
    int const on = 1;
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    timeval const limit{8, 0};
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::bind(made.get(), at.raw(), at.size) == 0);
    return made;
}

bool carries(core::Fd const& from, core::Fd const& to, std::chrono::milliseconds limit,
             std::size_t bytes) {
    std::string const sent(bytes, 'x');
    std::string got(bytes, 0);
    if (::send(from.get(), sent.data(), bytes, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) {
        return false;
    }
    std::size_t have = 0;
    while (have < bytes) {
        pollfd readable{to.get(), POLLIN, 0};
        if (::poll(&readable, 1, static_cast<int>(limit.count())) != 1) return false;
        auto const more = ::recv(to.get(), got.data() + have, bytes - have, MSG_DONTWAIT);
        if (more <= 0) return false;
        have += static_cast<std::size_t>(more);
    }
    return true;
}

/// The thread's namespace as a router whose interfaces need no duplicate address detection.
void forward() {
    sh("cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding;"
       "echo 0 >ipv6/conf/default/accept_dad; echo 1 >ipv4/conf/all/rp_filter");
}

}  // namespace

bool Session::passes(std::chrono::milliseconds limit, std::size_t bytes) const {
    return carries(opener, answerer, limit, bytes) && carries(answerer, opener, limit, bytes);
}

Lab::Lab() : netlink(must(Netlink::open())) {
    make_core();
    far_.enter();
    forward();
    netlink = must(Netlink::open());
    core_.enter();
    sh(
        fmt::format("ip link add to-far type veth peer name up0 netns {}; ip link set to-far up;"
                    "ip addr add 10.2.0.254/24 dev to-far; ip addr add fd02::254/64 dev to-far",
                    far_.path()));
    sh(
        fmt::format("ip link add to-client type veth peer name up0 netns {}; "
                    "ip link set to-client up;"
                    "ip addr add 10.3.0.254/24 dev to-client;"
                    "ip addr add fd03::254/64 dev to-client",
                    client_.path()));
    for (auto const& [space, number, host] :
         {std::tuple(&far_, 2, "1"), std::tuple(&client_, 3, "100")}) {
        space->enter();
        sh("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
        sh(
            fmt::format("ip link set up0 up; ip addr add 10.{0}.0.{1}/24 dev up0;"
                        "ip addr add fd0{0}::{1}/64 dev up0 nodad;"
                        "ip route add default via 10.{0}.0.254;"
                        "ip -6 route add default via fd0{0}::254",
                        number, host));
    }
    add_far_bridge(1);
    core_.enter();
    sh("ip link set tun1 master home");
    // The kernel notices carriers a moment later.
    for (auto const* address : {guest_at_home.ipv4, guest_at_home.ipv6}) {
        auto const ping = fmt::format("ping -n -c 1 -W 1 {} || true", address);
        REQUIRE(soon([&] { return contains(at(client_, ping), " 1 received"); }, 20s));
    }
}

void Lab::make_core() {
    core_.enter();
    forward();
    make_bridge("home");
    // A router asks for a neighbour from its link-local address; without one it does not ask.
    sh("ip addr add 10.1.0.1/24 dev home; ip addr add fd01::1/64 dev home;"
       "ip addr add fe80::1/64 dev home nodad");
    sh(
        fmt::format("ip link add guest type veth peer name eth0 netns {}; "
                    "ip link set guest master home up",
                    guest_.path()));
    guest_.enter();
    sh(
        fmt::format("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad;"
                    "ip link set eth0 address {}; ip link set eth0 up;"
                    "ip addr add 10.1.0.10/24 dev eth0; ip addr add fd01::10/64 dev eth0 nodad;"
                    "ip route add default via 10.1.0.1; ip -6 route add default via fd01::1",
                    guest_mac));
}

void Lab::add_far_bridge(int which) {
    far_.enter();
    make_bridge(fmt::format("sca{}", which));
    sh(
        fmt::format("ip link add sat{0} type veth peer name tun{0} netns {1};"
                    "ip link set sat{0} master sca{0} addrgenmode none; ip link set sat{0} up",
                    which, core_.path()));
    core_.enter();
    sh(fmt::format("ip link set tun{0} addrgenmode none; ip link set tun{0} up", which));
}

void Lab::move() {
    core_.enter();
    sh(fmt::format("ip link set guest netns {}", far_.path()));
    far_.enter();
    sh("ip link set guest master sca1 addrgenmode none; ip link set guest up");
    // Both ends of the wire notice it a moment later.
    REQUIRE(soon([&] {
        auto const port = must(netlink.link("guest"));
        return port.port && port.port->forwarding() &&
               contains(at(guest_, "ip -br link show eth0"), " UP ");
    }));
    far_.enter();
    // As the announcement after a move does: the bridge knew the guest behind the tunnel. A port
    // takes no such entry before it forwards.
    sh(fmt::format("bridge fdb replace {} dev guest master dynamic", guest_mac));
}

LocalAddress Lab::local(bool new_sessions, int which) const {
    LocalAddress made;
    made.bridge = fmt::format("sca{}", which);
    made.tunnel_tap = fmt::format("sat{}", which);
    made.port = fmt::format("sap{}", which);
    made.end = fmt::format("sal{}", which);
    made.end_mac = mac(fmt::format("02:5d:00:00:00:0{}", which));
    made.guest_mac = mac(guest_mac);
    made.guest_addresses = {ip(guest_at_home.ipv4), ip(guest_at_home.ipv6)};
    made.number = local_number_first + static_cast<std::uint32_t>(which);
    made.choice.new_sessions = new_sessions;
    made.choice.addresses = {ip(local_address.ipv4), ip(local_address.ipv6)};
    made.choice.home = {must(HostAddress::parse("10.1.0.0/24")),
                        must(HostAddress::parse("fd01::/64"))};
    return made;
}

void Lab::make(LocalAddress const& local) {
    far_.enter();
    must(check_local_address(netlink, local.guest_addresses, local.choice));
    must(make_local_address(netlink, local));
}

LocalSessions Lab::sessions(LocalAddress const& local) {
    far_.enter();
    return must(local_sessions(local));
}

void Lab::end_settling(LocalAddress const& local) {
    far_.enter();
    sh(fmt::format("nft flush set netdev sidecar-{} settling", local.bridge));
}

Session Lab::open(int type, Space const& from, std::string const& own, Space const& to,
                  std::string const& target) {
    bool const four = ip(own).is_ipv4();
    auto const port = next_port_++;
    INFO((type == SOCK_STREAM ? "TCP" : "UDP") << " from " << own << " to " << target);
    auto const any = place("127.0.0.1", port);
    Place at = any;
    if (four) {
        reinterpret_cast<sockaddr_in*>(&at.bytes)->sin_addr.s_addr = INADDR_ANY;
    } else {
        at = place("fd00::1", port);
        reinterpret_cast<sockaddr_in6*>(&at.bytes)->sin6_addr = IN6ADDR_ANY_INIT;
    }
    Session made;
    auto listener = bound(to, at, type);
    if (type == SOCK_STREAM) REQUIRE(::listen(listener.get(), 1) == 0);
    made.opener = bound(from, place(own, 0), type);
    auto const there = place(target, port);
    REQUIRE(::connect(made.opener.get(), there.raw(), there.size) == 0);
    Place peer;
    if (type == SOCK_STREAM) {
        made.answerer.reset(::accept4(listener.get(), peer.raw(), &peer.size, SOCK_CLOEXEC));
        REQUIRE(made.answerer);
    } else {
        char byte = 'x';
        REQUIRE(::send(made.opener.get(), &byte, 1, 0) == 1);
        REQUIRE(::recvfrom(listener.get(), &byte, 1, 0, peer.raw(), &peer.size) == 1);
        REQUIRE(::connect(listener.get(), peer.raw(), peer.size) == 0);
        made.answerer = std::move(listener);
    }
    made.seen = text_of(peer);
    return made;
}

Session Lab::from_client(int type, std::string const& target) {
    bool const four = ip(target).is_ipv4();
    return open(type, client_, client_address.of(four), guest_, target);
}

Session Lab::from_guest(int type, Space const& to, std::string const& target) {
    bool const four = ip(target).is_ipv4();
    return open(type, guest_, guest_at_home.of(four), to, target);
}

std::uint64_t Lab::frames_at_home() {
    core_.enter();
    auto const json = must(core::Json::parse(sh("ip -s -j link show tun1")));
    auto const links = json.elements();
    REQUIRE(links.size() == 1);
    return static_cast<std::uint64_t>(links[0]["stats64"]["rx"]["packets"].integer_or(0));
}

void make_twin(Space const& twin, Space const& far, int which) {
    far.enter();
    sh(
        fmt::format("ip link add guest{0} type veth peer name eth0 netns {1};"
                    "ip link set guest{0} master sca{0} addrgenmode none; ip link set guest{0} up",
                    which, twin.path()));
    twin.enter();
    sh(
        fmt::format("ip link set eth0 address 52:54:00:10:00:2{0}; ip link set eth0 up;"
                    "ip addr add 10.1.0.10/24 dev eth0;"
                    "ip neigh add 10.1.0.1 lladdr 52:54:00:10:00:01 dev eth0 nud permanent;"
                    "ip route add default via 10.1.0.1",
                    which));
}

}  // namespace local_lab
