// The routes mover between two hosts in two subnets, with BIRD 2 on both and on the router, set up
// by the recipes of docs/. A client behind the router and the guest exchange numbered datagrams at
// 1 kHz in each family and both ways, while the guest moves as a migration moves it.
#include <sstream>

#include "core/loop.hpp"
#include "tests/process/routed_lab.hpp"

namespace netmove_routes_cases {

namespace {

using namespace routed_lab;
using Clock = std::chrono::steady_clock;
using Ms = std::chrono::duration<double, std::milli>;

core::Deadline within(core::Clock::duration limit) { return core::Deadline::after(limit); }

/// As long as a migration's pause: what the routers need is well within it.
constexpr auto pause = 100ms;
constexpr auto routers_limit = 20s;
/// A busy machine may make it much longer.
constexpr int ring_frames = 20'000;

/// One half of a move: its host and mover.
struct Half {
    RoutedHost* host = nullptr;
    std::unique_ptr<Mover> mover;
};

struct Site {
    Site() {
        router.space.enter();
        bird_r = std::make_unique<Bird>("r", "bird-router.conf", lab::Changes{});
        a.space.enter();
        bird_a = std::make_unique<Bird>("a", "bird.conf", lab::Changes{});
        b.space.enter();
        bird_b = std::make_unique<Bird>("b", "bird.conf",
                                        lab::Changes{{"10.1.0.", "10.2.0."}, {"fd01::", "fd02::"}});
        for (auto* host : {&b, &a}) {
            host->space.enter();
            must(place_routed_tap(host->netlink, "tap0",
                                  {guest_interface().addresses, 1500, ring_frames}));
        }
        must(claim_routes(a.netlink, guest_interface()));
        REQUIRE(soon([&] { return bird_r->established(4); }, 60s));
        REQUIRE(soon([&] { return next_hop() == "10.1.0.1 fd01::1"; }, 60s));
        guest.runs_on(&a.tap);
    }
    /// Where the router sends the guest's packets, IPv4 and IPv6.
    std::string next_hop() {
        router.space.enter();
        std::string out;
        for (auto const* command : {"ip route show 10.9.0.10", "ip -6 route show fd09::10"}) {
            std::istringstream words(sh(command));
            std::string word;
            while (words >> word && word != "via") continue;
            words >> word;
            out += (out.empty() ? "" : " ") + word;
        }
        return out;
    }
    /// The same by netlink, and quicker: whether both lead to this wire.
    bool leads_to(std::string const& wire) {
        auto const index = must(router.netlink.link(wire)).index;
        for (auto const* address : {guest_ipv4, guest_ipv6}) {
            auto const route = must(router.netlink.route_with_mark(ip(address), 0));
            if (!route || route->link != index) return false;
        }
        return true;
    }
    Half source(RoutedHost& host, std::uint32_t renewals) {
        auto interface = guest_interface();
        interface.renewals = renewals;
        return {&host, routes_mover_source(host.netlink, interface)};
    }
    Half destination(RoutedHost& host, std::uint32_t renewals) {
        auto interface = guest_interface();
        interface.renewals = renewals;
        return {&host, routes_mover_destination(host.netlink, host.tap, interface)};
    }
    void prepare(Half& half) {
        half.host->space.enter();
        must(loop->run(half.mover->prepare(within(10s))));
    }
    void settle(Half& half) {
        half.host->space.enter();
        must(loop->run(half.mover->settle(within(10s))));
    }

    Home home;
    std::unique_ptr<core::Loop> loop = must(core::Loop::create());
    Router router;
    Stub client{router, "c", 3, 100};
    RoutedHost a{router, "a", 1, 1};
    RoutedHost b{router, "b", 2, 1};
    RelayedGuest guest;
    std::unique_ptr<Bird> bird_r;
    std::unique_ptr<Bird> bird_a;
    std::unique_ptr<Bird> bird_b;
};

/// What waits in a ring goes into another: what a source's and a destination's sidecar do.
unsigned carry(RoutedHost& from, RoutedHost& to) {
    to.space.enter();
    auto const injector = must(Injector::open(to.netlink, "tap0"));
    unsigned carried = 0;
    for (auto const& frame : must(catch_frames(from.tap, caught_bytes_max)).frames) {
        if (Gate::is_own(frame)) continue;
        CHECK(must(injector.put(frame)));
        ++carried;
    }
    return carried;
}

struct Times {
    Ms fired{};  ///< Both halves.
    Ms routers{};  ///< From the destination's fire until the router sends there.
};

/// From STOP to the end, as SourceMigration and DestinationMigration do it.
Times move(Site& site, Half source, Half destination, std::string const& wire) {
    auto& from = *source.host;
    auto& to = *destination.host;
    site.prepare(destination);
    site.prepare(source);
    to.space.enter();
    auto gate = must(Gate::install(to.netlink, to.tap));
    site.guest.runs_on(nullptr);
    auto const stop = Clock::now();
    must(gate.close());
    auto const began = Clock::now();
    must(source.mover->fire());
    must(destination.mover->fire());
    Times times;
    times.fired = Clock::now() - began;
    REQUIRE(soon([&] { return site.leads_to(wire); }, routers_limit));
    times.routers = Clock::now() - began - times.fired;
    (void)soon([&] { return Clock::now() - stop > pause; });
    CHECK(soon([&] { return source.mover->may_release(); }, routers_limit));
    must(source.mover->release());
    auto const caught = carry(from, to);
    must(gate.open());
    site.guest.runs_on(&to.tap);
    CHECK(soon([&] { return carry(from, to) == 0; }));
    site.settle(source);
    site.settle(destination);
    must(Gate::remove(from.netlink, "tap0"));
    UNSCOPED_INFO(caught << " frames were carried");
    return times;
}

void report(std::string const& what, Times const& times) {
    fmt::print("routes: {}: both halves fired in {:.2f} ms, BIRD and the router {:.1f} ms later\n",
               what, times.fired.count(), times.routers.count());
}

void must_be_whole(std::string const& what, Stream& stream) {
    for (auto const& seen : stream.finish()) {
        fmt::print("routes: {}: {}\n", what, seen.text());
        INFO(what << ": " << seen.text());
        CHECK(seen.sent > 0);
        CHECK(seen.lost == 0);
        CHECK(seen.duplicated == 0);
        CHECK(seen.reordered == 0);
    }
}

void must_be_bare(RoutedHost& host) {
    host.space.enter();
    CHECK(must(host.netlink.routes(guest_routes_table)).empty());
    CHECK_FALSE(contains(sh("ip rule; ip -6 rule"), "4790"));
    CHECK(sh("ip neigh show dev tap0 nud permanent").empty());
}

}  // namespace

TEST_CASE("routes: there and back over BIRD, nothing is lost, and the newest wins everywhere",
          "[netmove][routes][bird]") {
    Site site;
    Stream to_guest(site.client.space, site.guest.space(), guest_ipv4, guest_ipv6);
    Stream to_client(site.guest.space(), site.client.space, client_ipv4, client_ipv6);
    REQUIRE(soon([&] { return site.leads_to("to-a"); }));
    report("there", move(site, site.source(site.a, 0), site.destination(site.b, 1), "to-b"));
    CHECK(site.next_hop() == "10.2.0.1 fd02::1");
    must_be_bare(site.a);
    // The host that the guest left sends where the others send.
    site.a.space.enter();
    CHECK(contains(sh("ip route get 10.9.0.10; ip -6 route get fd09::10"), "via 10.1.0.254"));
    report("back", move(site, site.source(site.b, 1), site.destination(site.a, 2), "to-a"));
    CHECK(site.next_hop() == "10.1.0.1 fd01::1");
    must_be_bare(site.b);
    must_be_whole("client to guest", to_guest);
    must_be_whole("guest to client", to_client);
}

TEST_CASE("routes: a rollback asks no other host, and is as quick as firing",
          "[netmove][routes][bird]") {
    Site site;
    Stream to_guest(site.client.space, site.guest.space(), guest_ipv4, guest_ipv6);
    auto source = site.source(site.a, 0);
    auto destination = site.destination(site.b, 1);
    site.prepare(destination);
    site.prepare(source);
    site.b.space.enter();
    auto gate = must(Gate::install(site.b.netlink, site.b.tap));
    site.guest.runs_on(nullptr);
    must(gate.close());
    must(source.mover->fire());
    must(destination.mover->fire());
    REQUIRE(soon([&] { return site.leads_to("to-b"); }, routers_limit));
    // The destination is not asked: its routes are still there, and lose.
    auto const began = Clock::now();
    must(source.mover->rollback());
    Ms const took = Clock::now() - began;
    REQUIRE(soon([&] { return site.leads_to("to-a"); }, routers_limit));
    Ms const routers = Clock::now() - began;
    fmt::print("routes: rolled back in {:.2f} ms, BIRD and the router {:.1f} ms after its begin\n",
               took.count(), routers.count());
    CHECK(must(renewals_of(site.a.netlink, "tap0")) == 2U);
    must(source.mover->rollback());
    CHECK(must(renewals_of(site.a.netlink, "tap0")) == 2U);
    CHECK(must(renewals_of(site.b.netlink, "tap0")) == 1U);
    must(gate.open());
    (void)carry(site.b, site.a);
    must(destination.mover->rollback());
    (void)carry(site.b, site.a);  // what was on its way to b when the router had switched
    must_be_bare(site.b);
    site.guest.runs_on(&site.a.tap);
    for (auto const& seen : to_guest.finish()) {
        INFO(seen.text());
        CHECK(seen.lost == 0);
        CHECK(seen.duplicated == 0);
    }
    // And a later move wins over what the rollback left.
    auto const next = must(renewals_of(site.a.netlink, "tap0")).value();
    report("after a rollback", move(site, site.source(site.a, next),
                                    site.destination(site.b, renewed(next, 1)), "to-b"));
}

TEST_CASE("routes: prepared and not fired, a rollback changes nothing", "[netmove][routes]") {
    Home const home;
    auto const loop = must(core::Loop::create());
    Router const router;
    RoutedHost a{router, "a", 1, 1};
    must(place_routed_tap(a.netlink, "tap0", {guest_interface().addresses, 1500, 0}));
    must(claim_routes(a.netlink, guest_interface()));
    auto const source = routes_mover_source(a.netlink, guest_interface());
    must(loop->run(source->prepare(within(10s))));
    must(source->rollback());
    CHECK(must(renewals_of(a.netlink, "tap0")) == 0U);
    // No other host announces the guest: the source keeps its routes until it gives up waiting.
    must(source->fire());
    CHECK_FALSE(source->may_release());
    // A mover that is made after a restart does not know, and renews them.
    must(routes_mover_source(a.netlink, guest_interface())->rollback());
    CHECK(must(renewals_of(a.netlink, "tap0")) == 2U);
}

}  // namespace netmove_routes_cases
