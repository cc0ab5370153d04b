// Frames for the guest while it moves: a client's numbered probes, 1,000 a second in each family,
// and its TCP sessions. None is lost, doubled or overtaken, there and back, and when the migration
// is undone at any moment behind STOP.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void none_is_lost(core::Json const& seen) {
    INFO(seen.dump());
    for (auto const* family : {"ipv4", "ipv6"}) {
        auto const one = seen[family];
        CHECK(one["udp_sent"].integer_or(0) > 1000);
        CHECK(one["udp_lost"].integer_or(-1) == 0);
        CHECK(one["udp_duplicated"].integer_or(-1) == 0);
        CHECK(one["udp_reordered"].integer_or(-1) == 0);
    }
}

void there_and_back(std::string const& qemu) {
    GuestOptions const guest{.qemu = qemu};
    Scene scene({.guest = guest});
    Watch watch(scene.net(), scene.guest());
    for (auto const* from : {&scene.a(), &scene.b(), &scene.a()}) {
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        auto const frames = moved.report["network"]["frames"];
        INFO(frames.dump());
        CHECK(frames["caught"].integer_or(0) + frames["waited"].integer_or(0) > 0);
        CHECK(frames["replayed"].integer_or(-1) == frames["caught"].integer_or(-2));
        CHECK(frames["dropped"].integer_or(-1) == 0);
        CHECK(frames["lost"].integer_or(-1) == 0);
    }
    auto const seen = watch.finish();
    none_is_lost(seen);
    must_have_kept_sessions(seen, guest);
}

}  // namespace

TEST_CASE("hand-over: no packet is lost, QEMU 7.2", "[vm][handover]") { there_and_back("7.2"); }
TEST_CASE("hand-over: no packet is lost, QEMU 10.0", "[vm][handover]") { there_and_back("10.0"); }
