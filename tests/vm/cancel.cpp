// An operator cancels, or asks twice.
#include <signal.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// Slow enough that copying the guest below takes several seconds.
constexpr std::uint64_t slow_mbit = 100;
GuestOptions slow_guest() { return {.random_mib = 96}; }

/// Waits until the destination's first disk has received data: the copy is in progress.
void wait_copying(Scene& scene, Daemon& migration) {
    auto const image = scene.guest().image(scene.b(), 0);
    wait_until("copying", Scene::migration_limit, [&] {
        if (auto const ended = migration.wait(0ms)) {
            throw Failure(fmt::format("migrate ended with {}: {}", *ended, migration.err()));
        }
        auto const info = run({"qemu-img", "info", "-U", "--output=json", image.string()});
        if (info.exit_status != 0) return false;
        return parse_json(info.out)["actual-size"].integer_or(0) > 4 << 20;
    });
}

}  // namespace

TEST_CASE("cancel: while copying, the guest stays, nothing is left, it can be moved again",
          "[vm][cancel]") {
    Scene scene({.guest = slow_guest(), .link_mbit = slow_mbit});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a());
    wait_copying(scene, migration);
    auto const cancelled = scene.sidecar(scene.a(), {"cancel", scene.guest().name()});
    INFO(cancelled.err);
    CHECK(cancelled.exit_status == 0);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 5);
    CHECK(ended.report["outcome"].text_or("") == "cancelled");
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
    scene.net().shape(0);
    expect::moves(scene, scene.a());
    must_have_kept_sessions(watch.finish(), scene.guest().options());
}

TEST_CASE("cancel: by an interrupt of `migrate` itself", "[vm][cancel]") {
    Scene scene({.guest = slow_guest(), .link_mbit = slow_mbit});
    auto migration = scene.start_migration(scene.a());
    wait_copying(scene, migration);
    migration.signal(SIGINT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 5);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

TEST_CASE("cancel: a second migration of the same guest is refused and disturbs nothing",
          "[vm][cancel]") {
    Scene scene({.guest = slow_guest(), .link_mbit = slow_mbit});
    auto first = scene.start_migration(scene.a());
    wait_copying(scene, first);
    auto const second = scene.migrate(scene.a());
    INFO(second.text());
    CHECK(second.exit_status == 3);
    CHECK(second.err.find("error: ") == 0);
    scene.net().shape(0);
    auto const ended = Scene::finish(first);
    INFO(ended.text());
    CHECK(ended.exit_status == 0);
    expect::guest_whole(scene, scene.b());
}
