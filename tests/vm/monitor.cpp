// The connection to QEMU's monitor is cut, hangs, or carries garbage, in every phase. The sidecar
// reconnects and learns what it missed; the migration continues or is undone within its limits. A
// relay of the test's own stands between the sidecar and QEMU.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/support/qmp_relay.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// Bytes a second: after several seconds a part of the disk and the RAM is still to be copied.
constexpr char const* slow = "8M";
/// Limits of the program: it gives up on a silent QEMU, and the destination is aborted.
constexpr Milliseconds silence_limit = 60s;

/// A guest whose sidecar is connected to QEMU through a relay.
struct Relayed {
    explicit Relayed(std::string const& qemu, std::string const& stop_at = "",
                     GuestOptions guest = {.ram_rate = 20})
        : scene({.guest = with(std::move(guest), qemu)}) {
        scene.first_sidecar().kill();
        relay.emplace(scene.a().run_dir / scene.guest().name() / "qmp.sock");
        std::vector<std::string> environment;
        if (!stop_at.empty()) environment.push_back("SIDECAR_TEST_STOP_AT=" + stop_at);
        scene.attach_guest(scene.a(), {}, environment);
    }
    static GuestOptions with(GuestOptions guest, std::string const& qemu) {
        guest.qemu = qemu;
        return guest;
    }
    void wait_phase(std::string const& phase) {
        wait_until("phase " + phase, Scene::migration_limit,
                   [&] { return scene.migration_on(scene.a())["phase"].text_or("") == phase; });
    }
    Scene scene;
    std::optional<QmpRelay> relay;
};

/// In every outcome the guest is whole on the host that the command names.
void ended_well(Relayed& relayed, Daemon& migration) {
    auto& scene = relayed.scene;
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    REQUIRE((ended.exit_status == 0 || ended.exit_status == 1));
    expect::guest_whole(scene, ended.exit_status == 0 ? scene.b() : scene.a());
    if (ended.exit_status == 0) return;
    CHECK(ended.report["guest_is_on"].text_or("") == "source");
    expect::nothing_left_after_failure(scene, scene.a());
    expect::moves(scene, scene.a());
}

/// The connection is cut just before the source does `action`.
void cut_before(std::string const& qemu, std::string const& action) {
    INFO(action << ", QEMU " << qemu);
    Relayed relayed(qemu, action);
    auto migration = relayed.scene.start_migration(relayed.scene.a());
    auto const sidecar = relayed.scene.wait_stopped(relayed.scene.a());
    relayed.relay->cut();
    signal_process(sidecar, SIGCONT);
    ended_well(relayed, migration);
    CHECK(relayed.relay->connections() >= 2);
}

}  // namespace

TEST_CASE("monitor: the guest stops while a recording of its frames begins", "[vm][monitor]") {
    Relayed relayed("7.2");
    auto& scene = relayed.scene;
    relayed.relay->stop_guest_during("filter-dump");
    auto migration = scene.start_migration(scene.a(), {"--downtime-limit", "10000"});
    // The exports are gone, so the source has seen STOP. It needs QEMU's answers to go further.
    wait_until("the destination to be sealed", Scene::migration_limit, [&] {
        return scene.migration_on(scene.b())["phase"].text_or("") == "incoming sealed";
    });
    relayed.relay->pass_answers();
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    expect::guest_whole(scene, scene.b());
}

TEST_CASE("monitor: cut while the disks are copied, and the copy continues", "[vm][monitor]") {
    Relayed relayed("7.2", "", {.random_mib = 64});
    auto& scene = relayed.scene;
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", "16M"});
    scene.wait_copied(scene.a(), 0.3);
    relayed.relay->cut();
    wait_until("a new connection", 10s, [&] { return relayed.relay->connections() >= 2; });
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::guest_whole(scene, scene.b());
}

TEST_CASE("monitor: cut while RAM converges", "[vm][monitor]") {
    for (auto const* qemu : {"7.2", "10.0"}) {
        INFO("QEMU " << qemu);
        Relayed relayed(qemu);
        auto& scene = relayed.scene;
        auto migration = scene.start_migration(scene.a(), {"--bandwidth", slow});
        relayed.wait_phase("converging");
        relayed.relay->cut();
        ended_well(relayed, migration);
        CHECK(relayed.relay->connections() >= 2);
    }
}

TEST_CASE("monitor: garbage while RAM converges", "[vm][monitor]") {
    Relayed relayed("10.0");
    auto migration = relayed.scene.start_migration(relayed.scene.a(), {"--bandwidth", slow});
    relayed.wait_phase("converging");
    relayed.relay->garbage();
    ended_well(relayed, migration);
}

TEST_CASE("monitor: cut while the disks are prepared", "[vm][monitor]") {
    cut_before("7.2", "prepare_storage");
}
TEST_CASE("monitor: cut while the guest is stopped", "[vm][monitor]") {
    cut_before("7.2", "list_final");
    cut_before("10.0", "list_final");
}
TEST_CASE("monitor: cut while QEMU switches over", "[vm][monitor]") {
    cut_before("7.2", "copy_final");
    cut_before("10.0", "seal_destination");
}
TEST_CASE("monitor: cut once the destination owns the guest", "[vm][monitor]") {
    cut_before("7.2", "quit_source");
}
TEST_CASE("monitor: cut while the migration is undone", "[vm][monitor]") {
    Relayed relayed("7.2", "cancel_migration");
    auto& scene = relayed.scene;
    auto migration = scene.start_migration(scene.a(), {"--bandwidth", slow});
    relayed.wait_phase("converging");
    CHECK(scene.sidecar(scene.a(), {"cancel", scene.guest().name()}).exit_status == 0);
    auto const sidecar = scene.wait_stopped(scene.a());
    relayed.relay->cut();
    signal_process(sidecar, SIGCONT);
    // The cancelling is repeated over the new connection, and its hook stops the sidecar again.
    auto const ended = scene.finish_past_hooks(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 5);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("monitor: silent while RAM converges: given up within a limit, resumed when it answers",
          "[vm][monitor][waits]") {
    for (auto const& qemu : qemus("10.0")) {
        INFO("QEMU " << qemu);
        Relayed relayed(qemu);
        auto& scene = relayed.scene;
        auto migration = scene.start_migration(scene.a(), {"--bandwidth", slow});
        relayed.wait_phase("converging");
        relayed.relay->silence(true);
        auto const status = migration.wait(silence_limit);
        REQUIRE(status);
        auto const ended = Scene::finish(migration);
        INFO(ended.text());
        CHECK(ended.exit_status == 1);
        CHECK(ended.report["error"].text_or("").find("does not answer its monitor") !=
              std::string::npos);
        CHECK(ended.report["guest_is_on"].text_or("") == "silent_source");
        CHECK(scene.guest().qemu_pid(scene.b()) == -1);  // so that it can never run there
        relayed.relay->silence(false);
        wait_until("the rollback", silence_limit,
                   [&] { return scene.migration_on(scene.a()).is_null(); });
        expect::guest_whole(scene, scene.a());
        expect::nothing_left_after_failure(scene, scene.a());
        expect::moves(scene, scene.a());
    }
}
