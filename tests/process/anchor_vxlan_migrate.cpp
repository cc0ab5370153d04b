// `sidecar migrate --anchor-plane=vxlan` from one real QEMU to another, without a guest but the
// BIOS. Host a has the guest's network; hosts b and c are elsewhere. The kernel carries the frames.
#include "tests/process/move_lab.hpp"

namespace anchor_vxlan_migrate_cases {

namespace {

using namespace move_lab;

Argv const options{"--network", "anchor", "--anchor-plane=vxlan"};

struct VxlanLab {
    /// `environment`: of the guest's sidecar on host a.
    explicit VxlanLab(std::vector<std::string> const& environment = {}) {
        // All reach each other over host b's bridge, which is not the guest's network.
        (void)b.in("ip link add wire type bridge; ip link set wire up");
        for (auto* const host : {&a, &c}) {
            auto const port = host == &a ? "to-a" : "to-c";
            sh(
                fmt::format("ip -n {0} link add {2} type veth peer name wire netns {1};"
                            "ip -n {0} link set {2} master wire up; ip -n {1} link set wire up",
                            b.netns, host->netns, port));
        }
        for (auto* const host : {&a, &b, &c}) {
            (void)host->in(fmt::format("ip address add {}/24 dev wire", host->address));
        }
        {
            lab::Visit const visit(a.netns);
            make_bridge("br0");
            sh("ip address add 10.1.0.1/24 dev br0;"
               "ip neigh add 10.1.0.10 lladdr 52:54:00:10:00:10 dev br0 nud permanent");
        }
        for (auto* const host : {&a, &b, &c}) start_serve(*host);
        a.start_guest({}, environment);
    }
    void start_serve(MoveHost& host) const {
        Argv more;
        for (auto const* other : {&a, &b, &c}) {
            if (other == &host) continue;
            more.insert(more.end(), {"--map-path", other->directory + "=" + host.directory});
        }
        host.start_serve(more);
    }
    /// The wires pass a guest's frame with what VXLAN adds.
    void widen() const {
        for (auto const* host : {&a, &c}) (void)host->in("ip link set wire mtu 1600");
        (void)b.in(
            "ip link set to-a mtu 1600; ip link set to-c mtu 1600; ip link set wire mtu 1600");
    }
    /// What has come to this host from the guest's home network.
    static std::int64_t arrived(MoveHost const& host) {
        auto const devices = lab::parse_json(host.in("ip -s -j link show type vxlan"));
        return devices.elements().at(0)["stats64"]["rx"]["packets"].integer_or(0);
    }
    /// A frame from the guest's home network reaches its bridge on that host.
    [[nodiscard]] bool reaches(MoveHost const& host) const {
        auto const before = arrived(host);
        return soon(
            [&] {
                (void)a.in("bash -c 'echo x >/dev/udp/10.1.0.10/7'");
                return arrived(host) > before;
            },
            10s);
    }
    /// The port of the guest's home bridge that leads to it.
    [[nodiscard]] std::string way_at_home() const {
        return a.in(fmt::format("bridge fdb show br br0 | grep {} | cut -d' ' -f3", guest_mac));
    }
    static void must(lab::Output const& moved, MoveHost const& to) {
        INFO(moved.out << moved.err << to.serve->err());
        REQUIRE(moved.exit_status == 0);
    }

    storage_lab::Directory directory;
    MoveHost a{"a", 1, directory.text()};
    MoveHost b{"b", 2, directory.text()};
    MoveHost c{"c", 3, directory.text()};
};

}  // namespace

TEST_CASE("anchor in the kernel: a guest leaves home and returns, and needs no process meanwhile",
          "[anchor][anchor-vxlan]") {
    VxlanLab lab;
    auto const before = lab.a.traces();
    auto const elsewhere = lab.b.traces();
    auto with_check = options;
    with_check.emplace_back("--check");
    auto const narrow = lab.a.migrate(lab.b, with_check);
    CHECK(narrow.exit_status == 3);
    CHECK(contains(narrow.err, "need an MTU of 1550 on the path"));
    auto const stand_in = lab.a.migrate(lab.b, {"--anchor-plane=vxlan", "--anchor", "192.0.2.3"});
    CHECK(stand_in.exit_status == 2);
    CHECK(contains(stand_in.err, "cannot be used with --anchor"));
    lab.widen();
    auto const checked = lab.a.migrate(lab.b, with_check);
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "the kernel carries them (VXLAN, VNI 15"));
    CHECK(contains(checked.out, "WARNING: in clear"));
    CHECK(lab.a.traces() == before);

    lab.must(lab.a.migrate(lab.b, options), lab.b);
    auto const home = lab.a.anchor();
    CHECK(home["kind"].text_or("") == "vxlan");
    CHECK(home["state"].text_or("") == "away");
    CHECK(home["peer"].text_or("") == lab.b.address);
    CHECK(lab.b.anchor()["peer"].text_or("") == lab.a.address);
    for (auto* const host : {&lab.a, &lab.b}) {
        auto const shown = host->sidecar({"anchor", "show", "web1"});
        INFO(shown.out << shown.err);
        CHECK(contains(shown.out, "the kernel carries the frames"));
        CHECK_FALSE(contains(shown.out, "NO CONNECTION"));
    }
    CHECK(contains(lab.way_at_home(), "sax"));
    CHECK(contains(lab.a.in("ip link show br0"), "mtu 1500 "));
    CHECK(lab.reaches(lab.b));

    for (auto* const host : {&lab.a, &lab.b}) host->serve->kill();
    CHECK(lab.reaches(lab.b));
    // A boot leaves the state directory only.
    (void)lab.a.in("ip link delete $(ip -o link | grep -oE 'sax[0-9a-f]{8}')");
    for (auto* const host : {&lab.a, &lab.b}) lab.start_serve(*host);
    CHECK(soon([&] { return contains(lab.a.traces(), "sax"); }, 20s));
    CHECK(lab.reaches(lab.b));

    lab.must(lab.b.migrate(lab.a, {}), lab.a);
    CHECK(lab.a.anchors().empty());
    CHECK(lab.a.traces() == before);
    CHECK(lab.b.traces() == elsewhere);
    CHECK(contains(lab.way_at_home(), "web1"));
}

TEST_CASE("anchor in the kernel: a guest moves on, and nothing stays where it was",
          "[anchor][anchor-vxlan]") {
    VxlanLab lab;
    lab.widen();
    auto const before = lab.a.traces();
    auto const elsewhere = lab.b.traces();
    lab.must(lab.a.migrate(lab.b, options), lab.b);
    auto const first = lab.way_at_home();
    lab.must(lab.b.migrate(lab.c, {}), lab.c);
    CHECK(lab.b.traces() == elsewhere);
    CHECK(lab.b.anchors().empty());
    CHECK(lab.a.anchor()["peer"].text_or("") == lab.c.address);
    CHECK(contains(lab.way_at_home(), "sax"));
    CHECK(lab.way_at_home() != first);
    CHECK(lab.reaches(lab.c));
    lab.must(lab.c.migrate(lab.a, {}), lab.a);
    CHECK(lab.a.traces() == before);
    CHECK(contains(lab.way_at_home(), "web1"));
}

TEST_CASE("anchor in the kernel: a migration that is undone after STOP leaves the guest at home",
          "[anchor][anchor-vxlan]") {
    VxlanLab lab({"SIDECAR_TEST_STOP_AT=copy_final"});
    lab.widen();
    auto const before = lab.a.traces();
    auto migration = lab.a.start_migration(lab.b, options);
    auto const stopped = lab.a.wait_stopped(migration);
    CHECK(contains(lab.a.traces(), "sax"));
    lab.b.kill_qemu();
    CHECK(MoveHost::finish(migration, stopped) == 1);
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
    CHECK(lab.a.anchors().empty());
    CHECK(soon([&] { return lab.a.traces() == before; }));
    CHECK(contains(lab.way_at_home(), "web1"));
}

}  // namespace anchor_vxlan_migrate_cases
