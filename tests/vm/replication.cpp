// A guest whose disks are mirrored to the other host every second while it writes. The mirror is
// ended without a trace and started again. Then the guest's QEMU is killed. The guest boots on the
// other host from the last point, its disks hold whole blocks, and it answers on its addresses.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr Milliseconds rounds_limit = 60s;

Output start_mirror(Scene& scene, Argv const& more = {}) {
    Argv argv{"replicate", "web1",  scene.b().address(),      "--every",
              "1s",        "--key", scene.key_file().string()};
    argv.insert(argv.end(), more.begin(), more.end());
    return scene.sidecar(scene.a(), argv);
}

core::Json status_on(Scene& scene, Host const& host) {
    auto const said = scene.sidecar(host, {"status", "web1", "--json"});
    auto const parsed = core::Json::parse(said.out);
    return parsed ? *parsed : core::Json();
}

std::int64_t last_point(Scene& scene) {
    return status_on(scene, scene.a())["replicate"]["last_point"]["number"].integer_or(0);
}

/// Waits until the mirror has reached point `enough`.
void wait_point(Scene& scene, std::int64_t enough) {
    try {
        wait_until("the next points of the mirror", rounds_limit,
                   [&] { return last_point(scene) >= enough; });
    } catch (Failure const& failure) {
        FAIL(failure.what() << "; " << status_on(scene, scene.a()).dump());
    }
}

/// The source's sidecar is killed in the middle of a round, with its filters on the guest's disks.
/// The guest is not affected, and the next sidecar continues.
void outlives_its_sidecar(Scene& scene) {
    REQUIRE(start_mirror(scene, {"--bandwidth", "16M"}).exit_status == 0);
    wait_until("the middle of the first round", rounds_limit, [&] {
        return status_on(scene, scene.a())["replicate"]["copied_bytes"].integer_or(0) > 1 << 20;
    });
    CHECK(left_in_qemu(scene.guest(), scene.a()).find("sidecar-filter-0") != std::string::npos);
    scene.first_sidecar().kill();
    scene.guest().must_be_alive();
    scene.attach_guest(scene.a());
    wait_point(scene, 1);
    scene.guest().must_be_whole();
}

void end_replication(Scene& scene, bool forget) {
    Argv argv{"replicate", "web1", "--stop"};
    if (forget) argv.emplace_back("--forget");
    auto const ended = scene.sidecar(scene.a(), argv);
    INFO(ended.err);
    REQUIRE(ended.exit_status == 0);
    CHECK(fs::is_empty(scene.b().images) == forget);
    CHECK(status_on(scene, scene.b())["copy"].is_null() == forget);
}

void just_begins(Scene& scene) {
    auto const started = start_mirror(scene);
    INFO(started.err);
    REQUIRE(started.exit_status == 0);
}

void mirrored_and_failed_over(GuestOptions const& guest, void (*begin)(Scene&), bool forget) {
    Scene scene({.guest = guest});
    auto const failover = [&](Argv const& more) {
        Argv argv{"failover", "web1"};
        argv.insert(argv.end(), more.begin(), more.end());
        return scene.sidecar(scene.b(), argv);
    };
    CHECK(failover({"--i-have-fenced"}).err.find("no copy of web1") != std::string::npos);

    begin(scene);
    wait_point(scene, 2);
    CHECK(start_mirror(scene).err.find("replicated already") != std::string::npos);
    auto const moving = scene.migrate(scene.a());
    CHECK(moving.exit_status == 3);
    CHECK(moving.err.find("--stop") != std::string::npos);
    end_replication(scene, forget);
    CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
    scene.guest().must_be_whole();

    // This is a new mirror, so everything is copied again, over an existing point.
    just_begins(scene);
    wait_point(scene, 5);
    auto const copy = status_on(scene, scene.b())["copy"]["points"].elements();
    REQUIRE(copy.size() == 2);
    CHECK(copy[1]["number"].integer_or(0) == copy[0]["number"].integer_or(0) + 1);
    auto const unfenced = failover({});
    CHECK(unfenced.exit_status == 2);
    CHECK(unfenced.err.find("--i-have-fenced") != std::string::npos);

    auto const pid = scene.guest().qemu_pid(scene.a());
    kill_process(pid);
    (void)scene.first_sidecar().wait(end_limit);
    Daemon beside("failover", {program("sidecar"), "failover", "web1", "--i-have-fenced"},
                  scene.b().place(), scene.b().logs);
    wait_until("the guest's first answer on the other host", Guest::boot_limit, [&] {
        if (!beside.running()) throw Failure("`failover` ended: " + beside.err());
        return scene.guest().answers();
    });
    CHECK(scene.guest().runs_on(scene.b()));
    scene.guest().must_be_alive();
    scene.guest().must_be_whole();
    CHECK(failover({"--i-have-fenced"}).err.find("runs here already") != std::string::npos);
    CHECK(status_on(scene, scene.b())["status"].text_or("") == "running");
}

}  // namespace

TEST_CASE("replicate and failover: QEMU 7.2, raw, two disks", "[vm][warm]") {
    mirrored_and_failed_over({.qemu = "7.2", .format = "raw", .disks = 2, .rate = 100},
                             outlives_its_sidecar, false);
}
TEST_CASE("replicate and failover: QEMU 10.0, qcow2 in an iothread", "[vm][warm]") {
    mirrored_and_failed_over({.qemu = "10.0", .format = "qcow2", .iothread = true, .rate = 100},
                             just_begins, true);
}
