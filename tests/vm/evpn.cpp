// A guest in an EVPN fabric of three hosts with FRR: it moves there and back while a client on the
// third host talks to it at 1 kHz in both families. The tables are FRR's; no host is named to the
// program.
#include <catch2/catch.hpp>

#include "tests/support/stretch.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr Milliseconds fabric_limit = 20s;

/// The host's bridge sends the guest's frames to its tap. FRR leaves the entry of the VXLAN device
/// below it, which no frame reaches then.
bool sends_to_tap(Host const& host) {
    auto const table = must_run({"bridge", "-n", host.netns, "fdb", "show", "br", bridge});
    return table.contains(std::string(guest_mac) + " dev tap-web1 master");
}

/// Both other hosts send the guest's frames to `where`, which FRR has told them.
void wait_for_fabric(Scene& scene, Host const& where) {
    auto const c = third_vtep(scene.net());
    auto const& other = scene.net().other(where);
    wait_until("the fabric to send to host " + where.name, fabric_limit, [&] {
        return guest_vtep(c) == where.ip4 && guest_vtep(other) == where.ip4 && sends_to_tap(where);
    });
}

/// Neighbour entries of the guest that the host itself wrote, for FRR to announce.
std::string own_neighbours(Host const& host) {
    std::string found;
    auto const all = must_run({"ip", "-n", host.netns, "neigh", "show", "dev", bridge});
    for (std::size_t at = 0; at < all.size();) {
        auto const end = std::min(all.find('\n', at), all.size());
        auto const line = all.substr(at, end - at);
        if (line.contains(guest_mac) && !line.contains("extern_learn")) found += line + "\n";
        at = end + 1;
    }
    return found;
}

}  // namespace

TEST_CASE("evpn: a fabric with FRR, there and back, no packet is lost", "[vm][evpn]") {
    GuestOptions const guest{.qemu = "10.0"};
    EvpnFabric fabric;
    Scene scene({.guest = guest, .furnish = [&fabric](Lab const& lab) { fabric.furnish(lab); }});
    wait_for_fabric(scene, scene.a());
    auto const checked =
        scene.sidecar(scene.a(), {"migrate", "--with-storage", "--check", "--key", scene.key_file(),
                                  scene.guest().name(), scene.b().address()});
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(checked.out.find("moved by evpn") != std::string::npos);

    Watch watch(scene.net(), scene.guest());
    std::string told;
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const& to = scene.net().other(*from);
        auto const moved = scene.migrate(*from);
        told += moved.text() + "\n";
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        CHECK(scene.guest().runs_on(to));
        auto const frames = moved.report["network"]["frames"];
        CHECK(frames["dropped"].integer_or(-1) == 0);
        CHECK(frames["lost"].integer_or(-1) == 0);
        wait_for_fabric(scene, to);
        CHECK(own_neighbours(*from).empty());
        CHECK_FALSE(own_neighbours(to).empty());
    }
    auto const seen = watch.finish();
    INFO(told);
    // A few frames may be overtaken while the fabric follows (docs/network.md, "EVPN").
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
    expect::guest_whole(scene, scene.a());
}
