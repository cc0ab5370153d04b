// A guest moves to a host of another subnet, behind a router, and back. Its place on its home
// network is an anchor meanwhile: no packet of a client there is lost, in either family.
#include <catch2/catch.hpp>

#include "tests/support/subnets.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

core::Json anchors(Scene& scene, Host const& host) {
    auto const told = scene.sidecar(host, {"anchor", "list", "--json"});
    INFO(told.err);
    REQUIRE(told.exit_status == 0);
    return parse_json(told.out);
}

/// The names of the host's interfaces that begin so.
std::string links(Host const& host, std::string const& begin) {
    std::string found;
    auto const all = must_run({"ip", "-n", host.netns, "-o", "link", "show"});
    for (auto at = all.find(": " + begin); at != std::string::npos;
         at = all.find(": " + begin, at + 1)) {
        found += all.substr(at + 2, all.find(':', at + 2) - at - 2) + " ";
    }
    return found;
}

void must_be_nothing_left(Scene& scene, Host const& host) {
    INFO("host " << host.name);
    CHECK(anchors(scene, host).size() == 0);
    CHECK(links(host, "sca").empty());
    CHECK(links(host, "sat").empty());
    auto const records = host.state_dir / ".anchors";
    CHECK((!fs::exists(records) || fs::is_empty(records)));
    for (auto const& process : processes_in(host.netns)) {
        bool const holder = process.argv.size() > 1 && process.argv[1] == "anchor-holder";
        CHECK_FALSE(holder);
    }
}

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
    auto const home = anchors(scene, scene.a());
    auto const far = anchors(scene, scene.b());
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
    must_be_nothing_left(scene, scene.a());
    must_be_nothing_left(scene, scene.b());
    expect::guest_whole(scene, scene.a());
}
