// --release-when-idle as `sidecar serve` does it: a real client and a real guest, whose anchor ends
// when its last old session has ended. Host a is the gateway of the guest's home network, and a
// router to the client; the guest has a namespace of its own, plugged into its bridge on host b.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "sidecar/anchor/anchor_record.hpp"
#include "tests/process/anchor_lab.hpp"

namespace anchor_release_cases {

using namespace anchor_lab;

namespace {

constexpr auto release_time = "SIDECAR_TEST_RELEASE_MS=400";
constexpr int router_lifetime_s = 15;

/// Two connected sockets.
struct Session {
    core::Fd opener;
    core::Fd answerer;
    std::string seen;  ///< The opener's address, as the answerer sees it.

    [[nodiscard]] bool passes() const {
        for (auto const& [from, to] : {std::pair(&opener, &answerer), {&answerer, &opener}}) {
            char byte = 'x';
            if (::send(from->get(), &byte, 1, MSG_NOSIGNAL) != 1) return false;
            pollfd readable{to->get(), POLLIN, 0};
            if (::poll(&readable, 1, 8'000) != 1 || ::recv(to->get(), &byte, 1, 0) != 1) {
                return false;
            }
        }
        return true;
    }
    /// Both ends forget it at once.
    void abort() {
        linger const at_once{1, 0};
        for (auto* const end : {&opener, &answerer}) {
            (void)::setsockopt(end->get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            end->reset();
        }
    }
};

sockaddr_in6 socket_address(std::string const& text, int port) {
    sockaddr_in6 made{};
    made.sin6_family = AF_INET6;
    made.sin6_port = htons(static_cast<std::uint16_t>(port));
    auto const mapped = contains(text, ":") ? text : "::ffff:" + text;
    REQUIRE(::inet_pton(AF_INET6, mapped.c_str(), &made.sin6_addr) == 1);
    return made;
}

core::Fd tcp_socket() {
    core::Fd made(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval const limit{8, 0};
    int const on = 1;
    REQUIRE(made);
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    return made;
}

class ReleaseLab : public AnchorLab {
public:
    ReleaseLab() {
        b.environment = {release_time};
        REQUIRE(b.serve->end() == 0);
        b.start_serve();
        make_home();
        make_client();
        route_at_b();
        move_guest();
    }

    [[nodiscard]] static std::string in(AnchorHost const& host, std::string const& command) {
        lab::Visit const visit(host.netns);
        return sh(command);
    }
    Session open(AnchorHost const& from, AnchorHost const& to, std::string const& target) {
        INFO("TCP to " << target);
        Session made;
        auto const port = next_port_++;
        auto const listen_at = socket_address("::", port);
        auto const* const own = reinterpret_cast<sockaddr const*>(&listen_at);
        core::Fd listener;
        {
            lab::Visit const visit(to.netns);
            listener = tcp_socket();
            REQUIRE(::bind(listener.get(), own, sizeof listen_at) == 0);
            REQUIRE(::listen(listener.get(), 1) == 0);
        }
        auto const there = socket_address(target, port);
        {
            lab::Visit const visit(from.netns);
            made.opener = tcp_socket();
        }
        REQUIRE(::connect(made.opener.get(), reinterpret_cast<sockaddr const*>(&there),
                          sizeof there) == 0);
        sockaddr_in6 peer{};
        socklen_t size = sizeof peer;
        made.answerer.reset(
            ::accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC));
        REQUIRE(made.answerer);
        std::array<char, INET6_ADDRSTRLEN> text{};
        made.seen = ::inet_ntop(AF_INET6, &peer.sin6_addr, text.data(), text.size());
        if (made.seen.starts_with("::ffff:")) made.seen.erase(0, 7);
        return made;
    }
    /// A session of each family that the guest opens comes from its local address.
    void check_new_sessions() {
        auto const four = open(g, c, "10.3.0.100");
        CHECK(four.seen == "192.0.2.50");
        CHECK(four.passes());
        auto const six = open(g, c, "fd03::100");
        CHECK(six.seen == "fd02::50");
        CHECK(six.passes());
    }
    /// The router of the home network advertises itself.
    void advertise_router() const {
        Bytes message{134, 0, 0, 0, 64, 0, 0, router_lifetime_s, 0, 0, 0, 0, 0, 0, 0, 0};
        must(station->write_frame(router_announcement(mac(gateway_mac()), ip("fe80::1"), message)));
    }
    [[nodiscard]] std::string gateway_mac() const {
        auto const link = core::Json::parse(in(a, "ip -j link show br0"));
        REQUIRE(link);
        return link->elements().at(0)["address"].text_or("");
    }
    [[nodiscard]] core::Json far() {
        auto const listed = must(ask(b, protocol::AnchorList{}));
        REQUIRE(listed.json["anchors"].size() == 1);
        return listed.json["anchors"].elements()[0];
    }
    [[nodiscard]] std::string waits() { return far()["local"]["release"]["waits"].text_or(""); }
    /// As if the time after which a session counts as ended had passed.
    void end_sessions() const {
        (void)in(b, fmt::format("nft flush set netdev sidecar-{0} home4;"
                                "nft flush set netdev sidecar-{0} home6",
                                bridge));
    }
    /// The gateways are heard of, and no session is known.
    void be_idle() const {
        advertise_router();
        (void)in(g, "ip neigh flush all; ping -n -c 1 -W 1 10.0.0.1 >/dev/null || true");
        end_sessions();
    }
    [[nodiscard]] bool is_released() {
        return soon(
            [&] {
                be_idle();
                return far()["state"].text_or("") == "released";
            },
            30s);
    }
    /// Nothing of the anchor is on host a, also after some time.
    [[nodiscard]] bool home_is_free() {
        return soon([&] {
            return !a.has_link("guest") && must(sidecar::read_records(a.paths)).homes.empty() &&
                   must(ask(a, protocol::AnchorList{})).json["anchors"].size() == 0;
        });
    }
    /// The gateways are asked for, and answer.
    void check_gateways() {
        (void)in(g, "ip neigh flush all; ip -6 neigh flush all");
        check_new_sessions();
        auto const known = in(g, "ip neigh; ip -6 neigh");
        INFO(known);
        CHECK(contains(known, "10.0.0.1 dev eth0 lladdr " + gateway_mac()));
        CHECK(contains(known, "fe80::1 dev eth0 lladdr " + gateway_mac() + " router"));
    }
    /// Waits until the `serve` of a host has stopped at its hook, and kills it.
    void kill_stopped(AnchorHost& host) const {
        lab::wait_until("`serve` to stop at its hook", 20s, [&] {
            be_idle();
            for (auto const& seen : lab::processes_in(host.netns)) {
                if (seen.state == 'T') return true;
            }
            return false;
        });
        host.serve->kill();
    }

    AnchorHost c{"c", directory.text()};
    AnchorHost g{"g", directory.text()};
    std::string bridge;  ///< Of the guest on host b.

private:
    void make_home() {
        lab::Visit const visit(a.netns);
        sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding;"
           // Else it has that of a port, which may be the guest's tap.
           "ip link set br0 address 02:00:00:00:00:01;"
           "ip address add 10.0.0.1/24 dev br0; ip address add fd01::1/64 dev br0 nodad;"
           "ip address add fe80::1/64 dev br0 nodad; ip address add fd02::1/64 dev wire nodad");
    }
    void make_client() {
        sh(fmt::format("ip -n {} link add client type veth peer name eth0 netns {}", a.netns,
                       c.netns));
        (void)in(
            a,
            "ip address add 10.3.0.1/24 dev client; ip address add fd03::1/64 dev client nodad;"
            "ip link set client up");
        (void)in(
            c,
            "ip address add 10.3.0.100/24 dev eth0; ip address add fd03::100/64 dev eth0 nodad;"
            "ip link set eth0 up; ip route add default via 10.3.0.1;"
            "ip -6 route add default via fd03::1");
    }
    void route_at_b() {
        (void)in(b,
                 "echo 1 >/proc/sys/net/ipv4/ip_forward;"
                 "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding;"
                 "ip address add fd02::2/64 dev wire nodad; ip route add default via 192.0.2.1;"
                 "ip -6 route add default via fd02::1");
    }
    void move_guest() {
        auto fresh = end(0);
        fresh.key = key;
        fresh.local = netmove::LocalChoice{
            {ip("192.0.2.50"), ip("fd02::50")},
            true,
            {must(HostAddress::parse("10.0.0.0/24")), must(HostAddress::parse("fd01::/64"))},
            true,
            "br0"};
        fresh.addresses = {ip("10.0.0.10"), ip("fd01::10")};
        must(ask(b, protocol::AnchorOffer{guest, {fresh}}));
        auto const received =
            must(ask(b, protocol::AnchorReceive{guest, "m1", serve_port, {fresh}}));
        bridge = received.bridges.at(0);
        auto at_home = end(0);
        at_home.key = key;
        auto const peer =
            netmove::tunnel::Endpoint{ip("192.0.2.2"), static_cast<std::uint16_t>(received.port)};
        must(ask(a, protocol::AnchorPrepare{guest, "m1", peer, {at_home}}));
        must(ask(a, protocol::AnchorPoint{guest, {end(key.id)}}));
        must(ask(a, protocol::AnchorKeep{guest, {end(key.id)}}));
        guest_tap.reset();  // QEMU has ended
        sh(fmt::format("ip -n {} link add guest type veth peer name eth0 netns {}", b.netns,
                       g.netns));
        (void)in(b, fmt::format("ip link set guest master {} addrgenmode none up", bridge));
        (void)in(g, fmt::format("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad;"
                                "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad;"
                                "ip link set eth0 address {}; ip link set eth0 up;"
                                "ip address add 10.0.0.10/24 dev eth0;"
                                "ip address add fd01::10/64 dev eth0 nodad;"
                                "ip route add default via 10.0.0.1",
                                guest_mac));
        REQUIRE(soon(
            [&] {
                advertise_router();
                return !in(g, "ip -6 route show default").empty();
            },
            20s));
    }
    int next_port_ = 5'000;
};

}  // namespace

TEST_CASE("release: the anchor ends after its last session, and the guest keeps its gateways",
          "[anchor][local][release]") {
    ReleaseLab lab;
    auto old4 = lab.open(lab.c, lab.g, "10.0.0.10");
    auto old6 = lab.open(lab.c, lab.g, "fd01::10");
    CHECK(old4.passes());
    CHECK(old6.passes());
    lab.check_new_sessions();
    CHECK(soon([&] { return lab.waits() == "sessions use it"; }, 10s));
    CHECK(lab.a.has_link("guest"));
    auto const shown =
        lab::run({lab::program("sidecar"), "anchor", "show", guest, "--run-dir",
                  lab.b.paths.run_directory, "--state-dir", lab.b.paths.state_directory});
    CHECK(contains(shown.out, "to be released: sessions use it"));

    old4.abort();
    old6.abort();
    REQUIRE(lab.is_released());
    CHECK(lab.home_is_free());
    CHECK(lab.far()["local"]["release"]["at_ms"].integer_or(0) > 0);
    lab.check_gateways();
    // The default route of the router's advertisement does not expire.
    auto const expires = [&] {
        auto const route = lab.in(lab.g, "ip -6 route show default");
        auto const at = route.find("expires ");
        return at == std::string::npos ? 0 : std::stoi(route.substr(at + 8));
    };
    auto const first = expires();
    CHECK(first > 0);
    CHECK(soon([&] { return expires() < first; }, 5s));
    CHECK(soon([&] { return expires() >= first; }, 10s));

    lab.b.serve->kill();
    lab.b.start_serve();
    REQUIRE(soon([&] { return lab.far()["state"].text_or("") == "released"; }, 10s));
    lab.check_gateways();
    must(lab.ask(lab.b, protocol::AnchorLeave{guest, ""}));
    CHECK_FALSE(lab.b.has_link(lab.bridge));
    CHECK(lab::fs::is_empty(lab.b.paths.anchors()));
}

TEST_CASE("release: whichever host is killed in the middle, it is finished",
          "[anchor][local][release]") {
    auto const at = GENERATE(std::pair("b", "anchor_asking"), std::pair("b", "anchor_told"),
                             std::pair("a", "anchor_ending"), std::pair("a", "anchor_ended"));
    INFO("host " << at.first << " at " << at.second);
    ReleaseLab lab;
    auto& host = std::string(at.first) == "a" ? lab.a : lab.b;
    auto const usual = host.environment;
    REQUIRE(host.serve->end() == 0);
    host.environment.push_back(fmt::format("SIDECAR_TEST_STOP_AT={}", at.second));
    host.start_serve();
    // The tunnel is there again.
    REQUIRE(soon(
        [&] {
            return lab::run({"ip", "netns", "exec", lab.g.netns, "ping", "-c", "1", "-W", "1",
                             "10.0.0.1"})
                       .exit_status == 0;
        },
        30s));
    lab.check_new_sessions();
    lab.kill_stopped(host);
    host.environment = usual;
    host.start_serve();
    REQUIRE(lab.is_released());
    CHECK(lab.home_is_free());
    lab.check_gateways();
}

TEST_CASE("release: an anchor that another tunnel uses does not end", "[anchor][local][release]") {
    ReleaseLab lab;
    RemoteSource source(lab);
    CHECK(contains(sentence(source.ask(protocol::AnchorEndAway{guest, {lab.end(7)}})),
                   "another tunnel"));
    CHECK(contains(sentence(source.ask(protocol::AnchorEndAway{guest, {lab.end(0)}})),
                   "another tunnel"));
    auto next = lab.end(lab.key.id);
    next.key = Key::generate();
    // (The path of this one is not there.)
    CHECK_FALSE(source.ask(protocol::AnchorPrepare{
        guest, "m2", {ip("192.0.2.2"), netmove::tunnel::default_port}, {next}}));
    CHECK(contains(sentence(source.ask(protocol::AnchorEndAway{guest, {lab.end(lab.key.id)}})),
                   "is being moved on"));
    must(source.ask(protocol::AnchorKeep{guest, {lab.end(lab.key.id)}}));
    must(source.ask(protocol::AnchorEndAway{guest, {lab.end(lab.key.id)}}));
    must(source.ask(protocol::AnchorEndAway{guest, {lab.end(lab.key.id)}}));  // asked again
    CHECK(lab.home_is_free());
}

}  // namespace anchor_release_cases
