// COMMIT is recorded and there is no answer. The guest stays paused on the source until the
// destination answers after all, or an operator who has fenced one side decides where it runs.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;

namespace {

/// The longest that an operator's decision, or the destination's late answer, may take.
constexpr Milliseconds decision_limit = 30s;

Argv resolve(std::string const& to, bool fenced = true) {
    Argv argv{"resolve", "web1", "--to", to};
    if (fenced) argv.push_back("--i-have-fenced");
    return argv;
}

/// The migration has ended with `in doubt`, everything reports it, and only an operator's decision
/// may change it.
void expect_doubt(Scene& scene, Daemon& migration) {
    auto const ended = scene.finish_past_hooks(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 4);
    CHECK(ended.report["outcome"].text_or("") == "in_doubt");
    CHECK(ended.report["guest_is_on"].text_or("") == "unknown");
    CHECK_FALSE(scene.guest().runs_on(scene.a()));
    CHECK(scene.guest().qemu_pid(scene.a()) > 0);

    auto const status = scene.sidecar(scene.a(), {"status", "web1"});
    INFO(status.out << status.err);
    CHECK(status.exit_status == 0);
    CHECK(status.out.find("in_doubt") != std::string::npos);
    auto const json =
        parse_json(scene.sidecar(scene.a(), {"status", "web1", "--json"}).out)["migration"];
    CHECK(json["phase"].text_or("") == "in_doubt");
    CHECK_FALSE(json["may_cancel"].boolean_or(true));
    CHECK(json["may_resolve"].boolean_or(false));

    auto const cancelled = scene.sidecar(scene.a(), {"cancel", "web1"});
    CHECK(cancelled.exit_status == 3);
    CHECK(cancelled.err.find("too late to cancel") != std::string::npos);
    auto const unfenced = scene.sidecar(scene.a(), resolve("source", false));
    CHECK(unfenced.exit_status == 2);
    CHECK(unfenced.err.find("--i-have-fenced") != std::string::npos);
    CHECK_FALSE(scene.guest().runs_on(scene.a()));
}

void say(Scene& scene, std::string const& owner) {
    auto const said = scene.sidecar(scene.a(), resolve(owner));
    INFO(said.err);
    CHECK(said.exit_status == 0);
    CHECK(said.out.find(owner + " owns web1") != std::string::npos);
}

/// The destination's sidecar stops before it answers COMMIT: the guest runs there already.
struct Unanswered {
    Unanswered()
        : scene({.serve_environment = {"SIDECAR_TEST_STOP_AT=reply_ack"}}),
          migration(scene.start_migration(scene.a())) {
        try {
            destination = scene.wait_stopped(scene.b());
        } catch (Failure const& failure) {
            FAIL(failure.what() << "; " << migration.err() << migration.out());
        }
        CHECK(scene.guest().runs_on(scene.b()));
        scene.kill_serve(scene.b());
        kill_process(destination);
    }
    Scene scene;
    Daemon migration;
    pid_t destination = -1;
};

void wait_until_left(Scene& scene) {
    wait_until("the end of the guest's QEMU and sidecar on the source", decision_limit, [&] {
        return scene.guest().qemu_pid(scene.a()) < 0 && !scene.guest_sidecar(scene.a());
    });
}

}  // namespace

TEST_CASE("in doubt: the destination is lost, and the operator gives the guest to the source",
          "[vm][fault][doubt][waits]") {
    Held held("send_commit");
    auto& scene = held.scene;
    // `serve` first: otherwise it would start a new sidecar for the guest.
    scene.kill_serve(scene.b());
    auto const destination = scene.guest_sidecar(scene.b());
    REQUIRE(destination);
    kill_process(destination->pid);
    kill_process(scene.guest().qemu_pid(scene.b()));
    expect_doubt(scene, held.migration);

    say(scene, "source");
    wait_until("the guest on the source", decision_limit, [&] { return scene.guest().answers(); });
    expect::guest_whole(scene, scene.a());
    CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
    auto const again = scene.sidecar(scene.a(), resolve("source"));
    CHECK(again.exit_status == 3);
    CHECK(again.err.find("in doubt") != std::string::npos);

    // The lost migration's leftovers on b do no harm, and the next migration removes them.
    scene.start_serve(scene.b());
    expect::moves(scene, scene.a());
}

TEST_CASE("in doubt: the answer is lost, and the operator gives the guest to the destination",
          "[vm][fault][doubt]") {
    Unanswered unanswered;
    auto& scene = unanswered.scene;
    expect_doubt(scene, unanswered.migration);
    CHECK(scene.guest().runs_on(scene.b()));

    say(scene, "destination");
    wait_until_left(scene);
    // The guest never stopped; a new sidecar completes the killed one's work.
    scene.attach_guest(scene.b());
    wait_until("the new sidecar to have the guest", decision_limit, [&] {
        auto const status = scene.sidecar(scene.b(), {"status", "web1", "--json"});
        return status.exit_status == 0 && parse_json(status.out)["status"].text_or("") == "running";
    });
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
    scene.start_serve(scene.b());
    expect::moves(scene, scene.b());
}

TEST_CASE("in doubt: the answer is lost, and the destination comes back",
          "[vm][fault][doubt][waits]") {
    Unanswered unanswered;
    auto& scene = unanswered.scene;
    expect_doubt(scene, unanswered.migration);

    scene.start_serve(scene.b());
    wait_until_left(scene);
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
    expect::moves(scene, scene.b());
}
