// Both machines with a guest that does not run when its migration begins: neither ever continues
// it.
#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"
#include "sidecar/machine/watchdog.hpp"

#include <catch2/catch.hpp>

#include <algorithm>

using namespace sidecar::machine;

namespace {

/// The source's machine, with a log of every action that it asked for.
struct StoppedSource {
    source::State state;
    std::vector<source::Action> log;

    void tell(source::Event const& event) {
        auto const step = source::step(state, event);
        state = step.state;
        log.insert(log.end(), step.actions.begin(), step.actions.end());
    }
    void tell(source::Event::Kind kind) { tell(source::event(kind)); }
    void ok(source::Action action) {
        REQUIRE(state.in_flight.contains(action));
        tell(source::action_ended(action, ActionResult::ok));
    }
    void drain() {
        while (!state.in_flight.empty()) {
            for (unsigned index = 0; index < source::action_count; ++index) {
                auto const action = static_cast<source::Action>(index);
                if (state.in_flight.contains(action)) {
                    ok(action);
                    break;
                }
            }
        }
    }
    [[nodiscard]] bool asked(source::Action action) const {
        return std::ranges::find(log, action) != log.end();
    }
};

/// Its RAM is sent.
StoppedSource converging() {
    using source::Action;
    using Kind = source::Event::Kind;
    StoppedSource scene;
    scene.tell(Kind::migrate_requested);
    scene.tell(Kind::guest_stopped_by_others);
    for (auto const action :
         {Action::check, Action::record_begin, Action::prepare_destination, Action::prepare_network,
          Action::prepare_storage, Action::copy_disks, Action::start_ram}) {
        scene.ok(action);
    }
    REQUIRE(scene.state.phase == source::Phase::converging);
    return scene;
}

}  // namespace

TEST_CASE("a stopped guest moves without a STOP", "[sim][source][stopped]") {
    using source::Action;
    using Kind = source::Event::Kind;
    auto scene = converging();
    scene.tell(Kind::pre_switchover_seen);
    CHECK(scene.state.phase == source::Phase::stopped);
    for (auto const action : {Action::fire_network, Action::list_final, Action::copy_final,
                              Action::continue_migration, Action::seal_destination}) {
        scene.ok(action);
    }
    scene.tell(Kind::migration_completed);
    scene.ok(Action::set_images_aside);
    scene.ok(Action::record_commit);
    scene.tell(source::action_ended(Action::send_commit, ActionResult::acked));
    scene.drain();
    CHECK(scene.state.outcome == Outcome::moved);
    CHECK_FALSE(scene.asked(Action::resume_source));
}

TEST_CASE("a stopped guest stays stopped on the source, whatever ends its migration",
          "[sim][source][stopped]") {
    using source::Action;
    using source::Qemu;
    using source::Record;
    using Kind = source::Event::Kind;
    for (auto const kind : {Kind::cancel_requested, Kind::migration_failed, Kind::peer_lost}) {
        auto scene = converging();
        scene.tell(Kind::pre_switchover_seen);
        scene.tell(kind);
        scene.drain();
        CHECK(scene.asked(Action::cancel_migration));
        CHECK_FALSE(scene.asked(Action::resume_source));
        CHECK(scene.state.guest == Guest::stopped_source);
    }
    for (auto const qemu : {Qemu::stopped, Qemu::stopped_migrating, Qemu::stopping,
                            Qemu::paused_pre_switchover, Qemu::postmigrate}) {
        INFO(source::name(qemu));
        StoppedSource scene;
        scene.tell(source::restarted(Record::begun, qemu, true));
        scene.drain();
        CHECK_FALSE(scene.asked(Action::resume_source));
        CHECK(scene.state.guest == Guest::stopped_source);
        CHECK(watchdog::next(Record::rolled_back, qemu, true) != watchdog::Action::resume_guest);
    }
}

TEST_CASE("a guest that others continue while its RAM is sent runs on the source",
          "[sim][source][stopped]") {
    using source::Action;
    using source::Qemu;
    using Kind = source::Event::Kind;
    auto heard = converging();
    heard.tell(Kind::guest_resumed);
    auto missed = converging();
    missed.tell(Kind::qmp_lost);
    missed.tell(source::qmp_back(Qemu::migrating));
    for (auto* const scene : {&heard, &missed}) {
        scene->drain();
        CHECK(scene->state.outcome == Outcome::failed);
        CHECK(scene->state.guest == Guest::source);
    }
    // Found as it was: nothing was missed.
    auto same = converging();
    same.tell(Kind::qmp_lost);
    same.tell(source::qmp_back(Qemu::stopped_migrating));
    CHECK(same.state.phase == source::Phase::converging);
    // Its migration has failed meanwhile.
    same.tell(Kind::qmp_lost);
    same.tell(source::qmp_back(Qemu::stopped));
    same.drain();
    CHECK(same.state.guest == Guest::stopped_source);
}

TEST_CASE("the destination leaves a guest stopped that was stopped at the source",
          "[sim][destination][stopped]") {
    using destination::Action;
    using destination::Qemu;
    using destination::Record;
    using Kind = destination::Event::Kind;
    using Actions = std::vector<Action>;
    destination::State state;
    auto const tell = [&](destination::Event const& event) {
        auto const step = destination::step(state, event);
        state = step.state;
        return step.actions;
    };
    auto const ok = [&](Action action) {
        REQUIRE(state.in_flight.contains(action));
        return tell(destination::action_ended(action, ActionResult::ok));
    };
    CHECK(tell(destination::prepare_requested(true)) == Actions{Action::prepare});
    ok(Action::prepare);
    ok(Action::reply_prepared);
    tell(destination::event(Kind::seal_requested));
    ok(Action::seal);
    ok(Action::reply_sealed);
    tell(destination::event(Kind::qemu_loaded));
    CHECK(tell(destination::event(Kind::commit_received)) == Actions{Action::record_owner});
    CHECK(ok(Action::record_owner) == Actions{Action::leave_stopped});
    CHECK(ok(Action::leave_stopped) == Actions{Action::reply_ack, Action::announce_network});
    CHECK(state.phase == destination::Phase::running);

    state = {};
    CHECK(tell(destination::restarted(Record::owner, Qemu::loaded, true)) ==
          Actions{Action::leave_stopped});
    // Its operator has continued it here.
    state = {};
    tell(destination::restarted(Record::owner, Qemu::running, true));
    CHECK(state.phase == destination::Phase::running);
}
