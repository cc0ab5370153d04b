// A guest in a network that is stretched by VXLAN over devices that do not learn: source,
// destination, and a third VTEP with a client. The guest moves there and back, and stays. No packet
// of the client is lost, although each one follows the third VTEP's table.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/support/stretch.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr int serve_port = 4790;

SceneOptions stretched(GuestOptions guest, std::vector<std::string> environment = {}) {
    return {.guest = std::move(guest),
            .run_environment = std::move(environment),
            .furnish = [](Lab const& lab) { stretch(lab); }};
}

/// `sidecar serve` on the third VTEP, where no guest ever runs.
Daemon serve_at_c(Scene& scene) {
    auto const c = third_vtep(scene.net());
    Daemon serve("serve", {program("sidecar"), "serve", "--key", scene.key_file()}, c.place(),
                 c.logs);
    wait_until("`sidecar serve` on host c to listen", 20s,
               [&] { return accepts(c.netns, c.ip6, serve_port); });
    return serve;
}

Argv with_vtep(Scene& scene) { return {"--vtep", third_vtep(scene.net()).address()}; }

void must_be_told(Scene& scene, Host const& where) {
    CHECK(guest_vtep(third_vtep(scene.net())) == where.ip4);
    CHECK(guest_vtep(scene.net().other(where)) == where.ip4);
    CHECK(guest_vtep(where).empty());
}

void there_and_back(std::string const& qemu) {
    GuestOptions const guest{.qemu = qemu};
    Scene scene(stretched(guest));
    auto serve = serve_at_c(scene);
    Watch watch(scene.net(), scene.guest());
    std::string told;
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const moved = scene.migrate(*from, with_vtep(scene));
        INFO(moved.text());
        told += moved.text();
        REQUIRE(moved.exit_status == 0);
        must_be_told(scene, scene.net().other(*from));
        auto const network = moved.report["network"];
        CHECK(network["frames"]["dropped"].integer_or(-1) == 0);
        CHECK(network["frames"]["lost"].integer_or(-1) == 0);
        REQUIRE(network["vteps"].size() == 1);
        auto const vtep = network["vteps"].elements()[0];
        CHECK(vtep["changed"].boolean_or(false));
        CHECK(vtep["devices"].text_or("") == "vx0");
        CHECK(vtep["repointed_ms"].number_or(-1) > 0);
    }
    auto const seen = watch.finish();
    INFO(told);
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    CHECK(serve.end() == 0);
}

}  // namespace

TEST_CASE("vxlan: three VTEPs, no packet is lost, QEMU 7.2", "[vm][vxlan]") {
    there_and_back("7.2");
}
TEST_CASE("vxlan: three VTEPs, no packet is lost, QEMU 10.0", "[vm][vxlan]") {
    there_and_back("10.0");
}

TEST_CASE("vxlan: rolled back after STOP, no packet is lost", "[vm][vxlan]") {
    GuestOptions const guest{.qemu = "10.0"};
    Scene scene(stretched(guest, {"SIDECAR_TEST_STOP_AT=copy_final"}));
    auto serve = serve_at_c(scene);
    Watch watch(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a(), with_vtep(scene));
    auto const held = scene.wait_stopped(scene.a());
    Qmp(scene.guest().probe_socket(scene.a())).execute("migrate_cancel");
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    must_be_told(scene, scene.a());
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
    CHECK(serve.end() == 0);
}

TEST_CASE("vxlan: a VTEP that cannot take part refuses, one that is lost at STOP is informed later",
          "[vm][vxlan]") {
    GuestOptions const guest{.qemu = "10.0"};
    Scene scene(stretched(guest, {"SIDECAR_TEST_STOP_AT=fire_network"}));
    auto const refused = scene.migrate(scene.a(), with_vtep(scene));
    INFO(refused.text());
    CHECK(refused.exit_status == 3);
    CHECK(refused.text().find("cannot take part") != std::string::npos);
    expect::guest_whole(scene, scene.a());

    auto serve = serve_at_c(scene);
    Watch watch(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a(), with_vtep(scene));
    auto const held = scene.wait_stopped(scene.a());
    serve.kill();
    signal_process(held, SIGCONT);
    wait_until("the guest to run on host b", Scene::migration_limit,
               [&] { return scene.guest().runs_on(scene.b()); });
    CHECK(guest_vtep(third_vtep(scene.net())) == scene.a().ip4);
    serve = serve_at_c(scene);
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    CHECK(moved.exit_status == 0);
    must_be_told(scene, scene.b());
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
}

TEST_CASE("vxlan: the source's sidecar is killed after STOP, and `attach` informs the VTEP",
          "[vm][vxlan]") {
    Scene scene(stretched({.qemu = "10.0"}, {"SIDECAR_TEST_STOP_AT=seal_destination"}));
    auto serve = serve_at_c(scene);
    auto const c = third_vtep(scene.net());
    auto migration = scene.start_migration(scene.a(), with_vtep(scene));
    auto const held = scene.wait_stopped(scene.a());
    CHECK(guest_vtep(c) == scene.b().ip4);
    kill_process(held);
    CHECK(Scene::finish(migration).exit_status != 0);
    wait_until("the watchdog to let the guest go on", Guest::answer_limit,
               [&] { return scene.guest().runs_on(scene.a()); });
    CHECK(guest_vtep(c) == scene.b().ip4);  // there is no sidecar left to report the move
    scene.attach_guest(scene.a());
    wait_until("both VTEPs to be told", Guest::answer_limit, [&] {
        return guest_vtep(c) == scene.a().ip4 && guest_vtep(scene.b()) == scene.a().ip4;
    });
    must_be_told(scene, scene.a());
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    CHECK(serve.end() == 0);
}
