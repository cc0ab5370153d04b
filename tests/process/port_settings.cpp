// What an operator has set on the guest's port of its bridge goes with the guest: VLANs and flags.
#include "netmove/port_settings.hpp"
#include "tests/process/move_lab.hpp"

namespace port_settings_cases {

using namespace move_lab;

namespace {

constexpr auto to_bridge = "--network=bridge";

/// The flags of the guest's port, as bridge(8) shows them.
std::string flags(MoveHost const& host, std::string const& tap = "web1") {
    return host.in("bridge -j -d link show dev " + tap +
                   " | grep -oE "
                   "'\"(hairpin|guard|isolated|learning|mcast_to_unicast|locked|flood)\":[a-z]*'");
}

/// Both hosts have the guest's bridge.
struct BridgeLab : MoveLab {
    BridgeLab() { (void)b.in("ip link add br0 type bridge; ip link set br0 up"); }
};

/// Whether this kernel's bridges can have VLANs (CONFIG_BRIDGE_VLAN_FILTERING).
bool has_vlans(MoveHost const& host) {
    return contains(host.in("ip link set br0 type bridge vlan_filtering 1 2>&1 || true;"
                            "ip -d link show br0"),
                    "vlan_filtering 1");
}

void put_into_vlan_20(MoveHost const& host) {
    (void)host.in(
        "bridge vlan del dev web1 vid 1; bridge vlan add dev web1 vid 20 pvid untagged;"
        "bridge vlan add dev web1 vid 30-40; bridge vlan add dev web1 vid 50");
}

void there_and_back(MoveLab& lab, std::function<std::string(MoveHost const&)> const& seen) {
    auto const before = seen(lab.a);
    for (auto const& [from, to] : {std::pair(&lab.a, &lab.b), std::pair(&lab.b, &lab.a)}) {
        auto const moved = from->migrate(*to, {to_bridge});
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        CHECK(seen(*to) == before);
    }
}

}  // namespace

TEST_CASE("port settings: the flags of a port go with the guest, there and back",
          "[migrate][port-settings]") {
    BridgeLab lab;
    (void)lab.a.in("bridge link set dev web1 isolated on mcast_to_unicast on guard on");
    REQUIRE(contains(flags(lab.a), "\"isolated\":true"));
    there_and_back(lab, [](MoveHost const& host) { return flags(host); });
}

TEST_CASE("port settings: a guest that returns to its anchor has the flags that it had",
          "[migrate][port-settings]") {
    MoveLab lab;
    (void)lab.a.in("bridge link set dev web1 isolated on guard on");
    auto const before = flags(lab.a);
    auto const moved = lab.a.migrate(lab.b, {"--network=anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(flags(lab.b), "\"isolated\":false"));  // a bridge for the guest alone
    auto const back = lab.b.migrate(lab.a, {});
    INFO(back.out << back.err);
    REQUIRE(back.exit_status == 0);
    // The anchor had the old name.
    auto const tap = lab.a.in("ip -br link show type tun master br0 | cut -d' ' -f1");
    INFO(tap);
    CHECK(flags(lab.a, tap.substr(0, tap.find('\n'))) == before);
}

TEST_CASE("port settings: the VLANs of a port go with the guest, or it is refused",
          "[migrate][port-settings]") {
    BridgeLab lab;
    if (!has_vlans(lab.a)) {
        WARN("this kernel's bridges have no VLANs");
        return;
    }
    put_into_vlan_20(lab.a);
    auto const refused = lab.a.migrate(lab.b, {to_bridge, "--check"});
    INFO(refused.out << refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(contains(refused.err, "VLANs 20, 30-40, 50"));
    CHECK(contains(refused.err, "vlan_filtering 1"));
    REQUIRE(has_vlans(lab.b));
    there_and_back(lab,
                   [](MoveHost const& host) { return host.in("bridge -j vlan show dev web1"); });
}

}  // namespace port_settings_cases
