// across: what a client sees while a guest moves to a host of another subnet and back. Between the
// subnets are a router and a long line. Peer: what Kullberg and Silvera did by hand: QEMU moves the
// guest, then a tunnel leads its network to the new host.
#include <cstdio>

#include "tests/bench/client_view.hpp"
#include "tests/support/routed.hpp"
#include "tests/support/stretch.hpp"
#include "tests/support/subnets.hpp"

namespace bench {

namespace {

using namespace std::chrono_literals;

constexpr int moves_full = 20;
constexpr int moves_quick = 2;
/// Each starts two QEMUs, and loses its network for seconds: medians of this many are stable.
constexpr int peer_moves_max = 5;
constexpr std::array round_trips_ms = {0, 20, 100};
/// A fabric takes a guest that moves more often within three minutes for a duplicate.
constexpr int evpn_moves_max = 2;
constexpr auto others_limit = 20s;

/// How the guest's network goes with it.
enum class Way : std::uint8_t { anchor, anchor_vxlan, routes, evpn };

char const* name(Way way) {
    switch (way) {
        case Way::anchor:
            return "anchor";
        case Way::anchor_vxlan:
            return "anchor over VXLAN";
        case Way::routes:
            return "routes";
        case Way::evpn:
            return "evpn";
    }
    return "";
}

/// Two hosts in two subnets, or two of three in a fabric, and the guest on the first.
class Sites {
public:
    Sites(Way way, lab::GuestOptions const& guest, std::chrono::milliseconds round_trip)
        : way_(way),
          scene_(
              {.guest = guest,
               .start_guest = way != Way::routes,
               .furnish = [this, round_trip](lab::Lab const& net) { furnish(net, round_trip); }}) {
        if (way == Way::routes) routes_.run_guest(scene_);
    }
    [[nodiscard]] lab::Scene& scene() { return scene_; }

    Moved move(lab::Host const& from) {
        auto const& to = scene_.net().other(from);
        lab::Qmp source(scene_.guest().probe_socket(from));
        // The plane is chosen where the guest leaves home.
        bool const leaves = way_ == Way::anchor_vxlan && from.name == "a";
        auto migration =
            scene_.start_migration(from, leaves ? lab::Argv{"--anchor-plane=vxlan"} : lab::Argv{});
        lab::Qmp destination(scene_.guest().probe_socket(to));
        Moved moved{standstill(source, destination, lab::Scene::migration_limit), 0, {}, {}};
        bool const anchored = way_ == Way::anchor || way_ == Way::anchor_vxlan;
        double const others_ms = anchored ? 0 : see_others_send(to);
        auto const ended = lab::Scene::finish(migration);
        if (ended.exit_status != 0) throw lab::Failure(ended.text());
        pass(handover_settle);
        moved.report = ended.report;
        moved.frames = ended.report["network"]["frames"];
        moved.network_ms = ended.report["network"]["fired_ms"].number_or(-1);
        fmt::print(stderr, "  {}: {:.1f} ms downtime, moved {:.1f} ms after STOP", name(way_),
                   moved.downtime_ms(), moved.network_ms);
        if (others_ms > 0) {
            fmt::print(stderr, ", seen at the {} {:.1f} ms after STOP",
                       way_ == Way::routes ? "router" : "third host",
                       others_ms - moved.at.stopped_ms);
        }
        fmt::print(stderr, "; {}\n", ended.report["network"].dump());
        return moved;
    }

private:
    void furnish(lab::Lab const& net, std::chrono::milliseconds round_trip) {
        if (round_trip > 0ms) line_ = lab::lengthen(net, round_trip);
        if (way_ == Way::anchor || way_ == Way::anchor_vxlan) lab::separate(net);
        if (way_ == Way::anchor_vxlan) lab::widen(net);
        if (way_ == Way::routes) routes_.furnish(net);
        if (way_ == Way::evpn) fabric_.furnish(net);
    }
    /// When the router, or the client's host in the fabric, was seen to send to that host: after
    /// RESUME at the earliest, because the look itself takes milliseconds.
    double see_others_send(lab::Host const& to) {
        auto const third = lab::third_vtep(scene_.net());
        lab::wait_until("the network to send to host " + to.name, others_limit, [&] {
            return way_ == Way::routes
                       ? lab::RoutedSite::leads_to(scene_.net()) == "host-" + to.name
                       : lab::guest_vtep(third) == to.ip4;
        });
        return wall_ms();
    }

    Way way_;
    std::unique_ptr<lab::PacketLine> line_;
    lab::RoutedSite routes_;
    lab::EvpnFabric fabric_;
    lab::Scene scene_;
};

Sight ours(Way way, std::string const& qemu, std::chrono::milliseconds round_trip, Load const& load,
           int moves) {
    if (way == Way::evpn) moves = std::min(moves, evpn_moves_max);
    Sites sites(way, handover_guest(qemu), round_trip);
    auto& scene = sites.scene();
    Sight sight;
    std::vector<Standstill> made;
    Client client(scene.net(), load);
    pass(handover_settle);
    for (int i = 0; i < moves; ++i) {
        auto const moved = sites.move(i % 2 == 0 ? scene.a() : scene.b());
        sight.add(moved);
        made.push_back(moved.at);
    }
    client.finish("ours", made, sight);
    scene.guest().must_be_whole();
    return sight;
}

/// A tunnel between the hosts' bridges, as an administrator makes one. The whole frame of the guest
/// passes, in fragments.
void lay_tunnel(lab::Lab const& net) {
    for (auto const* host : {&net.a(), &net.b()}) {
        lab::ip(host->netns,
                {"link", "add", "tunnel", "mtu", "1500", "type", "vxlan", "id", "1", "local",
                 host->ip6, "remote", net.other(*host).ip6, "dstport", "4789", "udp6zerocsumrx"});
        lab::ip(host->netns, {"link", "set", "tunnel", "master", lab::bridge, "up"});
    }
}

/// One move, from host a to b.
void by_hand(std::string const& qemu, std::chrono::milliseconds round_trip, Load const& load,
             Sight& sight) {
    std::unique_ptr<lab::PacketLine> line;
    Pair const pair(handover_guest(qemu), false, {"-S", "-incoming", "defer"}, 0,
                    [&](lab::Lab const& net) {
                        if (round_trip > 0ms) line = lab::lengthen(net, round_trip);
                        lab::separate(net);
                    });
    Client client(pair.net, load);
    pass(handover_settle);
    lab::Qmp source(pair.guest.probe_socket(pair.net.a()));
    lab::Qmp destination(pair.guest.probe_socket(pair.net.b()));
    Moved moved{mirror_and_migrate(pair, source, destination, false), 0, {}, {}};
    lay_tunnel(pair.net);
    moved.network_ms = wall_ms() - moved.at.stopped_ms;
    destination.execute(
        "announce-self",
        core::Json::object({{"initial", 50}, {"max", 550}, {"rounds", 5}, {"step", 100}}));
    pass(handover_settle);
    fmt::print(stderr, "  by hand: {:.1f} ms downtime, tunnel {:.1f} ms after STOP\n",
               moved.downtime_ms(), moved.network_ms);
    sight.add(moved);
    client.finish("by hand", {moved.at}, sight);
}

}  // namespace

Result across(Options const& options) {
    Result result{1, {}};
    std::vector<std::string> const qemus =
        options.quick ? std::vector<std::string>{"10.0"} : std::vector<std::string>{"7.2", "10.0"};
    int const moves = options.runs(moves_full, moves_quick);
    Load const load{"1", {lab::guest_ip4, lab::guest_ip6}};
    Load const bulk{"1", {lab::guest_ip4, lab::guest_ip6}, true};
    for (auto const& qemu : qemus) {
        for (auto const round_trip_ms : round_trips_ms) {
            auto const round_trip = std::chrono::milliseconds(round_trip_ms);
            for (auto const way : {Way::anchor, Way::anchor_vxlan, Way::routes, Way::evpn}) {
                auto const place = fmt::format("{} {} {} ms", qemu, name(way), round_trip_ms);
                if (options.wants(place + " calls")) {
                    Sight theirs;  // where one network is on both hosts, that way has no tunnel
                    bool const beside = way == Way::anchor || way == Way::routes;
                    for (int i = 0; beside && i < std::min(moves, peer_moves_max); ++i) {
                        by_hand(qemu, round_trip, load, theirs);
                    }
                    add_rows(result, place, ours(way, qemu, round_trip, load, moves), theirs, {});
                }
                if (options.wants(place + " bulk")) {
                    add_rows(result, place + " bulk", ours(way, qemu, round_trip, bulk, moves), {},
                             {});
                }
            }
        }
    }
    return result;
}

}  // namespace bench
