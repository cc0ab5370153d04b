// Further kinds of guests: with one address family only, or started without the program.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void moves_once(GuestOptions const& guest) {
    Scene scene({.guest = guest});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    expect::moves(scene, scene.a());
    must_have_kept_sessions(watch.finish(), guest);
}

}  // namespace

TEST_CASE("kinds: a guest that has IPv4 only", "[vm][kinds]") { moves_once({.ipv6 = false}); }

TEST_CASE("kinds: a guest that has IPv6 only", "[vm][kinds]") {
    moves_once({.qemu = "10.0", .ipv4 = false});
}

TEST_CASE("kinds: hosts without IPv6", "[vm][kinds]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    Scene scene({.guest = {.qemu = version}, .hosts_ipv6 = false});
    REQUIRE(scene.b().address() == scene.b().ip4);
    expect::moves(scene, scene.a());
    expect::moves(scene, scene.b());
}

TEST_CASE("kinds: a QEMU that was started plainly is attached to, and moved", "[vm][kinds]") {
    auto const version = GENERATE(from_range(qemus("7.2")));
    Scene scene({.guest = {.qemu = version}, .start_guest = false});
    auto const& guest = scene.guest();
    auto const socket = scene.a().directory / "admin.sock";
    guest.make_tap(scene.a());
    Daemon qemu =
        guest.start_plainly(scene.a(), {"-qmp", "unix:" + socket.string() + ",server=on,wait=off"});
    guest.wait_alive();
    guest.learn();
    scene.attach_guest(scene.a(), {"--qmp", socket});
    auto watch = Watch::of_sessions(scene.net(), guest);
    auto const ended = scene.migrate(scene.a());
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::report_of_a_move(ended.report, guest.options());
    expect::guest_whole(scene, scene.b());
    must_have_kept_sessions(watch.finish(), guest.options());
    INFO(scene.first_sidecar().err());
    CHECK(qemu.wait(end_limit) == 0);
    CHECK(scene.first_sidecar().wait(end_limit) == 0);
    // The tap is the administrator's, so it stays.
    CHECK(traces_of(scene.a()).links.contains(guest.tap()));
}
