// A guest that does not run is moved as it is: `sidecar migrate` of guests that were never
// continued (-S), stopped, or shut down, there and back, and back to what they were when it fails.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace run_states_cases {

using namespace move_lab;

namespace {

/// The guest of host a has a monitor at `qmp` of the host's directory, wherever it is.
struct StateLab : MoveLab {
    /// `environment`: of the guest's sidecar on host a.
    StateLab(std::string const& qemu, std::string const& state, Argv more = {},
             std::vector<std::string> const& environment = {})
        : MoveLab(Empty()) {
        for (auto* const host : {&a, &b}) start_serve(*host);
        a.qemu = qemu;
        more.insert(more.end(), {"-qmp", "unix:" + socket(a) + ",server=on,wait=off"});
        a.start_guest(more, environment, state);
    }
    static std::string socket(MoveHost const& host) { return host.directory + "/qmp"; }
    [[nodiscard]] static lab::Qmp monitor(MoveHost const& host) { return lab::Qmp(socket(host)); }
    [[nodiscard]] static std::string state(MoveHost const& host) { return monitor(host).status(); }
    static lab::Output move(MoveHost const& from, MoveHost const& to, Argv more = {}) {
        more.insert(more.end(), {"--network", "anchor"});
        return from.migrate(to, more);
    }
};

void must_move(MoveHost const& from, MoveHost const& to, Argv const& more = {}) {
    auto const moved = StateLab::move(from, to, more);
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
}

/// Of a lab whose sidecar on host a stops at a hook.
void must_move_past_the_hook(StateLab const& lab) {
    auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
    must(lab.a.wait_stopped(migration).signal(SIGCONT));
    auto const status = migration.wait(60s);
    INFO(migration.err());
    REQUIRE(status == 0);
}

}  // namespace

TEST_CASE("run states: a guest that does not run is moved as it is, there and back",
          "[migrate][run-state]") {
    struct Row {
        std::string state;
        Argv more;
    };
    auto const row = GENERATE(values<Row>(
        {{"prelaunch", {"-S"}}, {"paused", {}}, {"shutdown", {"-no-shutdown", "-no-reboot"}}}));
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        INFO(version << " " << row.state);
        StateLab const lab(qemu, row.state == "prelaunch" ? "prelaunch" : "running", row.more);
        if (row.state == "paused") StateLab::monitor(lab.a).execute("stop");
        if (row.state == "shutdown") {
            StateLab::monitor(lab.a).execute("system_reset");
            CHECK(soon([&] { return StateLab::state(lab.a) == "shutdown"; }));
        }
        auto const checked = StateLab::move(lab.a, lab.b, {"--check"});
        INFO(checked.out << checked.err);
        REQUIRE(checked.exit_status == 0);
        CHECK(contains(checked.out, "does not run (QEMU says " + row.state + ")"));
        CHECK(StateLab::state(lab.a) == row.state);

        auto const report = lab.directory.path("report");
        must_move(lab.a, lab.b, {"--report", report});
        CHECK(StateLab::state(lab.b) == row.state);
        auto const told = lab::parse_json(lab::read_file(report));
        CHECK(told["run_state"].text_or("") == row.state);
        CHECK_FALSE(told.has("downtime_ms"));
        must_move(lab.b, lab.a);
        CHECK(StateLab::state(lab.a) == row.state);
        CHECK(lab::read_file(lab.a.disk) == std::string(disk_bytes, 'd'));
        if (row.state == "shutdown") continue;
        // Only now, by its operator, and from there it moves as it runs.
        StateLab::monitor(lab.a).execute("cont");
        CHECK(StateLab::state(lab.a) == "running");
        must_move(lab.a, lab.b);
        CHECK(StateLab::state(lab.b) == "running");
    }
}

TEST_CASE("run states: a guest that does not run stays stopped when its migration fails",
          "[migrate][run-state]") {
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        for (bool const sidecar_dies : {false, true}) {
            INFO(version << (sidecar_dies ? " the sidecar dies" : " the destination's QEMU dies"));
            StateLab lab(qemu, "running", {}, {"SIDECAR_TEST_STOP_AT=copy_final"});
            StateLab::monitor(lab.a).execute("stop");
            auto const report = lab.directory.path("report");
            auto migration = lab.a.start_migration(lab.b, {"--network=anchor", "--report", report});
            auto const stopped = lab.a.wait_stopped(migration);
            if (sidecar_dies) {
                must(stopped.signal(SIGKILL));
            } else {
                lab.b.kill_qemu();
                must(stopped.signal(SIGCONT));
            }
            CHECK(migration.wait(60s) != 0);
            INFO(migration.err());
            // QEMU 7.2 forgets in which of its states a guest was stopped.
            auto const kept = version == "7.2" ? "postmigrate" : "paused";
            CHECK(soon([&] { return StateLab::state(lab.a) == kept; }));
            if (sidecar_dies) continue;
            CHECK(lab::parse_json(lab::read_file(report))["guest_is_on"].text_or("") ==
                  "stopped_source");
            if (version == "7.2") {
                CHECK(contains(StateLab::move(lab.a, lab.b).err, "only after `cont`"));
                auto monitor = StateLab::monitor(lab.a);
                monitor.execute("cont");
                monitor.execute("stop");
            }
            must_move_past_the_hook(lab);
            CHECK(StateLab::state(lab.b) == "paused");
        }
    }
}

TEST_CASE("run states: a guest that is continued while it is copied stays, and runs",
          "[migrate][run-state]") {
    StateLab lab(storage_lab::oldest_qemu(), "prelaunch", {"-S"},
                 {"SIDECAR_TEST_STOP_AT=start_ram"});
    auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
    auto const stopped = lab.a.wait_stopped(migration);
    StateLab::monitor(lab.a).execute("cont");
    must(stopped.signal(SIGCONT));
    CHECK(migration.wait(60s) == 1);
    INFO(migration.err());
    CHECK(contains(migration.err(), "the guest was continued during the migration"));
    CHECK(StateLab::state(lab.a) == "running");
    must_move_past_the_hook(lab);
    CHECK(StateLab::state(lab.b) == "running");
}

}  // namespace run_states_cases
