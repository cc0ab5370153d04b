// `sidecar migrate --release-when-idle` from one real QEMU to another. The guest's system is a
// namespace beside its QEMU, which has none: with the guest's MAC address, in its bridge on host b.
#include "tests/process/move_lab.hpp"

namespace local_release_cases {

using namespace move_lab;

TEST_CASE("release: a guest whose anchor was released stays reachable, and returns home",
          "[local][local-migrate][release]") {
    MoveLab lab{MoveLab::Empty()};
    lab.b.serve_environment = {"SIDECAR_TEST_RELEASE_MS=400"};
    // Else it has that of a port, which may be the guest's tap.
    (void)lab.a.in("ip link set br0 address 02:00:00:00:00:01");
    lab.start_serve(lab.a);
    lab.start_serve(lab.b);
    lab.a.start_guest();
    auto const before = lab.b.traces();
    Argv const options{
        "--network",          "anchor", "--local-address", "192.0.2.50", "--new-sessions=local",
        "--release-when-idle"};
    auto with_check = options;
    with_check.emplace_back("--check");
    auto const checked = lab.a.migrate(lab.b, with_check);
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "its anchor ends when no session has used it for 10 min"));
    CHECK(contains(checked.out, "DHCP"));
    auto const moved = lab.a.migrate(lab.b, options);
    INFO(moved.out << moved.err << lab.b.serve->err());
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(lab.b.sidecar({"status", "web1"}).out, "to be released: the guest has sent"));

    MoveHost const system("g", 9, lab.directory.text());
    (void)lab.b.in(
        fmt::format("ip link add system type veth peer name eth0 netns {};"
                    "ip link set system addrgenmode none master $(ip -o link | grep -oE "
                    "'sca[0-9a-f]{{8}}' | head -1) up",
                    system.netns));
    (void)system.in(
        fmt::format("ip link set eth0 address {} up; ip address add 10.1.0.10/24 dev "
                    "eth0; ip route add default via 10.1.0.1",
                    guest_mac));
    auto const opens = [&] {
        // To a port where nobody listens: the answer is a reset.
        (void)system.in("ip neigh flush all; bash -c '</dev/tcp/192.0.2.1/9' || true");
        return system.in("ip neigh show 10.1.0.1");
    };
    CHECK(soon(
        [&] {
            (void)opens();
            return lab.b.anchor()["state"].text_or("") == "released";
        },
        20s));
    CHECK(lab.a.anchors().empty());
    CHECK_FALSE(contains(lab.a.in("ip -o link"), "web1"));
    CHECK(contains(opens(), "lladdr 02:00:00:00:00:01"));
    auto const status = lab.b.sidecar({"status", "web1"});
    CHECK(contains(status.out, "its anchor was released"));
    CHECK(contains(status.out, "released 0 min ago"));
    CHECK(contains(lab.b.sidecar({"anchor", "list"}).out, "its anchor was released"));

    auto const unclear = lab.b.migrate(lab.a, {});
    CHECK(unclear.exit_status == 3);
    CHECK(contains(unclear.err, "can only return to its home network"));
    auto const back = lab.b.migrate(lab.a, {"--network=bridge"});
    INFO(back.out << back.err << lab.a.serve->err());
    REQUIRE(back.exit_status == 0);
    CHECK(contains(lab.a.in("bridge link"), "master br0"));
    (void)lab.b.in("ip link delete system");
    CHECK(lab.b.traces() == before);
    CHECK(lab.b.anchors().empty());
}

}  // namespace local_release_cases
