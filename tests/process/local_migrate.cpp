// `sidecar migrate --local-address`: the guest's network is not that of host b.
#include "netmove/local_address.hpp"
#include "tests/process/move_lab.hpp"

namespace local_migrate_cases {

using namespace move_lab;

namespace {

constexpr auto local_ip = "192.0.2.50";

}  // namespace

TEST_CASE("local address: a guest gets it with its move, and loses it when it returns",
          "[local][local-migrate]") {
    MoveLab lab;
    auto const before = lab.b.traces();
    CHECK(contains(lab.refused({"--local-address", lab.a.address}), "in use already"));
    CHECK(contains(lab.refused({"--local-address", lab.b.address}), "address of this host"));
    CHECK(contains(lab.refused({"--local-address", "203.0.113.7"}), "in the network of"));
    CHECK(contains(lab.refused({"--local-address", "10.1.0.77"}), "the guest's home network"));
    CHECK(contains(lab.refused({"--local-address", "2001:db8::7"}), "no IPv6 address"));
    auto const alone = lab.a.migrate(lab.b, {"--network", "anchor", "--release-when-idle"});
    CHECK(alone.exit_status == 2);
    CHECK(contains(alone.err, "--release-when-idle needs --local-address"));
    auto const home_sessions = lab.a.migrate(
        lab.b, {"--network", "anchor", "--local-address", local_ip, "--release-when-idle"});
    CHECK(home_sessions.exit_status == 2);
    CHECK(contains(home_sessions.err, "--release-when-idle needs --new-sessions=local"));
    auto const elsewhere =
        lab.a.migrate(lab.b, {"--network", "bridge", "--local-address", local_ip});
    CHECK(elsewhere.exit_status == 3);
    CHECK(contains(elsewhere.err, "moves by an anchor"));
    (void)lab.b.in("echo 0 >/proc/sys/net/ipv4/ip_forward");
    CHECK(contains(lab.refused({"--local-address", local_ip}), "net.ipv4.ip_forward=1"));
    (void)lab.b.in("echo 1 >/proc/sys/net/ipv4/ip_forward");
    CHECK(lab.b.traces() == before);

    Argv const options{"--network", "anchor", "--local-address", local_ip, "--new-sessions=local"};
    auto with_check = options;
    with_check.emplace_back("--check");
    auto const checked = lab.a.migrate(lab.b, with_check);
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "reached there as 192.0.2.50 too, which its new sessions use"));
    CHECK(lab.b.traces() == before);

    auto const moved = lab.a.migrate(lab.b, options);
    INFO(moved.out << moved.err << lab.b.serve->err());
    REQUIRE(moved.exit_status == 0);
    auto const local = lab.b.anchor()["local"];
    CHECK(local["in_use"].boolean_or(false));
    CHECK(local["new_sessions"].boolean_or(false));
    REQUIRE(local["home"].size() == 1);
    CHECK(local["home"].elements()[0].text_or("") == "10.1.0.0/24");
    // Whoever asks for the guest there comes to it. (It has no system that could answer.)
    (void)lab.a.in("bash -c 'echo x >/dev/udp/192.0.2.50/7'");
    CHECK(soon([&] { return lab.b.anchor()["local"]["direct_sessions"].integer_or(0) == 1; }));
    auto const status = lab.b.sidecar({"status", "web1"});
    CHECK(contains(status.out, "192.0.2.50, used by its new sessions"));
    CHECK(contains(status.out, "sessions 0 through its home, 1 direct"));
    CHECK(contains(lab.b.sidecar({"anchor", "show", "web1"}).out, "1 direct"));

    auto const wrong = lab.b.migrate(lab.a, {"--local-address", "192.0.2.77"});
    CHECK(wrong.exit_status == 3);
    CHECK(contains(wrong.err, "returns to its home network"));
    auto const back = lab.b.migrate(lab.a, {});
    INFO(back.out << back.err);
    REQUIRE(back.exit_status == 0);
    CHECK(lab.b.traces() == before);
}

}  // namespace local_migrate_cases
