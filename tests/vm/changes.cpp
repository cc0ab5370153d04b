// Guests that change during the copy: the copy follows the change, or the guest stays and an error
// gives the reason. No byte is lost silently.
#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;

namespace {

using core::Json;

/// Slow enough for a test to act while the disks are copied.
Argv const slowly{"--bandwidth", "4M"};
constexpr double in_the_middle = 0.2;

/// A guest whose disks are being copied slowly.
struct Copying {
    explicit Copying(GuestOptions const& guest)
        : scene({.guest = guest}), migration(scene.start_migration(scene.a(), slowly)) {
        scene.wait_copied(scene.a(), in_the_middle);
    }
    /// The monitor takes one client at a time.
    [[nodiscard]] Qmp qemu() const { return Qmp(scene.guest().probe_socket(scene.a())); }
    void at_full_speed() {
        CHECK(scene.sidecar(scene.a(), {"set", scene.guest().name(), "bandwidth=0"}).exit_status ==
              0);
    }
    /// The migration fails with `why`, and the guest stays on the source.
    void must_stay(std::string const& why) {
        auto const ended = Scene::finish(migration);
        INFO(ended.text());
        CHECK(ended.exit_status == 1);
        CHECK(ended.report["error"].text_or("").find(why) != std::string::npos);
        CHECK(scene.guest().qemu_pid(scene.a()) > 0);
    }
    /// The migration is refused with `why`, and nothing is touched.
    void must_be_refused(std::string const& why) {
        auto const ended = scene.migrate(scene.a());
        INFO(ended.text());
        CHECK(ended.exit_status == 3);
        CHECK(ended.text().find(why) != std::string::npos);
    }
    Scene scene;
    Daemon migration;
};

/// Tombstones may stay, so the overlay of the snapshot is named like one.
Json snapshot(Scene const& scene) {
    return Json::object({{"device", "d0"},
                         {"snapshot-file", (scene.a().images / "snapshot.moved-by-hand").string()},
                         {"format", "qcow2"}});
}

void commit_snapshot(Qmp qemu) {
    qemu.forget_events();
    qemu.execute("block-commit", Json::object({{"job-id", "c0"}, {"device", "d0"}}));
    qemu.wait_event("BLOCK_JOB_READY");
    qemu.execute("block-job-complete", Json::object({{"device", "c0"}}));
    qemu.wait_event("BLOCK_JOB_COMPLETED");
}

std::uint64_t allocated(fs::path const& image) {
    struct stat file{};
    REQUIRE(stat(image.c_str(), &file) == 0);
    return static_cast<std::uint64_t>(file.st_blocks) * 512;
}

}  // namespace

TEST_CASE("changes: a snapshot taken while the disks are copied", "[vm][changes]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    INFO("QEMU " << version);
    Copying copying({.qemu = version});
    copying.qemu().execute("blockdev-snapshot-sync", snapshot(copying.scene));
    copying.must_stay("a snapshot was taken");
    copying.scene.guest().must_be_whole();
    copying.must_be_refused("commit it first");
    commit_snapshot(copying.qemu());
    expect::moves(copying.scene, copying.scene.a());
}

TEST_CASE("changes: a snapshot taken while the guest is stopped", "[vm][changes]") {
    Held held("list_final");
    auto const socket = held.scene.guest().probe_socket(held.scene.a());
    Qmp(socket).execute("blockdev-snapshot-sync", snapshot(held.scene));
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["error"].text_or("").find("a snapshot was taken") != std::string::npos);
    expect::guest_whole(held.scene, held.scene.a());
    commit_snapshot(Qmp(socket));
    expect::moves(held.scene, held.scene.a());
}

TEST_CASE("changes: a device plugged in while the disks are copied", "[vm][changes]") {
    auto const version = GENERATE(from_range(qemus("7.2")));
    INFO("QEMU " << version);
    Copying copying({.qemu = version, .hot_slot = true});
    {
        auto qemu = copying.qemu();
        qemu.execute("object-add", Json::object({{"qom-type", "rng-builtin"}, {"id", "random0"}}));
        qemu.execute("device_add", Json::object({{"driver", "virtio-rng-pci"},
                                                 {"id", "plugged0"},
                                                 {"bus", "rp0"},
                                                 {"rng", "random0"}}));
    }
    copying.must_stay("the device plugged0 was plugged in");
    expect::nothing_left_after_failure(copying.scene, copying.scene.a());
    expect::moves(copying.scene, copying.scene.a());  // with it
    auto qemu = Qmp(copying.scene.guest().probe_socket(copying.scene.b()));
    qemu.execute("device_del", Json::object({{"id", "plugged0"}}));
    qemu.wait_event_if("plugged0 to be gone", [](Qmp::Event const& event) {
        return event.name == "DEVICE_DELETED" && event.data["device"].text_or("") == "plugged0";
    });
    expect::moves(copying.scene, copying.scene.b());  // without it
}

TEST_CASE("changes: the guest is stopped by an operator while the disks are copied",
          "[vm][changes]") {
    Copying copying({});
    copying.qemu().execute("stop");
    copying.must_stay("the guest was stopped");
    CHECK(copying.qemu().status() == "paused");
    expect::nothing_left_after_failure(copying.scene, copying.scene.a());
    copying.qemu().execute("cont");
    expect::moves(copying.scene, copying.scene.a());
}

TEST_CASE("changes: the guest is stopped by an operator while its RAM travels", "[vm][changes]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    INFO("QEMU " << version);
    Copying copying({.qemu = version});
    wait_until("RAM to travel", Scene::migration_limit, [&] {
        return copying.scene.migration_on(copying.scene.a())["ram_transferred_bytes"].integer_or(
                   0) > 0;
    });
    copying.qemu().execute("stop");
    copying.must_stay("the guest was stopped from outside");
    CHECK(copying.qemu().status() == "paused");
    expect::nothing_left_after_failure(copying.scene, copying.scene.a());
    copying.qemu().execute("cont");
    expect::moves(copying.scene, copying.scene.a());
}

TEST_CASE("changes: a resize is refused by QEMU, and the migration continues", "[vm][changes]") {
    auto const version = GENERATE(from_range(qemus("7.2")));
    INFO("QEMU " << version);
    Copying copying({.qemu = version});
    auto const bytes =
        static_cast<std::int64_t>((copying.scene.guest().options().disk_mib + 64) << 20);
    auto const refusal =
        copying.qemu().refusal("block_resize", Json::object({{"device", "d0"}, {"size", bytes}}));
    CHECK(refusal != "");
    copying.at_full_speed();
    auto const ended = Scene::finish(copying.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 0);
    expect::guest_whole(copying.scene, copying.scene.b());
}

TEST_CASE("changes: the guest reboots while the disks are copied", "[vm][changes]") {
    Copying copying({});
    {
        auto qemu = copying.qemu();
        qemu.execute("set-action", Json::object({{"reboot", "reset"}}));  // overrides -no-reboot
        qemu.execute("system_reset");
    }
    copying.at_full_speed();
    auto const ended = Scene::finish(copying.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 0);
    copying.scene.guest().wait_alive();
    copying.scene.guest().learn();
    expect::guest_whole(copying.scene, copying.scene.b());
}

TEST_CASE("changes: a storm of discards while the disks are copied, thin stays thin",
          "[vm][changes]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    auto const format = GENERATE(as<std::string>(), "raw", "qcow2");
    INFO("QEMU " << version << ", " << format);
    // The guest writes to the first 16 MiB. The next 24 MiB, random bytes, are discarded.
    Copying copying({.qemu = version, .format = format, .discard = true, .random_mib = 40});
    auto const& guest = copying.scene.guest();
    auto const before = allocated(guest.image(copying.scene.a(), 0));
    int storms = 0;
    for (std::int64_t at = 16; at < 40; at += 2) {
        auto const change = [&](char const* command, std::int64_t length) {
            auto const answer = guest.ask(Json::object({{"cmd", command},
                                                        {"disk", "vda"},
                                                        {"offset", at * mib},
                                                        {"length", length * mib},
                                                        {"seed", at}}));
            INFO(answer.dump());
            CHECK(answer["ok"].boolean_or(false));
        };
        change("discard", 2);
        if (at % 4 == 0) change("fill", 1);  // written again, and half of them discarded again
        if (at % 8 == 0) change("discard", 1);
        if (copying.scene.migration_on(copying.scene.a())["phase"].text_or("") == "copying")
            ++storms;
    }
    CHECK(storms > 0);
    copying.at_full_speed();
    auto const ended = Scene::finish(copying.migration);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::guest_whole(copying.scene, copying.scene.b());
    CHECK(allocated(guest.image(copying.scene.b(), 0)) < before);
    auto tombstone = fs::path();
    for (auto const& entry : fs::directory_iterator(copying.scene.a().images))
        tombstone = entry.path();
    // The guest's later writes may be new there; 1 % and one cluster are allowed.
    CHECK(allocated(guest.image(copying.scene.b(), 0)) <=
          allocated(tombstone) * 101 / 100 + 64 * 1024);
}
