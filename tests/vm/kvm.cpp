// Under real KVM: there and back, with QEMU's own network thread and with the kernel's (vhost-net).
// Run by scripts/kvm-ring in a machine that has /dev/kvm.
#include "tests/vm/kvm.hpp"

#include <catch2/catch.hpp>

#include <unistd.h>

#include <iostream>

using namespace lab;

namespace {

constexpr std::int64_t moves = 4;

/// Datagrams lost in four moves; everything else must hold.
std::int64_t lost_there_and_back(bool vhost) {
    REQUIRE(access("/dev/kvm", R_OK | W_OK) == 0);
    if (vhost) REQUIRE(access("/dev/vhost-net", R_OK | W_OK) == 0);
    auto guest = kvm::guest();
    guest.blockdev = true;
    guest.vhost = vhost;
    Scene scene({.guest = guest});
    std::cout << "the guest runs" << std::endl;
    kvm::Probe probe(scene.net());
    for (std::int64_t i = 0; i < moves; ++i) {
        INFO("move " << i + 1);
        auto const moved = scene.migrate(i % 2 == 0 ? scene.a() : scene.b());
        if (moved.exit_status != 0) FAIL(moved.text() << kvm::last_words(scene.net()));
        std::cout << "move " << i + 1 << ": downtime " << moved.report["downtime_ms"].number_or(-1)
                  << " ms" << std::endl;
    }
    scene.guest().must_be_alive();
    scene.guest().must_be_whole();
    return probe.finish();
}

/// Everything of this network is in VLAN 20. Only the first host's bridge gives that to new ports.
void put_into_vlan(Lab const& lab) {
    for (auto const* host : {&lab.a(), &lab.b()}) {
        auto const& netns = host->netns;
        ip(netns, {"link", "set", bridge, "type", "bridge", "vlan_filtering", "1"});
        for (Argv const& port : {Argv{"up0"}, Argv{bridge, "self"}}) {
            Argv words{"bridge",     "-n",  netns, "vlan", "add",     "dev",
                       port.front(), "vid", "20",  "pvid", "untagged"};
            words.insert(words.end(), port.begin() + 1, port.end());
            must_run(words);
        }
    }
    ip(lab.a().netns, {"link", "set", bridge, "type", "bridge", "vlan_default_pvid", "20"});
}

}  // namespace

TEST_CASE("kvm: a guest in a VLAN stays in it, there and back", "[.][kvm]") {
    GuestOptions const guest{
        .qemu = "7.2", .blockdev = true, .kvm = true, .disk_mib = 256, .ram_mib = 256};
    Scene scene({.guest = guest, .furnish = put_into_vlan});
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const moved = scene.migrate(*from, {"--network=bridge"});
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        scene.guest().must_be_alive();  // asked over the network
    }
    scene.guest().must_be_whole();
}

TEST_CASE("kvm: there and back twice", "[.][kvm]") { CHECK(lost_there_and_back(false) == 0); }

// Known: with vhost-net one frame may be lost at each end of a move (docs/network.md). The number
// is printed.
TEST_CASE("kvm: there and back twice, vhost-net", "[.][kvm]") {
    CHECK(lost_there_and_back(true) <= 2 * moves);
}
