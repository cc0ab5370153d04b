// The destination's machine in single scenarios: it obeys, and owns the guest only after COMMIT.
#include "sidecar/machine/destination.hpp"

#include <catch2/catch.hpp>

using namespace sidecar::machine;
using namespace sidecar::machine::destination;
using Kind = Event::Kind;

namespace {

using Actions = std::vector<Action>;

struct Scene {
    State state;

    Actions tell(Event const& what) {
        Step step = destination::step(state, what);
        state = step.state;
        return step.actions;
    }
    Actions tell(Kind kind) { return tell(event(kind)); }
    Actions ends(Action action, ActionResult result) {
        REQUIRE(state.in_flight.contains(action));
        return tell(action_ended(action, result));
    }
    Actions ok(Action action) { return ends(action, ActionResult::ok); }
};

Scene prepared() {
    Scene scene;
    CHECK(scene.tell(Kind::prepare_requested) == Actions{Action::prepare});
    CHECK(scene.ok(Action::prepare) == Actions{Action::reply_prepared});
    CHECK(scene.ok(Action::reply_prepared).empty());
    CHECK(scene.state.phase == Phase::prepared);
    return scene;
}

Scene sealed_and_loaded() {
    Scene scene = prepared();
    CHECK(scene.tell(Kind::seal_requested) == Actions{Action::seal});
    CHECK(scene.ok(Action::seal) == Actions{Action::reply_sealed});
    CHECK(scene.ok(Action::reply_sealed).empty());
    CHECK(scene.tell(Kind::qemu_loaded).empty());  // QEMU's own completed starts nothing
    CHECK(scene.state.phase == Phase::sealed);
    return scene;
}

}  // namespace

TEST_CASE("COMMIT: OWNER, then the guest, then the answer and the announcement",
          "[sim][destination]") {
    Scene scene = sealed_and_loaded();
    CHECK(scene.tell(Kind::commit_received) == Actions{Action::record_owner});
    CHECK(scene.state.phase == Phase::owning);
    CHECK_FALSE(owns_guest(scene.state));
    CHECK(scene.ok(Action::record_owner) == Actions{Action::start_guest});
    CHECK(owns_guest(scene.state));
    CHECK(scene.ok(Action::start_guest) == Actions{Action::reply_ack, Action::announce_network});
    CHECK(scene.state.phase == Phase::running);
    CHECK(scene.ok(Action::reply_ack).empty());
    CHECK(scene.ok(Action::announce_network) == Actions{Action::record_end});
    CHECK(scene.ok(Action::record_end) == Actions{Action::finish});
    CHECK(scene.ok(Action::finish).empty());
    CHECK(scene.state.phase == Phase::done);
    CHECK(scene.tell(Kind::commit_received) == Actions{Action::reply_ack});  // repeated
}

TEST_CASE("a QEMU that died while the disks were copied is started anew when the source asks",
          "[sim][destination]") {
    Scene scene = prepared();
    CHECK(scene.tell(qemu_gone(Qemu::waiting)).empty());
    CHECK(scene.state.phase == Phase::qemu_lost);
    SECTION("and the copy goes on") {
        CHECK(scene.tell(Kind::prepare_requested) == Actions{Action::prepare});
        CHECK(scene.ok(Action::prepare) == Actions{Action::reply_prepared});
        CHECK(scene.state.phase == Phase::prepared);
        CHECK_FALSE(scene.state.qemu_gone);
    }
    SECTION("and dies again before it is prepared") {
        CHECK(scene.tell(Kind::prepare_requested) == Actions{Action::prepare});
        CHECK(scene.tell(qemu_gone(Qemu::waiting)) == Actions{Action::record_aborted});
    }
    SECTION("but COMMIT, a seal, an abort or silence end in ABORTED") {
        auto const kind =
            GENERATE(Kind::commit_received, Kind::abort_requested, Kind::peer_silent_too_long);
        CHECK(scene.tell(kind) == Actions{Action::record_aborted});
        CHECK(scene.state.phase == Phase::aborting);
    }
    SECTION("but a seal ends in ABORTED, and is refused") {
        CHECK(scene.tell(Kind::seal_requested) ==
              Actions{Action::reply_refused, Action::record_aborted});
        CHECK(scene.state.phase == Phase::aborting);
    }
}

TEST_CASE("a QEMU that died with RAM in it ends the migration", "[sim][destination]") {
    Scene scene = prepared();
    SECTION("received in part") {
        CHECK(scene.tell(Kind::qemu_gone) == Actions{Action::record_aborted});
    }
    SECTION("while its disks are sealed") {
        CHECK(scene.tell(Kind::seal_requested) == Actions{Action::seal});
        CHECK(scene.tell(qemu_gone(Qemu::waiting)) ==
              Actions{Action::reply_refused, Action::record_aborted});
    }
    CHECK(scene.state.phase == Phase::aborting);
}

TEST_CASE("a source whose guest is stopped does not wait at seal for what is undone",
          "[sim][destination]") {
    Scene scene = prepared();
    scene.tell(Kind::qemu_gone);
    SECTION("while ABORTED is recorded") {
        CHECK(scene.tell(Kind::seal_requested) == Actions{Action::reply_refused});
    }
    SECTION("while what was made is taken away") {
        CHECK(scene.ok(Action::record_aborted) == Actions{Action::destroy});
        CHECK(scene.tell(Kind::seal_requested) == Actions{Action::reply_refused});
    }
}

TEST_CASE("COMMIT before the stream is loaded waits, and closes what is still open",
          "[sim][destination]") {
    Scene scene = prepared();
    CHECK(scene.tell(Kind::commit_received).empty());
    CHECK(scene.tell(Kind::qemu_loaded) == Actions{Action::seal});
    CHECK(scene.ok(Action::seal) == Actions{Action::record_owner});
}

TEST_CASE("a refusal of COMMIT is recorded before it is sent", "[sim][destination]") {
    Scene scene = sealed_and_loaded();
    scene.tell(Kind::qemu_gone);
    CHECK(scene.state.phase == Phase::aborting);
    CHECK(scene.tell(Kind::commit_received).empty());
    CHECK(scene.ends(Action::record_aborted, ActionResult::unknown) ==
          Actions{Action::record_aborted});
    CHECK(scene.ok(Action::record_aborted) == Actions{Action::reply_aborted, Action::destroy});
    CHECK(scene.ok(Action::reply_aborted).empty());
    CHECK(scene.ok(Action::destroy) == Actions{Action::record_end});
    CHECK(scene.ok(Action::record_end) == Actions{Action::finish});
    CHECK(scene.ok(Action::finish).empty());
    CHECK(scene.tell(Kind::commit_received) == Actions{Action::reply_aborted});
}

TEST_CASE("an unknown migration_id is aborted durably before COMMIT for it is answered",
          "[sim][destination]") {
    Scene scene;
    CHECK(scene.tell(Kind::commit_received) == Actions{Action::record_aborted});
    CHECK(scene.ok(Action::record_aborted) == Actions{Action::reply_aborted, Action::destroy});
}

TEST_CASE("abort removes everything before it is answered, and never touches an owner",
          "[sim][destination]") {
    Scene scene = sealed_and_loaded();
    CHECK(scene.tell(Kind::abort_requested) == Actions{Action::record_aborted});
    CHECK(scene.ok(Action::record_aborted) == Actions{Action::destroy});
    CHECK(scene.ends(Action::destroy, ActionResult::failed) == Actions{Action::destroy});
    CHECK(scene.ok(Action::destroy) == Actions{Action::reply_aborted, Action::record_end});

    Scene owner = sealed_and_loaded();
    owner.tell(Kind::commit_received);
    CHECK(owner.tell(Kind::abort_requested).empty());  // OWNER is being recorded
    CHECK(owner.ok(Action::record_owner) == Actions{Action::start_guest});
    CHECK(owner.tell(Kind::peer_silent_too_long).empty());
    owner.ok(Action::start_guest);
    CHECK(owner.tell(Kind::abort_requested) == Actions{Action::reply_refused});
}

TEST_CASE("OWNER that certainly was not recorded ends in ABORTED, one that may be is repeated",
          "[sim][destination]") {
    Scene failed = sealed_and_loaded();
    failed.tell(Kind::commit_received);
    CHECK(failed.ends(Action::record_owner, ActionResult::failed) ==
          Actions{Action::record_aborted});
    CHECK(failed.ok(Action::record_aborted) == Actions{Action::reply_aborted, Action::destroy});

    Scene unknown = sealed_and_loaded();
    unknown.tell(Kind::commit_received);
    CHECK(unknown.ends(Action::record_owner, ActionResult::unknown) ==
          Actions{Action::record_owner});
    CHECK(unknown.tell(Kind::qemu_gone).empty());
    CHECK(unknown.ends(Action::record_owner, ActionResult::failed) ==
          Actions{Action::record_owner});
    CHECK(unknown.ok(Action::record_owner) == Actions{Action::reply_ack, Action::record_end});
}

TEST_CASE("a preparation that failed is undone and refused", "[sim][destination]") {
    Scene scene;
    scene.tell(Kind::prepare_requested);
    CHECK(scene.ends(Action::prepare, ActionResult::failed) == Actions{Action::record_aborted});
    CHECK(scene.ok(Action::record_aborted) == Actions{Action::destroy});
    CHECK(scene.ok(Action::destroy) == Actions{Action::reply_refused, Action::record_end});
}

TEST_CASE("a seal that failed is refused, and may be asked for again", "[sim][destination]") {
    Scene scene = prepared();
    scene.tell(Kind::seal_requested);
    CHECK(scene.ends(Action::seal, ActionResult::failed) == Actions{Action::reply_refused});
    CHECK(scene.ok(Action::reply_refused).empty());
    CHECK(scene.state.phase == Phase::prepared);
    CHECK(scene.tell(Kind::seal_requested) == Actions{Action::seal});
}

TEST_CASE("a restarted destination reads its record", "[sim][destination][restart]") {
    struct Row {
        Record record;
        Qemu qemu;
        Phase phase;
        Actions first;
    };
    std::vector<Row> const rows{
        {Record::none, Qemu::waiting, Phase::prepared, {}},
        {Record::none, Qemu::loaded, Phase::prepared, {}},
        {Record::none, Qemu::gone, Phase::aborting, {Action::record_aborted}},
        {Record::owner, Qemu::loaded, Phase::owning, {Action::start_guest}},
        {Record::owner, Qemu::running, Phase::running, {Action::announce_network}},
        {Record::owner, Qemu::gone, Phase::running, {Action::record_end}},
        {Record::aborted, Qemu::loaded, Phase::aborting, {Action::destroy}},
        {Record::ended_owner, Qemu::running, Phase::done, {}},
        {Record::ended_aborted, Qemu::gone, Phase::done, {}},
    };
    for (Row const& row : rows) {
        INFO(name(row.record) << " " << name(row.qemu));
        Scene scene;
        CHECK(scene.tell(restarted(row.record, row.qemu)) == row.first);
        CHECK(scene.state.phase == row.phase);
    }
}
