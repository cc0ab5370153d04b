#include "tests/process/conntrack_lab.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

namespace conntrack_lab {

namespace {

// New connections are allowed by their first packet only: TCP and UDP from the client's side, TCP
// from the guest's side. Packets that belong to no known connection are dropped.
constexpr char const* filter = R"(
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        tcp flags & (fin|syn|rst|ack) == syn accept
        iifname "client" meta l4proto udp accept
        meta l4proto ipv6-icmp accept
    }
}
)";

void write_file(std::string const& path, std::string const& text) {
    std::FILE* const file = std::fopen(path.c_str(), "w");
    REQUIRE(file != nullptr);
    std::fputs(text.c_str(), file);
    std::fclose(file);
}

void nft(std::string const& rules) {
    auto const path = fmt::format("/tmp/sidecar-conntrack-{}.nft", ::getpid());
    write_file(path, rules);
    sh("nft -f " + path);
    ::unlink(path.c_str());
}

/// A cable from this thread's namespace, where its end is called `name`, to `host`, where it is
/// called `end`; `number` selects its networks.
void cable(std::string const& name, std::string const& end, Space const& host, int number) {
    sh(
        fmt::format("ip link add {0} type veth peer name {1} netns {2}; "
                    "ip addr add 10.0.{3}.2/24 dev {0}; ip addr add fd00:{3}::2/64 dev {0} nodad; "
                    "ip link set {0} up",
                    name, end, host.path(), number));
}

void make_host(Space const& host, int to_client, int to_guest) {
    host.enter();
    for (auto const& [name, number] : {std::pair("client", to_client), {"guest", to_guest}}) {
        sh(
            fmt::format("ip addr add 10.0.{1}.1/24 dev {0}; "
                        "ip addr add fd00:{1}::1/64 dev {0} nodad; ip link set {0} up",
                        name, number));
    }
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    sh(fmt::format("ip route add {0} via 10.0.{1}.2; ip -6 route add {2} via fd00:{1}::2",
                   client_ip4, to_client, client_ip6));
    sh(fmt::format("ip route add {0} via 10.0.{1}.2; ip -6 route add {2} via fd00:{1}::2",
                   guest_ip4, to_guest, guest_ip6));
    nft(filter);
}

void make_end(Space const& end, char const* ip4, char const* ip6, Space const& a, Space const& b,
              std::string const& name, int number) {
    end.enter();
    sh(fmt::format("ip addr add {}/32 dev lo; ip addr add {}/128 dev lo", ip4, ip6));
    cable("to-a", name, a, number);
    cable("to-b", name, b, number + 1);
}

struct Place {
    sockaddr_storage bytes{};
    socklen_t size = 0;
    [[nodiscard]] sockaddr const* raw() const { return reinterpret_cast<sockaddr const*>(&bytes); }
};

Place place(std::string const& text, std::uint16_t number) {
    Place made;
    auto const address = ip(text);
    if (address.is_ipv4()) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(number);
        std::memcpy(&v4.sin_addr, address.bytes().data(), 4);
        std::memcpy(&made.bytes, &v4, made.size = sizeof v4);
    } else {
        sockaddr_in6 v6{};
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(number);
        std::memcpy(&v6.sin6_addr, address.bytes().data(), 16);
        std::memcpy(&made.bytes, &v6, made.size = sizeof v6);
    }
    return made;
}

Socket bound(Space const& space, std::string const& address, std::uint16_t number, int type) {
    space.enter();
    auto const at = place(address, number);
    Socket made(::socket(at.raw()->sa_family, type | SOCK_CLOEXEC, 0));
    REQUIRE(made);
    int const on = 1;
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    REQUIRE(::bind(made.get(), at.raw(), at.size) == 0);
    return made;
}

void connect(Socket const& socket, std::string const& to) {
    auto const at = place(to, port);
    INFO("connecting to " << to);
    timeval const limit{3, 0};
    REQUIRE(::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::connect(socket.get(), at.raw(), at.size) == 0);
}

/// Both ends of a session from `from` to a listener at `to`, which is bound to `listens`.
std::pair<Socket, Socket> tcp(Space const& from, std::string const& own, Space const& there,
                              std::string const& listens, std::string const& to) {
    auto const listener = bound(there, listens, port, SOCK_STREAM);
    REQUIRE(::listen(listener.get(), 1) == 0);
    auto opened = bound(from, own, 0, SOCK_STREAM);
    connect(opened, to);
    Socket accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    REQUIRE(accepted);
    return {std::move(opened), std::move(accepted)};
}

bool carries(Socket const& from, Socket const& to, std::chrono::milliseconds limit) {
    char sent = 'x';
    char got = 0;
    if (::send(from.get(), &sent, 1, MSG_NOSIGNAL) != 1) return false;
    pollfd readable{to.get(), POLLIN, 0};
    if (::poll(&readable, 1, static_cast<int>(limit.count())) != 1) return false;
    return ::recv(to.get(), &got, 1, MSG_DONTWAIT) == 1;
}

bool is4(std::string const& address) { return ip(address).is_ipv4(); }

}  // namespace

Hosts::Hosts() : loop_(must(core::Loop::create())) {
    for (auto const* space : {&client_, &guest_, &a_, &b_}) {
        space->enter();
        // Skips the wait for duplicate address detection.
        sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
    }
    make_end(client_, client_ip4, client_ip6, a_, b_, "client", 1);
    make_end(guest_, guest_ip4, guest_ip6, a_, b_, "guest", 3);
    make_host(a_, 1, 3);
    make_host(b_, 2, 4);
    turn_to("a");
}

void Hosts::turn_to(char const* host) {
    int const offset = host[0] == 'a' ? 0 : 1;
    for (auto const& [end, number, ip4, ip6] :
         {std::tuple(&client_, 1, client_ip4, client_ip6), {&guest_, 3, guest_ip4, guest_ip6}}) {
        end->enter();
        sh(
            fmt::format("ip route replace default via 10.0.{0}.1 src {1}; "
                        "ip -6 route replace default via fd00:{0}::1 src {2}",
                        number + offset, ip4, ip6));
    }
}

void Hosts::add_rules(Space const& host, std::string const& rules) const {
    host.enter();
    nft(rules);
}

Conntrack Hosts::tracking(Space const& host) const {
    host.enter();
    return must(Conntrack::open());
}

std::vector<ConntrackEntry> Hosts::entries(Conntrack& tracking) {
    auto const found =
        must(loop_->run(tracking.dump(*loop_, guest_addresses(), core::Deadline::after(10s))));
    CHECK(found.beyond == 0);
    std::vector<ConntrackEntry> all;
    for (auto const& [key, entry] : found.entries) all.push_back(entry);
    return all;
}

bool Session::passes(std::chrono::milliseconds limit) {
    return carries(guest, client, limit) && carries(client, guest, limit);
}

Session tcp_to_guest(Hosts& hosts, std::string const& to) {
    auto [opened, accepted] = tcp(hosts.client(), is4(to) ? client_ip4 : client_ip6, hosts.guest(),
                                  is4(to) ? guest_ip4 : guest_ip6, to);
    return {std::move(opened), std::move(accepted)};
}

Session tcp_from_guest(Hosts& hosts, std::string const& to) {
    auto [opened, accepted] =
        tcp(hosts.guest(), is4(to) ? guest_ip4 : guest_ip6, hosts.client(), to, to);
    return {std::move(accepted), std::move(opened)};
}

Session udp_to_guest(Hosts& hosts, std::string const& to) {
    Session made{bound(hosts.client(), is4(to) ? client_ip4 : client_ip6, port + 1, SOCK_DGRAM),
                 bound(hosts.guest(), is4(to) ? guest_ip4 : guest_ip6, port, SOCK_DGRAM)};
    connect(made.client, to);
    auto const back = place(is4(to) ? client_ip4 : client_ip6, port + 1);
    REQUIRE(::connect(made.guest.get(), back.raw(), back.size) == 0);
    REQUIRE(carries(made.client, made.guest, 3s));
    REQUIRE(carries(made.guest, made.client, 3s));
    return made;
}

}  // namespace conntrack_lab
