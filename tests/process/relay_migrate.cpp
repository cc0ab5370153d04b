// `sidecar migrate --anchor`, from one real QEMU to another, without a guest but the BIOS: hosts a
// and r are in the guest's network, host b is elsewhere. The anchor is on host r, whose bridge has
// another name.
#include "tests/process/move_lab.hpp"

namespace relay_migrate_cases {

namespace {

using namespace move_lab;

struct RelayLab {
    /// `environment`: of the guest's sidecar on host a.
    explicit RelayLab(std::vector<std::string> const& environment = {}) {
        // All reach each other over host b's bridge, which is not the guest's network.
        (void)b.in("ip link add wire type bridge; ip link set wire up");
        for (auto* const host : {&a, &r}) {
            sh(
                fmt::format("ip -n {0} link add to-{2} type veth peer name wire netns {1};"
                            "ip -n {0} link set to-{2} master wire up; ip -n {1} link set wire up",
                            b.netns, host->netns, host == &a ? "a" : "r"));
        }
        for (auto* const host : {&a, &b, &r}) {
            (void)host->in(fmt::format("ip address add {}/24 dev wire", host->address));
        }
        add_home();
        start_serve(a, {});
        start_serve(b, {});
        start_serve(r, {"--map-bridge", "br0=lan"});
        a.start_guest({}, environment);
    }
    /// The guest's network: br0 of host a, and a cable to host r, which has no bridge there yet.
    void add_home() const {
        sh(fmt::format("ip -n {} link add home type veth peer name home netns {}", a.netns,
                       r.netns));
        {
            lab::Visit const visit(a.netns);
            make_bridge("br0");
        }
        for (auto const* host : {&a, &r}) {
            (void)host->in("ip link set home addrgenmode none; ip link set home up");
        }
        (void)a.in("ip link set home master br0");
    }
    void add_bridge_of_relay() const {
        lab::Visit const visit(r.netns);
        make_bridge("lan");
        sh("ip link set home master lan; ip address add 10.1.0.3/24 dev lan");
    }
    void start_serve(MoveHost& host, Argv more) const {
        for (auto const* other : {&a, &b, &r}) {
            if (other == &host) continue;
            more.insert(more.end(), {"--map-path", other->directory + "=" + host.directory});
        }
        host.start_serve(more);
    }
    /// What `migrate` says when it refuses.
    [[nodiscard]] static std::string refused(MoveHost const& from, MoveHost const& to,
                                             Argv const& more, int status = 3) {
        auto const checked = from.migrate(to, more);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == status);
        return checked.err;
    }
    /// Frames from host r to the guest pass the tunnel and reach host b.
    [[nodiscard]] bool reaches_guest() const {
        auto const arrived = [this] {
            return b.anchor()["tunnel"]["frames_received"].integer_or(0);
        };
        auto const before = arrived();
        send_from_relay();
        return soon([&] { return arrived() > before; }, 10s);
    }
    void send_from_relay() const {
        (void)r.in(
            fmt::format("ip neigh replace 10.1.0.10 lladdr {} dev lan nud permanent;"
                        "bash -c 'echo x >/dev/udp/10.1.0.10/7'",
                        guest_mac));
    }
    /// The port of host r's bridge that leads to the guest.
    [[nodiscard]] std::string way_at_relay() const {
        return r.in(fmt::format("bridge fdb show br lan | grep {} | cut -d' ' -f3", guest_mac));
    }

    storage_lab::Directory directory;
    MoveHost a{"a", 1, directory.text()};
    MoveHost b{"b", 2, directory.text()};
    MoveHost r{"r", 3, directory.text()};
};

}  // namespace

TEST_CASE("relay: a guest leaves home, its home host is switched off, and it returns there",
          "[anchor][relay]") {
    RelayLab lab;
    auto const before = lab.r.traces();
    auto const elsewhere = lab.b.traces();
    Argv const options{"--anchor", lab.r.address};
    auto with_check = options;
    with_check.emplace_back("--check");
    auto const missing = lab.refused(lab.a, lab.b, with_check);
    CHECK(contains(missing, "192.0.2.3 cannot be the anchor of web1: it has no bridge lan"));
    lab.add_bridge_of_relay();
    CHECK(contains(lab.refused(lab.a, lab.b, {"--anchor", lab.b.address}), "is the destination"));
    CHECK(contains(lab.refused(lab.a, lab.b, {"--anchor", lab.a.address}), "web1 runs on it"));
    CHECK(contains(lab.refused(lab.a, lab.b, {"--network=bridge", "--anchor", "r"}, 2),
                   "leave --network=bridge out"));
    auto const checked = lab.a.migrate(lab.b, with_check);
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "moved by an anchor on 192.0.2.3"));
    CHECK(lab.r.traces() == before);
    CHECK(lab.r.anchors().empty());

    (void)lab.a.in("bridge link set dev web1 guard on");
    auto const moved = lab.a.migrate(lab.b, options);
    INFO(moved.out << moved.err << lab.r.serve->err());
    REQUIRE(moved.exit_status == 0);
    CHECK(contains(lab.r.in("bridge -d link show dev " + lab.way_at_relay()), "guard on"));
    auto const stand_in = lab.r.anchor();
    CHECK(stand_in["kind"].text_or("") == "stand_in");
    CHECK(stand_in["state"].text_or("") == "away");
    CHECK(stand_in["bridge"].text_or("") == "lan");
    CHECK(contains(lab.r.sidecar({"anchor", "list"}).out, "stands in"));
    CHECK(lab.a.anchors().empty());
    CHECK(contains(lab.way_at_relay(), "sas"));
    lab.a.kill_all();
    (void)lab.b.in("ip link set to-a down");
    CHECK(lab.reaches_guest());

    (void)lab.b.in("ip link set to-a up");
    lab.start_serve(lab.a, {});
    CHECK(contains(lab.refused(lab.b, lab.a, options), "has an anchor on another host already"));
    auto const home = lab.b.migrate(lab.a, {"--check"});
    INFO(home.out << home.err);
    CHECK(home.exit_status == 0);
    CHECK(contains(home.out, "returns to its home network"));
    CHECK(lab.r.anchors().size() == 1);
    auto const back = lab.b.migrate(lab.a, {});
    INFO(back.out << back.err << lab.a.serve->err());
    REQUIRE(back.exit_status == 0);
    CHECK(lab.r.anchors().empty());
    CHECK(soon([&] { return lab.r.traces() == before; }));
    CHECK(lab.b.traces() == elsewhere);
    CHECK(contains(lab.way_at_relay(), "home"));
}

TEST_CASE("relay: a guest returns to the host of its stand-in", "[anchor][relay]") {
    RelayLab lab;
    lab.add_bridge_of_relay();
    auto const elsewhere = lab.b.traces();
    auto const moved = lab.a.migrate(lab.b, {"--anchor", lab.r.address});
    INFO(moved.out << moved.err << lab.r.serve->err());
    REQUIRE(moved.exit_status == 0);
    auto const home = lab.b.migrate(lab.r, {"--check"});
    INFO(home.out << home.err);
    CHECK(contains(home.out, "where its anchor is"));
    auto const back = lab.b.migrate(lab.r, {});
    INFO(back.out << back.err << lab.r.serve->err());
    REQUIRE(back.exit_status == 0);
    CHECK(lab.r.anchors().empty());
    CHECK(soon([&] { return !contains(lab.r.traces(), "sas"); }));
    CHECK(lab.b.traces() == elsewhere);
    CHECK(contains(lab.way_at_relay(), "web1"));
}

TEST_CASE("relay: a migration that is cancelled leaves no stand-in", "[anchor][relay]") {
    RelayLab lab;
    lab.add_bridge_of_relay();
    auto const before = lab.r.traces();
    auto migration = lab.a.start_migration(lab.b, {"--bandwidth", "4K", "--anchor", lab.r.address});
    lab::wait_until("the stand-in", 60s, [&] {
        if (!migration.running()) throw lab::Failure("`migrate` ended: " + migration.err());
        return !lab.r.anchors().empty();
    });
    CHECK(lab.r.anchor()["state"].text_or("") == "prepared");
    auto const cancelled = lab.a.sidecar({"cancel", "web1"});
    INFO(cancelled.err);
    CHECK(cancelled.exit_status == 0);
    CHECK(migration.wait(60s) == 5);
    CHECK(lab.r.anchors().empty());
    CHECK(soon([&] { return lab.r.traces() == before; }));
}

TEST_CASE("relay: a migration that is undone after STOP leaves the guest at home",
          "[anchor][relay]") {
    RelayLab lab({"SIDECAR_TEST_STOP_AT=copy_final"});
    lab.add_bridge_of_relay();
    auto const before = lab.r.traces();
    auto migration = lab.a.start_migration(lab.b, {"--anchor", lab.r.address});
    auto const stopped = lab.a.wait_stopped(migration);
    CHECK(lab.r.anchors().size() == 1);
    // The destination loses the guest's QEMU.
    lab.b.kill_qemu();
    CHECK(MoveHost::finish(migration, stopped) == 1);
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
    CHECK(lab.r.anchors().empty());
    CHECK(soon([&] { return lab.r.traces() == before; }));
    CHECK(contains(lab.way_at_relay(), "home"));
}

}  // namespace relay_migrate_cases
