// Frames for the guest while it moves: a client's numbered probes, 1,000 a second in each family,
// and its TCP sessions. None is lost, duplicated or reordered, there and back, and when the
// migration is undone at any moment after STOP.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void there_and_back(std::string const& qemu) {
    GuestOptions const guest{.qemu = qemu};
    Scene scene({.guest = guest});
    Watch watch(scene.net(), scene.guest());
    std::string told;
    for (auto const* from : {&scene.a(), &scene.b(), &scene.a()}) {
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        told += moved.text();
        REQUIRE(moved.exit_status == 0);
        expect::frames_handed_over(moved);
    }
    auto const seen = watch.finish();
    INFO(told);
    expect::no_packet_lost(seen, true);
    must_have_kept_sessions(seen, guest);
}

/// How many queues of its tap the guest uses, as reported by the kernel of its host: QEMU disables
/// the queues that the guest's driver does not use.
void uses_queues(Scene const& scene, Host const& on, int wanted) {
    auto const said =
        must_run({"ip", "-n", on.netns, "-details", "link", "show", scene.guest().tap()});
    INFO(said);
    CHECK(said.find(fmt::format("numqueues {} ", wanted)) != std::string::npos);
    CHECK(said.find("numdisabled 0 ") != std::string::npos);
}

/// Each queue of a tap has its own ring. QEMU supports no record of the frames that it reads from
/// such a tap. So frames read while it stops the guest are lost with it: per queue at most one that
/// it drops and one that it keeps.
/// There is no order between queues. The kernel puts a session's frames into the queue by which its
/// answers leave. That queue may change while earlier frames still wait in another.
/// Two emulated processors answer more slowly than one on a busy machine: with fewer probes their
/// rings hold the waiting frames.
void many_queues_there_and_back(std::string const& qemu) {
    constexpr int queues = 2;
    constexpr int moves = 2;
    constexpr int lost_max = 2 * queues * moves;
    constexpr int udp_hz = 200;
    GuestOptions const guest{.qemu = qemu, .queues = queues};
    Scene scene({.guest = guest});
    uses_queues(scene, scene.a(), queues);
    Watch watch(scene.net(), scene.guest(), udp_hz);
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        expect::frames_handed_over(moved);
        uses_queues(scene, scene.net().other(*from), queues);
    }
    auto const seen = watch.finish();
    INFO(seen.dump());
    std::int64_t lost = 0;
    for (auto const* family : {"ipv4", "ipv6"}) {
        CHECK(seen[family]["udp_sent"].integer_or(0) > udp_hz * moves);  // they take seconds each
        CHECK(seen[family]["udp_duplicated"].integer_or(-1) == 0);
        lost += seen[family]["udp_lost"].integer_or(lost_max + 1);
    }
    CHECK(lost <= lost_max);
    must_have_kept_sessions(seen, guest);
    expect::guest_whole(scene, scene.a());
}

/// QEMU's migration is cancelled by hand while the source's sidecar is stopped before `action`,
/// after the guest has stopped and the network has been fired.
void rolled_back_at(std::string const& qemu, std::string const& action) {
    GuestOptions const guest{.qemu = qemu};
    Scene scene({.guest = guest, .run_environment = {"SIDECAR_TEST_STOP_AT=" + action}});
    Watch watch(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a());
    auto const held = scene.wait_stopped(scene.a());
    Qmp(scene.guest().probe_socket(scene.a())).execute("migrate_cancel");
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["network"]["frames"]["dropped"].integer_or(-1) == 0);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
}

/// The destination's QEMU dies after it has received all of the guest's RAM, and before its disks
/// are sealed. Only `seal` will report it to the source's sidecar, and the guest's frames wait at
/// the destination.
void destination_lost_before_seal(std::string const& qemu) {
    GuestOptions const guest{.qemu = qemu};
    Scene scene({.guest = guest, .run_environment = {"SIDECAR_TEST_STOP_AT=seal_destination"}});
    Watch watch(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a());
    auto const held = scene.wait_stopped(scene.a());
    wait_until("the end of RAM's migration", Qmp::reply_limit, [&] {
        Qmp source(scene.guest().probe_socket(scene.a()));
        return source.execute("query-migrate")["status"].text_or("") == "completed";
    });
    kill_process(scene.guest().qemu_pid(scene.b()));
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["network"]["frames"]["returned"].integer_or(0) > 0);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    auto const seen = watch.finish();
    expect::no_packet_lost(seen, false);
    must_have_kept_sessions(seen, guest);
}

}  // namespace

TEST_CASE("hand-over: no packet is lost, QEMU 7.2", "[vm][handover]") { there_and_back("7.2"); }
TEST_CASE("hand-over: no packet is lost, QEMU 10.0", "[vm][handover]") { there_and_back("10.0"); }
TEST_CASE("hand-over: a tap of two queues, QEMU 7.2", "[vm][handover]") {
    many_queues_there_and_back("7.2");
}
TEST_CASE("hand-over: a tap of two queues, QEMU 10.0", "[vm][handover]") {
    many_queues_there_and_back("10.0");
}
TEST_CASE("hand-over: rolled back at `stopped`, no packet is lost", "[vm][handover]") {
    rolled_back_at("7.2", "list_final");
}
TEST_CASE("hand-over: rolled back at `switching`, no packet is lost", "[vm][handover]") {
    rolled_back_at("10.0", "copy_final");
}
TEST_CASE("hand-over: the destination's QEMU dies before `seal`, no packet is lost",
          "[vm][handover]") {
    destination_lost_before_seal("10.0");
}
