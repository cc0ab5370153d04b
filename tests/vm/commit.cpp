// Faults around COMMIT: a stale disk cannot be started; if COMMIT cannot be recorded, the guest
// stays on the source; a failure after the answer ends with "moved" and a warning.
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;

namespace {

/// Files next to the image with `mark` in their names.
std::vector<fs::path> beside(fs::path const& image, std::string const& mark) {
    std::vector<fs::path> found;
    for (auto const& entry : fs::directory_iterator(image.parent_path())) {
        if (entry.path().string().starts_with(image.string() + mark)) found.push_back(entry.path());
    }
    return found;
}

/// `sidecar run NAME -- QEMU ...` with `from` replaced by `to` in its command line.
Output start(Scene const& scene, std::string const& name, std::string const& from = {},
             std::string const& to = {}) {
    Argv argv{program("sidecar"), "run", name, "--"};
    for (auto word : scene.guest().command_line(scene.a())) {
        if (auto const at = word.find(from); !from.empty() && at != std::string::npos)
            word.replace(at, from.size(), to);
        argv.push_back(word);
    }
    return run(argv, scene.a().place());
}

/// The source's sidecar has one fault around COMMIT while `trigger` exists.
struct Faulty {
    explicit Faulty(std::string const& fault)
        : trigger(fs::temp_directory_path() / fmt::format("commit-fault-{}-{}", fault, getpid())),
          scene(
              {.run_environment = {
                   "LD_PRELOAD=" + (program("sidecar").parent_path() / "commit-fault.so").string(),
                   "COMMIT_FAULT=" + fault, "COMMIT_FAULT_FILE=" + trigger.string()}}) {
        write_file(trigger, "");
    }
    ~Faulty() { fs::remove(trigger); }
    fs::path trigger;
    Scene scene;
};

/// Continues sidecars that stop at a hook, each time they do.
void release(Scene const& scene) {
    for (Host const* host : {&scene.a(), &scene.b()}) {
        auto const seen = scene.guest_sidecar(*host);
        if (seen && seen->state == 'T') signal_process(seen->pid, SIGCONT);
    }
}

void expect_kept(Scene& scene, Migration const& ended) {
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK(ended.report["outcome"].text_or("") == "failed");
    CHECK(ended.report["guest_is_on"].text_or("") == "source");
    CHECK(ended.report["error"].text_or("").find("journal") != std::string::npos);
    CHECK(fs::exists(scene.guest().image(scene.a(), 0)));
    CHECK(beside(scene.guest().image(scene.a(), 0), ".leaving-").empty());
    expect::guest_whole(scene, scene.a());
    expect::nothing_left_after_failure(scene, scene.a());
}

}  // namespace

TEST_CASE("commit: a stale disk has no name before COMMIT is sent, and is not started",
          "[vm][commit]") {
    Scene scene({.serve_environment = {"SIDECAR_TEST_STOP_AT=reply_ack"}});
    auto const image = scene.guest().image(scene.a(), 0);
    auto migration = scene.start_migration(scene.a());
    (void)scene.wait_stopped(scene.b());
    CHECK(scene.guest().runs_on(scene.b()));
    // The guest runs on b. The answer is lost, because the source's sidecar and QEMU are killed.
    kill_process(scene.first_sidecar().pid());
    kill_process(scene.guest().qemu_pid(scene.a()));
    CHECK(migration.wait(Scene::migration_limit) == 4);

    CHECK_FALSE(fs::exists(image));
    auto const leaving = beside(image, ".leaving-");
    REQUIRE(leaving.size() == 1);
    auto const again = start(scene, "web1");
    INFO(again.err);
    CHECK(again.exit_status == 3);
    CHECK(again.err.find("in doubt") != std::string::npos);
    auto const renamed = start(scene, "other", image.string(), leaving.front().string());
    INFO(renamed.err);
    CHECK(renamed.exit_status == 3);
    CHECK(renamed.err.find(leaving.front().string()) != std::string::npos);
    CHECK(start(scene, "other").exit_status != 0);
    CHECK_FALSE(scene.guest().runs_on(scene.a()));

    scene.attach_guest(scene.a());
    wait_until("the stale image to be marked", 60s, [&] {
        release(scene);
        return beside(image, ".moved-").size() == 1;
    });
    wait_until("the source's sidecar to end", 60s, [&] {
        release(scene);
        return !scene.guest_sidecar(scene.a());
    });
    auto const moved = start(scene, "web1");
    INFO(moved.err);
    CHECK(moved.exit_status == 3);
    CHECK(moved.err.find("moved to") != std::string::npos);
    CHECK(moved.err.find("--new-guest") != std::string::npos);
    expect::guest_whole(scene, scene.b());
}

TEST_CASE("commit: images get their names back before the guest is resumed", "[vm][commit]") {
    Held held("send_commit");
    auto& scene = held.scene;
    auto const image = scene.guest().image(scene.a(), 0);
    CHECK_FALSE(fs::exists(image));
    CHECK(beside(image, ".leaving-").size() == 1);
    scene.kill_serve(scene.b());
    auto const destination = scene.guest_sidecar(scene.b());
    REQUIRE(destination);
    kill_process(destination->pid);
    kill_process(scene.guest().qemu_pid(scene.b()));
    auto const ended = scene.finish_past_hooks(held.migration);  // after the source's timeout
    CHECK(ended.exit_status == 4);
    CHECK_FALSE(fs::exists(image));
    CHECK(scene.sidecar(scene.a(), {"resolve", "web1", "--to", "source", "--i-have-fenced"})
              .exit_status == 0);
    wait_until("the guest on the source", 60s, [&] { return scene.guest().answers(); });
    CHECK(fs::exists(image));
    CHECK(beside(image, ".leaving-").empty());
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("commit: of a symbolic link the file is renamed, there and back", "[vm][commit]") {
    Scene scene({.start_guest = false});
    auto const image = scene.guest().image(scene.a(), 0);
    auto const file = image.parent_path() / "store";
    fs::rename(image, file);
    fs::create_symlink("store", image);
    scene.run_guest(scene.a());
    expect::moves(scene, scene.a());
    CHECK_FALSE(fs::exists(file));
    CHECK(beside(file, ".moved-").size() == 1);
    auto const stale =
        start(scene, "other", image.string(), beside(file, ".moved-").front().string());
    CHECK(stale.exit_status == 3);
    expect::moves(scene, scene.b());
    CHECK(fs::is_regular_file(image));
    CHECK(beside(file, "").empty());
}

TEST_CASE("commit: an image that cannot be renamed is refused by --check", "[vm][commit]") {
    Scene scene({});
    auto const image = scene.guest().image(scene.a(), 0);
    auto const refused = [&](std::string const& why) {
        for (Argv const& more : {Argv{"--check"}, Argv{}}) {
            auto const ended = scene.migrate(scene.a(), more);
            INFO(ended.text());
            CHECK(ended.exit_status == 3);
            CHECK(ended.text().find(image.string()) != std::string::npos);
            CHECK(ended.text().find(why) != std::string::npos);
        }
    };
    fs::create_hard_link(image, image.string() + ".other");
    refused("2 hard links");
    fs::remove(image.string() + ".other");
    REQUIRE(mount(image.c_str(), image.c_str(), nullptr, MS_BIND, nullptr) == 0);
    scene.first_sidecar().kill();
    scene.attach_guest(scene.a());  // a sidecar that sees the mount
    refused("mount point");
    CHECK(umount(image.c_str()) == 0);
    expect::guest_whole(scene, scene.a());
}

TEST_CASE("commit: a record that cannot be written keeps the guest on the source",
          "[vm][commit][fault]") {
    Faulty faulty("write");
    expect_kept(faulty.scene, faulty.scene.migrate(faulty.scene.a()));
    fs::remove(faulty.trigger);
    expect::moves(faulty.scene, faulty.scene.a());
}

TEST_CASE("commit: a record that cannot be synced, ever, keeps the guest on the source",
          "[vm][commit][fault]") {
    Faulty faulty("sync");
    auto const ended = faulty.scene.migrate(faulty.scene.a());
    expect_kept(faulty.scene, ended);
    CHECK(ended.report["warning"].text_or("").find("journal") != std::string::npos);
    fs::remove(faulty.trigger);
    expect::moves(faulty.scene, faulty.scene.a());
}

TEST_CASE("commit: a stale image that cannot be marked ends with moved and a warning",
          "[vm][commit][fault]") {
    Faulty faulty("mark");
    auto& scene = faulty.scene;
    auto const ended = scene.migrate(scene.a());
    INFO(ended.text());
    CHECK(ended.exit_status == 0);
    CHECK(ended.report["outcome"].text_or("") == "moved");
    auto const leaving = beside(scene.guest().image(scene.a(), 0), ".leaving-");
    REQUIRE(leaving.size() == 1);
    REQUIRE(ended.report["warnings"].size() == 1);
    auto const warning = ended.report["warnings"].elements().front().text_or("");
    CHECK(warning.find(leaving.front().string()) != std::string::npos);
    CHECK(warning.find("Device or resource busy") != std::string::npos);
    expect::guest_whole(scene, scene.b());
}

TEST_CASE("commit: an interrupt that comes too late says so, a second one ends the command",
          "[vm][commit][cancel]") {
    Scene scene({.serve_environment = {"SIDECAR_TEST_STOP_AT=reply_ack"}});
    auto migration = scene.start_migration(scene.a());
    (void)scene.wait_stopped(scene.b());
    migration.signal(SIGINT);
    wait_until("the answer to the interrupt", 30s,
               [&] { return migration.err().find("too late to cancel") != std::string::npos; });
    migration.signal(SIGINT);
    CHECK(migration.wait(10s) == 4);
    CHECK(migration.err().find("the sidecar continues") != std::string::npos);
    wait_until("the end of the guest on the source", 60s, [&] {
        release(scene);
        return scene.guest().qemu_pid(scene.a()) < 0;
    });
    expect::guest_whole(scene, scene.b());
}
