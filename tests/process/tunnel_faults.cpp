// The tunnel when something is wrong: attackers, NATs that forget, ends that begin anew, cut links,
// paths whose MTU shrinks.
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "core/log.hpp"
#include "netmove/tunnel/datagram.hpp"
#include "tests/process/tunnel_lab.hpp"

namespace tunnel_faults_cases {

namespace {

using namespace tunnel_lab;
using tunnel::Statistics;

constexpr std::size_t ip_and_udp = 28;

/// What passes a link of the router, as an attacker on the path sees it.
class Listener {
public:
    Listener(Hosts& hosts, std::string const& device) {
        hosts.router.enter();
        fd_.reset(::socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_IP)));
        REQUIRE(fd_);
        sockaddr_ll where{};
        where.sll_family = AF_PACKET;
        where.sll_protocol = htons(ETH_P_IP);
        where.sll_ifindex = static_cast<int>(if_nametoindex(device.c_str()));
        REQUIRE(::bind(fd_.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) == 0);
    }
    /// Datagrams to that port since the last call.
    std::vector<Bytes> payloads(std::uint16_t port) {
        std::vector<Bytes> out;
        Bytes room(70'000);
        while (true) {
            auto const got = ::recv(fd_.get(), room.data(), room.size(), MSG_DONTWAIT);
            if (got < 0) return out;
            auto const to = static_cast<std::uint16_t>(room[22] << 8 | room[23]);
            if (got <= static_cast<ssize_t>(ip_and_udp) || room[9] != IPPROTO_UDP || to != port) {
                continue;
            }
            split({room.begin() + ip_and_udp, room.begin() + got}, out);
        }
    }

private:
    /// Inside the machine a burst is not yet cut into datagrams.
    static void split(ByteView burst, std::vector<Bytes>& out) {
        constexpr std::size_t length_at = 8 + 11;
        while (burst.size() > length_at + 2) {
            std::size_t const length =
                static_cast<std::size_t>(burst[length_at]) << 8 | burst[length_at + 1];
            auto const one = burst.first(std::min(burst.size(), length_at + 2 + length));
            out.emplace_back(one.begin(), one.end());
            burst = burst.subspan(one.size());
        }
    }
    core::Fd fd_;
};

/// Only application data: what counts as replayed or unauthenticated.
std::vector<Bytes> records_of(std::vector<Bytes> all) {
    std::erase_if(all, [](auto const& one) { return one[8] != 23; });
    return all;
}

/// Sends from an endpoint of its own in the router's namespace.
class Stranger {
public:
    explicit Stranger(Hosts& hosts) : to_(hosts.endpoint_a()) {
        hosts.router.enter();
        fd_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        REQUIRE(fd_);
    }
    void send(ByteView bytes) {
        sockaddr_in to{AF_INET, htons(to_.port), {}, {}};
        std::ranges::copy(to_.address.bytes(), reinterpret_cast<std::uint8_t*>(&to.sin_addr));
        REQUIRE(::sendto(fd_.get(), bytes.data(), bytes.size(), 0,
                         reinterpret_cast<sockaddr const*>(&to),
                         sizeof to) == static_cast<ssize_t>(bytes.size()));
        sent_ += bytes.size();
    }
    /// Bytes that came back.
    std::size_t answers() {
        Bytes room(70'000);
        while (true) {
            auto const got = ::recv(fd_.get(), room.data(), room.size(), MSG_DONTWAIT);
            if (got < 0) return answers_;
            answers_ += static_cast<std::size_t>(got);
        }
    }
    [[nodiscard]] std::size_t sent() const { return sent_; }

private:
    Endpoint to_;
    core::Fd fd_;
    std::size_t sent_ = 0;
    std::size_t answers_ = 0;
};

std::vector<Frame> some_frames(std::uint32_t first, std::uint32_t count) {
    std::vector<Frame> frames;
    for (std::uint32_t i = 0; i < count; ++i) frames.push_back(plain_frame(first + i, 900));
    return frames;
}

bool equal(std::vector<Frame> const& left, std::vector<Frame> const& right) {
    return std::ranges::equal(left, right, same);
}

/// Sends numbered frames both ways all the time, as a guest and its peers do.
class Traffic {
public:
    explicit Traffic(Hosts& hosts) : hosts_(hosts) {}
    void turn() {
        if (auto const now = core::Clock::now(); now >= next_) {
            next_ = now + 5ms;
            (void)hosts_.tap_a->put(plain_frame(number_, 300));
            (void)hosts_.tap_b->put(plain_frame(number_++, 300));
        }
        from_a_ += hosts_.tap_b->written().size();
        from_b_ += hosts_.tap_a->written().size();
    }
    /// Runs until a frame has come each way since now; how long that took.
    std::chrono::milliseconds until_both_ways(std::chrono::milliseconds limit) {
        auto const begin = core::Clock::now();
        auto const a = from_a_;
        auto const b = from_b_;
        CHECK(hosts_.until(
            [&] {
                turn();
                return from_a_ > a && from_b_ > b;
            },
            limit));
        return std::chrono::duration_cast<std::chrono::milliseconds>(core::Clock::now() - begin);
    }
    void run_for(std::chrono::milliseconds span) {
        (void)hosts_.until(
            [&] {
                turn();
                return false;
            },
            span);
    }

private:
    Hosts& hosts_;
    core::Clock::time_point next_{};
    std::uint32_t number_ = 0;
    std::size_t from_a_ = 0;
    std::size_t from_b_ = 0;
};

}  // namespace

TEST_CASE("tunnel: frames wait in the ring while it holds, and before it is up", "[tunnel]") {
    Hosts hosts;
    hosts.at_a = must(hosts.hub_a->add(hosts.key, Role::listens, std::nullopt));
    must(hosts.at_a->attach(hosts.tap_a->tap()));
    must(hosts.at_a->forward());
    auto const early = some_frames(0, 100);
    for (auto const& frame : early) REQUIRE(hosts.tap_a->put(frame));
    hosts.for_a_while(200ms);
    CHECK(hosts.at_a->statistics().frames_sent == 0);
    CHECK_FALSE(hosts.at_a->is_established());

    hosts.at_b = must(hosts.hub_b->add(hosts.key, Role::connects, hosts.endpoint_a()));
    must(hosts.at_b->attach(hosts.tap_b->tap()));
    must(hosts.at_b->forward());
    CHECK(equal(hosts.carry(*hosts.tap_a, *hosts.tap_b, {}, 0ms), {}));
    std::vector<Frame> got;
    auto const take = [&](std::size_t count) {
        return hosts.until([&] {
            for (auto& frame : hosts.tap_b->written()) got.push_back(std::move(frame));
            return got.size() >= count;
        });
    };
    REQUIRE(take(early.size()));
    CHECK(equal(got, early));

    hosts.at_a->hold();
    auto const held = some_frames(1'000, 500);
    for (auto const& frame : held) REQUIRE(hosts.tap_a->put(frame));
    hosts.for_a_while(300ms);
    CHECK(hosts.tap_b->written().empty());
    got.clear();
    must(hosts.at_a->forward());
    REQUIRE(take(held.size()));
    CHECK(equal(got, held));

    // What is not to be accepted is dropped and counted.
    hosts.at_b->accept(false);
    for (auto const& frame : early) REQUIRE(hosts.tap_a->put(frame));
    CHECK(hosts.until([&] { return hosts.at_b->statistics().not_written == early.size(); }));
    CHECK(hosts.tap_b->written().empty());
}

TEST_CASE("tunnel: forged, replayed and strangers' datagrams change nothing", "[tunnel]") {
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    auto const port = hosts.hub_a->port();
    Listener wire(hosts, "right0");
    Stranger stranger(hosts);
    auto const frames = some_frames(0, 50);
    CHECK(equal(hosts.carry(*hosts.tap_b, *hosts.tap_a, frames), frames));
    REQUIRE(hosts.until([&] { return hosts.at_b->statistics().path.has_value(); }));
    auto const seen = records_of(wire.payloads(port));
    REQUIRE(seen.size() > 4);
    auto const before = hosts.at_a->statistics();
    auto const endpoint = before.peer;

    SECTION("replayed") {
        for (auto const& one : seen) stranger.send(one);
        CHECK(hosts.until(
            [&] { return hosts.at_a->statistics().replayed >= before.replayed + seen.size(); }));
    }
    SECTION("forged: every byte of a record changed, one at a time") {
        auto const& good = seen.back();
        for (std::size_t i = 8 + 13; i < good.size(); ++i) {
            auto forged = good;
            forged[i] ^= 1;
            forged[8 + 10] ^= 0x40;  // a number not yet used
            stranger.send(forged);
        }
        CHECK(hosts.until([&] {
            return hosts.at_a->statistics().unauthenticated + hosts.at_a->statistics().replayed >=
                   before.unauthenticated + before.replayed + good.size() - 21;
        }));
    }
    SECTION("of strangers: other ids, noise, handshakes") {
        auto const strangers = hosts.hub_a->strangers();
        for (int i = 0; i < 1'000; ++i) {
            auto other = seen.back();
            other[3] ^= static_cast<std::uint8_t>(1 + i % 255);
            stranger.send(other);
            stranger.send(Bytes(static_cast<std::size_t>(1 + i), 0x16));
            if (i % 50 == 0) hosts.for_a_while(2ms);
        }
        CHECK(hosts.until([&] { return hosts.hub_a->strangers() >= strangers + 1'900; }));
        CHECK(stranger.answers() == 0);
    }
    hosts.for_a_while(50ms);
    auto const after = hosts.at_a->statistics();
    CHECK(after.peer == endpoint);
    CHECK(after.handshakes == 1);
    CHECK(after.frames_received == before.frames_received);
    CHECK(hosts.at_a->is_established());
    CHECK(stranger.answers() < stranger.sent() / 4);
    CHECK(equal(hosts.carry(*hosts.tap_a, *hosts.tap_b, frames), frames));
    CHECK(equal(hosts.carry(*hosts.tap_b, *hosts.tap_a, frames), frames));
}

TEST_CASE("tunnel: records of a session before are refused", "[tunnel]") {
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    Listener wire(hosts, "right0");
    Stranger stranger(hosts);
    auto const frames = some_frames(0, 50);
    CHECK(equal(hosts.carry(*hosts.tap_b, *hosts.tap_a, frames), frames));
    auto const old = records_of(wire.payloads(hosts.hub_a->port()));
    REQUIRE(old.size() > 4);
    auto const endpoint = hosts.at_a->statistics().peer;
    hosts.restart_b();
    REQUIRE(hosts.until([&] { return hosts.at_a->statistics().handshakes == 2; }));
    hosts.for_a_while(2'200ms);  // the session before is forgotten
    auto const now = hosts.at_a->statistics();
    CHECK(now.peer != endpoint);  // the new Hub's
    for (auto const& one : old) stranger.send(one);
    CHECK(hosts.until([&] {
        auto const after = hosts.at_a->statistics();
        return after.unauthenticated + after.replayed >=
               now.unauthenticated + now.replayed + old.size();
    }));
    CHECK(hosts.at_a->statistics().handshakes == 2);
    CHECK(hosts.at_a->statistics().peer == now.peer);
    CHECK(equal(hosts.carry(*hosts.tap_b, *hosts.tap_a, frames), frames));
}

TEST_CASE("tunnel: a replayed handshake makes no new session", "[tunnel]") {
    Hosts hosts;
    Listener wire(hosts, "right0");
    hosts.establish();
    hosts.connect_taps();
    auto const seen = wire.payloads(hosts.hub_a->port());
    REQUIRE(seen.size() >= 4);
    Stranger stranger(hosts);
    auto const endpoint = hosts.at_a->statistics().peer;
    for (int round = 0; round < 20; ++round) {
        for (auto const& one : seen) stranger.send(one);
        hosts.for_a_while(20ms);
    }
    CHECK(hosts.at_a->statistics().handshakes == 1);
    CHECK(hosts.at_a->statistics().peer == endpoint);
    // The cookie is of another endpoint: each ClientHello costs at most one shorter answer.
    CHECK(stranger.answers() < stranger.sent());
    auto const frames = some_frames(0, 50);
    CHECK(equal(hosts.carry(*hosts.tap_a, *hosts.tap_b, frames), frames));
}

TEST_CASE("tunnel: a NAT that changes its mapping, and a host that changes its address",
          "[tunnel]") {
    Hosts hosts;
    hosts.router.enter();
    bool const by_nat = GENERATE(true, false);
    CAPTURE(by_nat);
    auto const masquerade = [&](int port) {
        hosts.router.enter();
        sh(fmt::format(
            "nft 'flush ruleset; table ip nat {{ chain post {{ type nat hook postrouting "
            "priority srcnat; oifname left0 udp dport {} masquerade to :{}; }}; }}'",
            hosts.hub_a->port(), port));
    };
    if (by_nat) masquerade(20'000);
    hosts.establish();
    hosts.connect_taps();
    Traffic traffic(hosts);
    traffic.until_both_ways(5s);
    auto const before = hosts.at_a->statistics();
    if (by_nat) {
        CHECK(before.peer == Endpoint{ip("10.1.0.9"), 20'000});
        masquerade(30'000);
        // The kernel forgets what was masqueraded through a link that goes down.
        sh("ip link set left0 down; ip link set left0 up");
    } else {
        hosts.b.enter();
        sh("ip addr del 10.2.0.2/24 dev up0; ip addr add 10.2.0.77/24 dev up0; "
           "ip route replace default via 10.2.0.9");
    }
    CHECK(hosts.until([&] {
        traffic.turn();
        return hosts.at_a->statistics().peer != before.peer;
    }));
    if (by_nat) {
        CHECK(hosts.at_a->statistics().peer == Endpoint{ip("10.1.0.9"), 30'000});
    } else {
        CHECK(hosts.at_a->statistics().peer->address == ip("10.2.0.77"));
    }
    CHECK(traffic.until_both_ways(5s) < 1s);
    CHECK(hosts.at_a->statistics().handshakes == 1);
    // The path is tested anew.
    CHECK(hosts.until([&] {
        traffic.turn();
        auto const path = hosts.at_b->statistics().path;
        return path && path->datagram_max == 1472;
    }));
}

TEST_CASE("tunnel: an end that begins anew is found", "[tunnel]") {
    bool const connecting = GENERATE(false, true);
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    Traffic traffic(hosts);
    traffic.until_both_ways(5s);
    traffic.run_for(300ms);
    auto const begin = core::Clock::now();
    if (connecting) {
        hosts.restart_b();
    } else {
        hosts.restart_a();
    }
    traffic.until_both_ways(5s);
    auto const took = core::Clock::now() - begin;
    WARN(fmt::format("the {} end began anew: traffic both ways again after {} ms",
                     connecting ? "connecting" : "listening",
                     std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
    CHECK(took < 2s);
}

TEST_CASE("tunnel: a cut link costs only the time until it is noticed", "[tunnel]") {
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    Traffic traffic(hosts);
    traffic.until_both_ways(5s);
    hosts.router.enter();
    sh("ip link set right0 down");
    CHECK(hosts.until(
        [&] {
            traffic.turn();
            return !hosts.at_a->is_established() && !hosts.at_b->is_established();
        },
        4s));
    // From here on nothing is read from the taps.
    auto const sent = hosts.at_a->statistics().frames_sent;
    traffic.run_for(1s);
    CHECK(hosts.at_a->statistics().frames_sent == sent);
    sh("ip link set right0 up; ip route replace 10.2.0.0/24 dev right0");
    auto const took = traffic.until_both_ways(8s);
    WARN(fmt::format("after the link was up: traffic both ways again after {} ms", took.count()));
    CHECK(took < 3s);
}

TEST_CASE("tunnel: a link whose MTU shrinks is tested again", "[tunnel]") {
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    REQUIRE(hosts.until([&] { return hosts.at_b->statistics().path.has_value(); }));
    CHECK(hosts.at_b->statistics().path->datagram_max == 1472);
    hosts.b.enter();
    sh("ip link set up0 mtu 1320");
    hosts.router.enter();
    sh("ip link set right0 mtu 1320");
    // The first large datagram of b is refused by its own kernel.
    (void)hosts.tap_b->put(super_frame(1, 20'000, 1448));
    CHECK(hosts.until([&] {
        auto const path = hosts.at_b->statistics().path;
        return path && path->datagram_max == 1292;
    }));
    std::vector<Frame> const frames = {super_frame(2, 30'000, 1448), plain_frame(3, 1514)};
    CHECK(equal(hosts.carry(*hosts.tap_b, *hosts.tap_a, frames), frames));
    CHECK(equal(hosts.carry(*hosts.tap_a, *hosts.tap_b, frames), frames));
}

TEST_CASE("tunnel: a router that begins to drop large datagrams is noticed", "[tunnel]") {
    Hosts hosts;
    hosts.establish();
    hosts.connect_taps();
    REQUIRE(hosts.until([&] { return hosts.at_b->statistics().path.has_value(); }));
    CHECK(hosts.at_b->statistics().path->datagram_max == 1472);
    hosts.router.enter();
    // The hosts' own links stay as they are; they do not read ICMP's answers.
    sh("ip link set left0 mtu 1400; ip link set right0 mtu 1400");
    Traffic traffic(hosts);
    CHECK(hosts.until(
        [&] {
            traffic.turn();
            auto const path = hosts.at_a->statistics().path;
            return path && path->datagram_max == 1372;
        },
        15s));
    std::vector<Frame> const frames = {super_frame(2, 30'000, 1448), super_frame(3, 1514, 1448)};
    traffic.run_for(50ms);
    for (auto const& frame : frames) CHECK(hosts.tap_a->put(frame));
    std::size_t large = 0;
    CHECK(hosts.until([&] {
        for (auto const& frame : hosts.tap_b->written()) large += frame.size() > 1'500 ? 1 : 0;
        return large == frames.size();
    }));
}

TEST_CASE("tunnel: two secrets never become a tunnel, and it is said", "[tunnel]") {
    Hosts hosts;
    auto other = hosts.key;
    other.secret = Key::generate().secret;
    hosts.at_a = must(hosts.hub_a->add(hosts.key, Role::listens, std::nullopt));
    hosts.at_b = must(hosts.hub_b->add(other, Role::connects, hosts.endpoint_a()));
    auto const at_b = hosts.run(hosts.at_b->established(core::Deadline::after(1500ms)));
    auto const at_a = hosts.run(hosts.at_a->established(core::Deadline::after(50ms)));
    CHECK(contains(sentence(at_b), "the secrets of the two ends differ"));
    CHECK(contains(sentence(at_b), hosts.endpoint_a().text()));
    CHECK(contains(sentence(at_a), "the secrets of the two ends differ"));
    CHECK(at_b.error().code == core::Errc::timed_out);
    CHECK(hosts.at_a->statistics().handshakes == 0);
    CHECK(hosts.at_b->statistics().handshakes == 0);
    // And where no program listens.
    auto const unanswered = must(
        hosts.hub_b->add(Key::generate(), Role::connects, Endpoint{ip(hosts.address_of('a')), 9}));
    auto const alone = hosts.run(unanswered->established(core::Deadline::after(300ms)));
    CHECK(contains(sentence(alone), "nothing was received from 10.1.0.1:9"));
    CHECK(contains(sentence(hosts.run(unanswered->test_path(core::Deadline::after(300ms)))),
                   "cannot be tested"));
}

TEST_CASE("tunnel: what cannot be is refused, and a removed tunnel ends its callers", "[tunnel]") {
    Hosts hosts;
    auto const key = Key::generate();
    auto* const first = must(hosts.hub_a->add(key, Role::listens, std::nullopt));
    CHECK(contains(sentence(hosts.hub_a->add(key, Role::listens, std::nullopt)), "already"));
    CHECK(contains(sentence(hosts.hub_a->add(Key::generate(), Role::connects, std::nullopt)),
                   "no endpoint"));
    CHECK(contains(sentence(hosts.hub_a->add({1, "00"}, Role::listens, std::nullopt)), "secret"));
    CHECK(contains(sentence(first->forward()), "no tap"));
    core::Result<> waited;
    core::TaskGroup group(hosts.loop());
    group.spawn([](Tunnel* tunnel, core::Result<>* out) -> core::Task<void> {
        *out = co_await tunnel->established(core::Deadline::after(10s));
    }(first, &waited));
    hosts.for_a_while(20ms);
    hosts.run(hosts.hub_a->remove(key.id));
    hosts.run(group.join());
    REQUIRE_FALSE(waited);
    CHECK(waited.error().code == core::Errc::cancelled);
    (void)must(hosts.hub_a->add(key, Role::listens, std::nullopt));
}

TEST_CASE("tunnel: a thousand on one Hub", "[tunnel]") {
    constexpr int count = 1'000;
    auto const resident_kib = [] {
        std::FILE* file = std::fopen("/proc/self/statm", "r");
        REQUIRE(file != nullptr);
        long pages = 0;
        long resident = 0;
        int const read = std::fscanf(file, "%ld %ld", &pages, &resident);
        std::fclose(file);
        REQUIRE(read == 2);
        return resident * 4;
    };
    Hosts hosts;
    auto const before = resident_kib();
    auto const begin = core::Clock::now();
    std::vector<Tunnel*> all;
    for (int i = 0; i < count; ++i) {
        auto const key = Key::generate();
        all.push_back(must(hosts.hub_a->add(key, Role::listens, std::nullopt)));
        all.push_back(must(hosts.hub_b->add(key, Role::connects, hosts.endpoint_a())));
    }
    CHECK(hosts.until([&] { return std::ranges::all_of(all, &Tunnel::is_established); }, 60s));
    auto const took = core::Clock::now() - begin;
    CHECK(hosts.until(
        [&] {
            return std::ranges::all_of(all, [](auto* one) {
                auto const path = one->statistics().path;
                return path && path->datagram_max == 1472;
            });
        },
        60s));
    auto const each = static_cast<double>(resident_kib() - before) / (2.0 * count);
    WARN(fmt::format("{} tunnels established in {} ms; {:.1f} KiB for each end", count,
                     std::chrono::duration_cast<std::chrono::milliseconds>(took).count(), each));
#if __has_feature(address_sanitizer)  // its shadow and red zones
    CHECK(each < 256);
#else
    CHECK(each < 64);
#endif
    must(all[998]->attach(hosts.tap_a->tap()));
    must(all[999]->attach(hosts.tap_b->tap()));
    must(all[998]->forward());
    must(all[999]->forward());
    auto const frames = some_frames(0, 200);
    CHECK(equal(hosts.carry(*hosts.tap_a, *hosts.tap_b, frames), frames));
}

}  // namespace tunnel_faults_cases
