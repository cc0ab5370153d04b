// Which mover `migrate` chooses in a VXLAN, by what the kernels of both hosts say.
#include "sidecar/guest/preflight.hpp"
#include "sidecar/migration/network_choice.hpp"
#include "tests/process/evpn_lab.hpp"

namespace evpn_choice_cases {

using namespace evpn_lab;

TEST_CASE("evpn: chosen by what the destination's bridge has from a routing daemon",
          "[netmove][evpn]") {
    using sidecar::NetworkChoice;
    Vteps net;
    auto const mac = guest_interface().mac;
    net.a.space.enter();
    for (auto const& frame : announcements(mac, {}, false, ArpForm::request)) {
        must(net.a.tap.write_frame(frame));
    }
    // As `describe` at the source and `check` at the destination do it; the bridge has another name
    // at the source.
    auto const chosen = [&](NetworkChoice choice) {
        auto interface = evpn_interface(net.a, net.b);
        interface.bridge = "br7";
        interface.vxlan_destination.reset();
        interface.evpn = false;
        net.a.space.enter();
        interface.vxlan_source->evpn = must(evpn_knows(net.a.netlink, "br0", mac));
        sidecar::Description description;
        description.interfaces = {interface};
        net.b.space.enter();
        sidecar::HostMaps maps;
        maps.bridges = {{"br7", "br0"}};
        interface.vxlan_destination = must(sidecar::vxlan_ends_here(maps, description)).at(0);
        auto const result = sidecar::choose_mover(choice, interface);
        return result ? sidecar::choice_in_vxlan(choice, interface) : result.error().sentence();
    };
    REQUIRE(soon([&] { return must(evpn_knows(net.a.netlink, "br0", mac)); }));
    CHECK(contains(chosen(NetworkChoice::automatic), "moved by vxlan"));
    CHECK(contains(chosen(NetworkChoice::evpn), "no routing daemon of the destination has"));
    net.b.space.enter();
    sh(fmt::format("bridge fdb replace {} dev vx0 dst {} self master dynamic extern_learn",
                   mac.text(), net.a.local));
    CHECK(contains(chosen(NetworkChoice::automatic), "moved by evpn"));
    CHECK(contains(chosen(NetworkChoice::evpn), "moved by evpn"));
    CHECK(contains(chosen(NetworkChoice::vxlan), "moved by vxlan"));
}

}  // namespace evpn_choice_cases
