// A guest moves to a host of another subnet, behind a router, and back. Its place on its home
// network is an anchor meanwhile: no packet of a client there is lost, in either family. The anchor
// is its home host, or another one of that network, so that its home host can be switched off.
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "tests/support/subnets.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void must_carry(core::Json const& one, std::string const& end) {
    CHECK(one["end"].text_or("") == end);
    CHECK(one["connected"].boolean_or(false));
    CHECK(one["tunnel"]["frames_sent"].integer_or(0) > 0);
    CHECK(one["tunnel"]["frames_received"].integer_or(0) > 0);
    CHECK(one["tunnel"]["unauthenticated"].integer_or(-1) == 0);
}

/// `migrate --check` of the guest on host a: its output and its messages.
Output check(Scene& scene, Argv const& more = {}) {
    Argv line{"migrate", "--with-storage", "--check", "--key", scene.key_file()};
    line.insert(line.end(), more.begin(), more.end());
    line.insert(line.end(), {scene.guest().name(), scene.b().address()});
    return scene.sidecar(scene.a(), line);
}

/// Everything on the host ends, and nothing is reached through it.
void switch_off(Scene& scene, Host const& host) {
    scene.kill_serve(host);
    for (auto const& seen : processes_in(host.netns)) {
        auto const process = core::Process::open(seen.pid);
        if (process) (void)process->signal(SIGKILL);
    }
    wait_until("the end of all processes of host " + host.name, end_limit,
               [&] { return processes_in(host.netns).empty(); });
    scene.net().link(host, false);
}

constexpr auto local_ip4 = "10.78.0.50";
constexpr auto local_ip6 = "fd78::50";

/// Host b has a network of its own, in which a guest can have an address.
void separate_with_network(Lab const& lab) {
    separate(lab);
    auto const& b = lab.b().netns;
    ip(b, {"address", "add", "10.78.0.2/24", "dev", "up0"});
    ip(b, {"address", "add", "fd78::2/64", "dev", "up0", "nodad"});
    must_run({"sh", "-c",
              "cd /proc/sys/net; echo 1 >ipv4/ip_forward;"
              " echo 1 >ipv6/conf/all/forwarding"},
             {b, {}});
    ip(lab.client_netns(), {"route", "add", "10.78.0.0/24", "via", "10.77.0.254"});
    ip(lab.client_netns(), {"-6", "route", "add", "fd78::/64", "via", "fd77::fe"});
}

/// What the guest's TCP echo sends back for `text`; shorter when the session is dead.
std::string echoed(core::Fd const& session, std::string_view text) {
    if (::send(session.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return {};
    std::string got;
    std::array<char, 64> part{};
    while (got.size() < text.size()) {
        pollfd readable{session.get(), POLLIN, 0};
        if (::poll(&readable, 1, 5'000) != 1) break;
        auto const size = ::recv(session.get(), part.data(), part.size(), 0);
        if (size <= 0) break;
        got.append(part.data(), static_cast<std::size_t>(size));
    }
    return got;
}

}  // namespace

TEST_CASE("anchor: whether both hosts are in one network is tested before a guest moves",
          "[vm][anchor]") {
    GuestOptions const guest{.qemu = "10.0"};
    SECTION("they are") {
        Scene scene({.guest = guest});
        auto const near = check(scene);
        INFO(near.out << near.err);
        CHECK(near.exit_status == 0);
        CHECK(near.out.find("a test frame from br0 here arrived at br0") != std::string::npos);
    }
    SECTION("they are not") {
        Scene scene({.guest = guest, .furnish = [](Lab const& lab) { separate(lab); }});
        auto const far = check(scene);
        INFO(far.out << far.err);
        CHECK(far.exit_status == 0);
        CHECK(far.out.find("moved by an anchor, because br0 here and br0 on the destination are "
                           "not in one network") != std::string::npos);
        scene.end_serve(scene.a());
        auto const refused = check(scene);
        INFO(refused.out << refused.err);
        CHECK(refused.exit_status == 3);
        CHECK(refused.err.find("would lose its network") != std::string::npos);
        CHECK(refused.err.find("--network=bridge") != std::string::npos);
        CHECK(check(scene, {"--network=bridge"}).exit_status == 0);
        expect::guest_whole(scene, scene.a());
    }
}

TEST_CASE("anchor: to another subnet and back, no packet is lost", "[vm][anchor]") {
    GuestOptions const guest{.qemu = "10.0"};
    Scene scene({.guest = guest, .furnish = [](Lab const& lab) { separate(lab); }});
    Watch watch(scene.net(), scene.guest());
    auto const there = scene.migrate(scene.a());
    INFO("there: " << there.text());
    REQUIRE(there.exit_status == 0);
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.b()));
    CHECK(there.report["network"]["anchor"]["round_trip_us"].integer_or(0) > 0);
    auto const home = expect::anchors(scene, scene.a());
    auto const far = expect::anchors(scene, scene.b());
    REQUIRE(home.size() == 1);
    REQUIRE(far.size() == 1);
    INFO("home: " << home.dump() << "\nfar: " << far.dump());
    must_carry(home.elements()[0], "home");
    must_carry(far.elements()[0], "far");
    CHECK(home.elements()[0]["state"].text_or("") == "away");

    auto const back = scene.migrate(scene.b());
    INFO("back: " << back.text());
    REQUIRE(back.exit_status == 0);
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.a()));
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    expect::no_anchor_left(scene, scene.a());
    expect::no_anchor_left(scene, scene.b());
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("anchor: the kernel carries the frames, to another subnet and back, no packet is lost",
          "[vm][anchor][anchor-vxlan]") {
    GuestOptions const guest{.qemu = "10.0"};
    Scene scene({.guest = guest, .furnish = [](Lab const& lab) {
                     separate(lab);
                     widen(lab);
                 }});
    Watch watch(scene.net(), scene.guest());
    auto const there = scene.migrate(scene.a(), {"--anchor-plane=vxlan"});
    INFO("there: " << there.text());
    REQUIRE(there.exit_status == 0);
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.b()));
    auto const home = expect::anchors(scene, scene.a());
    REQUIRE(home.size() == 1);
    INFO("home: " << home.dump());
    CHECK(home.elements()[0]["kind"].text_or("") == "vxlan");
    CHECK_FALSE(expect::links(scene.a(), "sax").empty());

    auto const back = scene.migrate(scene.b());
    INFO("back: " << back.text());
    REQUIRE(back.exit_status == 0);
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.a()));
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    expect::no_anchor_left(scene, scene.a());
    expect::no_anchor_left(scene, scene.b());
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("anchor: a relay keeps the network of a guest whose home host is off, no packet is lost",
          "[vm][anchor][relay]") {
    constexpr int serve_port = 4790;
    GuestOptions const guest{.qemu = "10.0"};
    Host relay;
    Scene scene({.guest = guest, .furnish = [&relay](Lab const& lab) {
                     separate(lab);
                     relay = add_relay(lab);
                 }});
    Daemon const serve("serve", {program("sidecar"), "serve", "--key", scene.key_file()},
                       relay.place(), relay.logs);
    wait_until("`sidecar serve` of the relay", 20s,
               [&] { return accepts(relay.netns, relay.ip6, serve_port); });
    Watch watch(scene.net(), scene.guest());
    auto const there = scene.migrate(scene.a(), {"--anchor", relay.address()});
    INFO("there: " << there.text() << serve.err());
    REQUIRE(there.exit_status == 0);
    CHECK(there.report["network"]["anchor"]["stand_in"].boolean_or(false));
    switch_off(scene, scene.a());
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.b()));
    auto const home = expect::anchors(scene, relay);
    REQUIRE(home.size() == 1);
    INFO("home: " << home.dump());
    must_carry(home.elements()[0], "home");
    CHECK(home.elements()[0]["kind"].text_or("") == "stand_in");

    scene.net().link(scene.a(), true);
    scene.start_serve(scene.a());
    auto const back = scene.migrate(scene.b());
    INFO("back: " << back.text());
    REQUIRE(back.exit_status == 0);
    scene.guest().must_be_alive();
    CHECK(scene.guest().runs_on(scene.a()));
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    for (auto const* host : {&scene.a(), &scene.b(), static_cast<Host const*>(&relay)}) {
        expect::no_anchor_left(scene, *host);
    }
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("anchor: new sessions reach a guest at an address of the other subnet, old ones at home",
          "[vm][anchor][local]") {
    constexpr int echo_port = 7001;
    GuestOptions const guest{.qemu = "10.0"};
    Scene scene({.guest = guest, .furnish = separate_with_network});
    Watch watch(scene.net(), scene.guest());
    auto const there =
        scene.migrate(scene.a(), {"--local-address", local_ip4, "--local-address", local_ip6});
    INFO("there: " << there.text());
    REQUIRE(there.exit_status == 0);
    auto const& client = scene.net().client_netns();
    std::vector<core::Fd> direct;
    for (auto const* address : {local_ip4, local_ip6}) {
        direct.push_back(connect_in(client, address, echo_port));
        INFO(address);
        REQUIRE(direct.back());
        CHECK(echoed(direct.back(), "direct") == "direct");
    }
    auto const far = expect::anchors(scene, scene.b());
    INFO("far: " << far.dump());
    REQUIRE(far.size() == 1);
    CHECK(far.elements()[0]["local"]["direct_sessions"].integer_or(0) == 2);
    // Those of the watch, which are older than the move.
    CHECK(far.elements()[0]["local"]["home_sessions"].integer_or(0) > 0);
    auto const status = scene.sidecar(scene.b(), {"status", scene.guest().name()});
    INFO(status.out);
    CHECK(status.out.find(local_ip4) != std::string::npos);
    CHECK(status.out.find("2 direct") != std::string::npos);

    auto const back = scene.migrate(scene.b());
    INFO("back: " << back.text());
    REQUIRE(back.exit_status == 0);
    CHECK(back.report["network"]["conntrack"]["failed"].size() == 0);  // none of the direct ones
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
    expect::no_anchor_left(scene, scene.a());
    expect::no_anchor_left(scene, scene.b());
    CHECK(must_run({"nft", "list", "ruleset"}, {scene.b().netns, {}}).empty());
    CHECK_FALSE(connect_in(client, local_ip4, echo_port));
    expect::guest_whole(scene, scene.a());
}
