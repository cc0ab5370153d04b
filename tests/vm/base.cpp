// `migrate --base`: a guest whose disk is an overlay moves there and back. Both hosts have the
// base, so it is not copied. If the destination's base differs, nothing is touched.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "core/fd.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// A disk of 320 MiB with 256 MiB in the base. The guest writes to the first 8 MiB.
GuestOptions over_base(std::string const& qemu, std::string const& base, bool layers) {
    return {.qemu = qemu,
            .format = "qcow2",
            .blockdev = layers,
            .base = base,
            .middle = layers,
            .disk_mib = 320,
            .random_mib = 256,
            .span_mib = 8};
}

void copy_base(Scene const& scene) {
    fs::copy_file(scene.guest().base(scene.a(), 0), scene.guest().base(scene.b(), 0));
}

void moves_without_base(Scene& scene, Host const& from, Argv const& more = {}) {
    Host const& to = scene.net().other(from);
    auto const base = scene.guest().base(from, 0);
    Argv arguments{"--base", base};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto running = scene.start_migration(from, arguments);
    auto const held = scene.wait_stopped(to);
    compare_images(image_left(scene.guest().image(from, 0)), "qcow2", scene.guest().image(to, 0));
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(running);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::report_of_a_move(ended.report, scene.guest().options());
    auto const disk = ended.report["disks"].elements().at(0);
    auto const told = disk["bases"].elements();
    REQUIRE(told.size() == 1);
    CHECK(told[0]["path"].text_or("") == base.string());
    auto const sum = must_run({"sha256sum", base});
    CHECK(told[0]["sha256"].text_or("") == sum.substr(0, sum.find(' ')));
    // The data of the guest and of the middle layer, in whole clusters, and again in the rounds.
    CHECK(disk["base_bytes"].integer_or(0) > 240 * mib);
    CHECK(disk["copied_bytes"].integer_or(1 << 30) < 32 * mib);
    auto const info = parse_json(
        must_run({"qemu-img", "info", "-U", "--output=json", scene.guest().image(to, 0)}));
    CHECK(info["backing-filename"].text_or("") == base.filename().string());
    CHECK(info["backing-filename-format"].text_or("") == scene.guest().options().base);
    expect::guest_whole(scene, to);
    expect::nothing_left_after_move(scene, from, to);
}

void there_and_back(GuestOptions const& guest, Argv const& more = {}) {
    Scene scene({.guest = guest, .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    copy_base(scene);
    moves_without_base(scene, scene.a(), more);
    moves_without_base(scene, scene.b());
}

}  // namespace

TEST_CASE("base: QEMU 7.2, a qcow2 base, there and back", "[vm][base]") {
    there_and_back(over_base("7.2", "qcow2", false));
}

TEST_CASE("base: QEMU 10.0, a raw base under two layers that -blockdev names, verified",
          "[vm][base]") {
    there_and_back(over_base("10.0", "raw", true), {"--verify"});
}

TEST_CASE("base: one that is missing, is different, or is not a base, is refused", "[vm][base]") {
    Scene scene({.guest = over_base("7.2", "raw", true)});
    auto const refused = [&](fs::path const& base, std::string const& why) {
        auto const ended = scene.migrate(scene.a(), {"--base", base});
        INFO(ended.text());
        CHECK(ended.exit_status == 3);
        CHECK(ended.report["error"].text_or("").find(why) != std::string::npos);
        CHECK_FALSE(fs::exists(scene.guest().image(scene.b(), 0)));
        expect::nothing_left_after_failure(scene, scene.a());
    };
    auto const base = scene.guest().base(scene.a(), 0);
    auto const middle = scene.guest().middle(scene.a(), 0);
    refused(base, "is missing on the destination");
    copy_base(scene);
    refused(scene.guest().image(scene.a(), 0), "so it is not a base");
    refused(scene.a().images / "none", "is not in a backing chain");
    refused(middle, "has the backing file");
    constexpr off_t changed = off_t{200} * mib + 4711;
    core::Fd const file(open(scene.guest().base(scene.b(), 0).c_str(), O_RDWR | O_CLOEXEC));
    char byte = 0;
    auto const flip = [&] {
        REQUIRE(pread(file.get(), &byte, 1, changed) == 1);
        byte = static_cast<char>(byte ^ 1);
        REQUIRE(pwrite(file.get(), &byte, 1, changed) == 1);
    };
    flip();
    refused(base, fmt::format("differs at byte {} ", changed / 4096 * 4096));
    flip();
    // The base by another name, and the layer above it as a second base.
    fs::copy_file(middle, scene.guest().middle(scene.b(), 0));
    auto const link = scene.a().directory / "link";
    fs::create_symlink(base, link);
    Argv const both{"--base", link, "--base", middle};
    auto checked = both;
    checked.emplace_back("--check");
    auto checking = scene.start_migration(scene.a(), checked);
    CHECK(Scene::finish(checking).exit_status == 0);
    INFO(checking.out());
    CHECK(checking.out().find("the same file at the destination") != std::string::npos);
    auto const moved = scene.migrate(scene.a(), both);
    fs::remove(link);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    auto const disk = moved.report["disks"].elements().at(0);
    CHECK(disk["bases"].size() == 2);
    CHECK(disk["base_bytes"].integer_or(0) > 240 * mib);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("base: a block job while it is copied ends the migration, and the guest stays",
          "[vm][base]") {
    Scene scene({.guest = over_base("10.0", "qcow2", true)});
    copy_base(scene);
    auto migration = scene.start_migration(
        scene.a(), {"--base", scene.guest().base(scene.a(), 0), "--bandwidth", "1M"});
    scene.wait_copied(scene.a(), 0.001);
    {
        Qmp qemu(scene.guest().probe_socket(scene.a()));
        qemu.execute(
            "block-stream",
            core::Json::object(
                {{"job-id", "s0"}, {"device", "d0"}, {"base-node", "base0"}, {"speed", 1}}));
        qemu.execute("block-job-cancel", core::Json::object({{"device", "s0"}}));
    }
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["error"].text_or("").find("the block job s0 ran") != std::string::npos);
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

TEST_CASE("base: the source's sidecar is killed while it copies, and another continues",
          "[vm][base]") {
    // There is little above the base, so it is copied slowly, and the guest writes little.
    auto guest = over_base("10.0", "qcow2", true);
    guest.rate = 20;
    Scene scene({.guest = guest, .serve_environment = {"SIDECAR_TEST_STOP_AT=start_guest"}});
    copy_base(scene);
    auto migration = scene.start_migration(
        scene.a(), {"--base", scene.guest().base(scene.a(), 0), "--bandwidth", "1M"});
    wait_until("the overlay to be copied in part", Scene::migration_limit, [&] {
        auto const path = scene.a().directory / "run" / guest.name / "copying.json";
        if (!fs::exists(path)) return false;
        auto const record = core::Json::parse(read_file(path));
        return record && (*record)["disks"].elements().at(0)["copied_bytes"].integer_or(0) > 0;
    });
    auto const sidecar = scene.guest_sidecar(scene.a());
    REQUIRE(sidecar);
    kill_process(sidecar->pid);
    CHECK(Scene::finish(migration).exit_status == 1);
    scene.attach_guest(scene.a());
    auto following = scene.follow_migration(scene.a());
    CHECK(scene.sidecar(scene.a(), {"set", guest.name, "bandwidth=0"}).exit_status == 0);
    auto const held = scene.wait_stopped(scene.b());
    compare_images(image_left(scene.guest().image(scene.a(), 0)), "qcow2",
                   scene.guest().image(scene.b(), 0));
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(following);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    auto const disk = ended.report["disks"].elements().at(0);
    CHECK(disk["resumed_at_bytes"].integer_or(0) > 0);
    CHECK(disk["copied_bytes"].integer_or(1 << 30) < 32 * mib);
    CHECK(disk["base_bytes"].integer_or(0) > 200 * mib);
    CHECK(disk["bases"].size() == 1);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}
