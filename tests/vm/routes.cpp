// A routed guest on two hosts in two subnets, with BIRD 2 on the hosts and on the router between
// them. It moves there and back while a client behind the router talks to it at 1 kHz in both
// families. No packet is lost, and the hosts are left without a trace.
#include <catch2/catch.hpp>

#include "tests/support/routed.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// Rules, routes and neighbour entries of routed guests on a host; empty: none.
std::string routes_of(Host const& host) {
    std::string out;
    for (auto const* family : {"-4", "-6"}) {
        auto const rules = run({"ip", "-n", host.netns, family, "rule", "show"}).out;
        if (rules.find("lookup 4790") != std::string::npos) out += rules;
        out += run({"ip", "-n", host.netns, family, "route", "show", "table", "4790"}).out;
    }
    return out;
}

Output check(Scene& scene) {
    return scene.sidecar(scene.a(), {"migrate", "--with-storage", "--check", "--key",
                                     scene.key_file(), scene.guest().name(), scene.b().address()});
}

void set_forwarding(Host const& host, char const* value) {
    must_run({"sh", "-c", fmt::format("echo {} >/proc/sys/net/ipv4/ip_forward", value)},
             {host.netns, {}});
}

void wait_for_router(Lab const& lab, Host const& host) {
    wait_until("the router to send to host " + host.name, 20s,
               [&] { return RoutedSite::leads_to(lab) == "host-" + host.name; });
}

}  // namespace

TEST_CASE("routes: two subnets with BIRD, there and back, no packet is lost", "[vm][routes]") {
    GuestOptions const guest{.qemu = "10.0"};
    RoutedSite site;
    Scene scene({.guest = guest, .start_guest = false, .furnish = [&site](Lab const& lab) {
                     site.furnish(lab);
                 }});
    site.run_guest(scene);
    set_forwarding(scene.b(), "0");
    auto const refused = check(scene);
    INFO(refused.out << refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(refused.err.find("net.ipv4.ip_forward=1") != std::string::npos);
    set_forwarding(scene.b(), "1");
    auto const checked = check(scene);
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(checked.out.find("moved by routes") != std::string::npos);
    CHECK(routes_of(scene.b()).empty());

    Watch watch(scene.net(), scene.guest());
    std::string told;
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const& to = scene.net().other(*from);
        auto const moved = scene.migrate(*from);
        told += moved.text() + "\n";
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        auto const network = moved.report["network"];
        CHECK(network["frames"]["dropped"].integer_or(-1) == 0);
        CHECK(network["frames"]["lost"].integer_or(-1) == 0);
        fmt::print("routes: moved {:.2f} ms after STOP, downtime {:.1f} ms\n",
                   network["fired_ms"].number_or(-1), moved.report["downtime_ms"].number_or(-1));
        wait_for_router(scene.net(), to);
        wait_until("no route to be left on host " + from->name, 20s,
                   [&] { return routes_of(*from).empty(); });
        CHECK_FALSE(routes_of(to).empty());
    }
    auto const seen = watch.finish();
    INFO(told);
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("routes: rolled back after STOP, the guest stays routed to where it was",
          "[vm][routes]") {
    GuestOptions const guest{.qemu = "10.0"};
    RoutedSite site;
    Scene scene({.guest = guest, .start_guest = false, .furnish = [&site](Lab const& lab) {
                     site.furnish(lab);
                 }});
    site.run_guest(scene, {"SIDECAR_TEST_STOP_AT=copy_final"});
    Watch watch(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a());
    auto const held = scene.wait_stopped(scene.a());
    wait_for_router(scene.net(), scene.b());
    Qmp(scene.guest().probe_socket(scene.a())).execute("migrate_cancel");
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    wait_for_router(scene.net(), scene.a());
    wait_until("no route to be left on host b", 20s, [&] { return routes_of(scene.b()).empty(); });
    expect::guest_whole(scene, scene.a());
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
}

TEST_CASE("routes: the source's sidecar is killed after STOP, and the guest is routed to its host",
          "[vm][routes]") {
    RoutedSite site;
    Scene scene({.guest = {.qemu = "10.0"},
                 .start_guest = false,
                 .furnish = [&site](Lab const& lab) { site.furnish(lab); }});
    site.run_guest(scene, {"SIDECAR_TEST_STOP_AT=seal_destination"});
    auto migration = scene.start_migration(scene.a());
    auto const held = scene.wait_stopped(scene.a());
    wait_for_router(scene.net(), scene.b());
    kill_process(held);
    CHECK(Scene::finish(migration).exit_status != 0);
    // The watchdog's routes win over those that the destination still announces.
    wait_until("the watchdog to let the guest go on", Guest::answer_limit,
               [&] { return scene.guest().runs_on(scene.a()); });
    wait_for_router(scene.net(), scene.a());
    scene.attach_guest(scene.a());
    expect::guest_whole(scene, scene.a());
    wait_until("no route to be left on host b", 60s, [&] { return routes_of(scene.b()).empty(); });
    auto const moved = scene.migrate(scene.a());
    INFO(moved.text());
    CHECK(moved.exit_status == 0);
    wait_for_router(scene.net(), scene.b());
    expect::guest_whole(scene, scene.b());
}
