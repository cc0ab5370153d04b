// The source's machine in single scenarios. The normal order is the phase table of
// docs/architecture.md, and every phase gives up as the last column of that table says.
#include "sidecar/machine/source.hpp"

#include <catch2/catch.hpp>

#include <algorithm>

using namespace sidecar::machine;
using namespace sidecar::machine::source;
using Kind = Event::Kind;

namespace {

using Actions = std::vector<Action>;

/// A machine with a log of every action that it asked for, in order.
struct Scene {
    State state;
    Actions log;

    Actions tell(Event const& what) {
        Step step = source::step(state, what);
        state = step.state;
        log.insert(log.end(), step.actions.begin(), step.actions.end());
        return step.actions;
    }
    Actions tell(Kind kind) { return tell(event(kind)); }
    Actions ok(Action action) {
        REQUIRE(state.in_flight.contains(action));
        return tell(action_ended(action, ActionResult::ok));
    }
    Actions ends(Action action, ActionResult result) {
        REQUIRE(state.in_flight.contains(action));
        return tell(action_ended(action, result));
    }
    /// Ends every action with ok, in the order asked, until nothing is in flight.
    void drain() {
        while (!state.in_flight.empty()) {
            for (unsigned index = 0; index < action_count; ++index) {
                auto const action = static_cast<Action>(index);
                if (state.in_flight.contains(action)) {
                    ok(action);
                    break;
                }
            }
        }
    }
};

/// A machine that has reached the beginning of `phase` without a fault.
Scene at(Phase phase) {
    Scene scene;
    scene.tell(Kind::migrate_requested);
    auto const reach = [&scene, phase](auto... next) {
        auto const advance = [&scene, phase](auto what) {
            if (scene.state.phase == phase) {
                return;
            }
            if constexpr (std::is_same_v<decltype(what), Action>) {
                scene.ok(what);
            } else {
                scene.tell(what);
            }
        };
        (advance(next), ...);
    };
    reach(Action::check, Action::record_begin, Action::prepare_destination, Action::prepare_network,
          Action::prepare_storage, Action::copy_disks, Action::start_ram, Kind::stop_seen,
          Action::fire_network, Kind::pre_switchover_seen, Action::list_final, Action::copy_final,
          Action::continue_migration, Action::seal_destination, Kind::migration_completed,
          Action::set_images_aside, Action::record_commit);
    if (phase == Phase::in_doubt) {
        scene.tell(Kind::peer_lost);
        scene.ends(Action::send_commit, ActionResult::unknown);
    }
    REQUIRE(scene.state.phase == phase);
    scene.log.clear();
    return scene;
}

/// The destination has everything, and COMMIT is being recorded.
Scene recording_commit() {
    Scene scene = at(Phase::switching);
    scene.ok(Action::continue_migration);
    scene.ok(Action::copy_final);
    scene.ok(Action::seal_destination);
    scene.tell(Kind::migration_completed);
    REQUIRE(scene.state.in_flight.contains(Action::record_commit));
    return scene;
}

Actions const undo_before_stop{Action::abort_destination, Action::drop_storage,
                               Action::drop_network, Action::record_end, Action::finish};
Actions const undo_after_stop{Action::cancel_migration, Action::rollback_network,
                              Action::resume_source,    Action::abort_destination,
                              Action::drop_storage,     Action::drop_network,
                              Action::record_end,       Action::finish};

} // namespace

TEST_CASE("a migration without a fault asks for its actions in the order of the phase table",
          "[sim][source]") {
    Scene scene;
    CHECK(scene.tell(Kind::migrate_requested) == Actions{Action::check});
    CHECK(scene.state.phase == Phase::checking);
    CHECK(scene.ok(Action::check) == Actions{Action::record_begin});
    CHECK(scene.ok(Action::record_begin) == Actions{Action::prepare_destination});
    CHECK(scene.state.phase == Phase::preparing);
    CHECK(scene.ok(Action::prepare_destination) == Actions{Action::prepare_network});
    CHECK(scene.ok(Action::prepare_network) == Actions{Action::prepare_storage});
    CHECK(scene.ok(Action::prepare_storage) == Actions{Action::copy_disks});
    CHECK(scene.state.phase == Phase::copying);
    CHECK(scene.ok(Action::copy_disks) == Actions{Action::start_ram});
    CHECK(scene.state.phase == Phase::converging);
    CHECK(scene.ok(Action::start_ram).empty());
    CHECK(scene.tell(Kind::stop_seen) == Actions{Action::fire_network});
    CHECK(scene.state.phase == Phase::stopped);
    CHECK(scene.tell(Kind::pre_switchover_seen) == Actions{Action::list_final});  // during the fire
    CHECK(scene.ok(Action::list_final) ==
          Actions{Action::copy_final, Action::continue_migration});  // at once
    CHECK(scene.state.phase == Phase::switching);
    CHECK(scene.ok(Action::continue_migration).empty());
    CHECK(scene.ok(Action::copy_final) == Actions{Action::seal_destination});
    CHECK(scene.tell(Kind::migration_completed).empty());
    CHECK(scene.ok(Action::seal_destination).empty());
    CHECK(scene.ok(Action::fire_network) ==
          Actions{Action::set_images_aside, Action::record_commit});  // at once
    CHECK(scene.ok(Action::record_commit).empty());
    CHECK(scene.state.phase == Phase::switching);
    CHECK(scene.ok(Action::set_images_aside) == Actions{Action::send_commit});
    CHECK(scene.state.phase == Phase::committed);
    CHECK(scene.state.guest == Guest::unknown);
    CHECK(scene.ends(Action::send_commit, ActionResult::acked) == Actions{Action::tombstone_disks});
    CHECK(scene.state.phase == Phase::settling);
    CHECK(scene.ok(Action::tombstone_disks) == Actions{Action::settle_network});
    CHECK(scene.ok(Action::settle_network) == Actions{Action::quit_source});
    CHECK(scene.ok(Action::quit_source) == Actions{Action::record_end});
    CHECK(scene.ok(Action::record_end) == Actions{Action::finish});
    CHECK(under_way(scene.state));
    CHECK(scene.ok(Action::finish).empty());
    CHECK_FALSE(under_way(scene.state));
    CHECK(scene.state.phase == Phase::done);
    CHECK(scene.state.outcome == Outcome::moved);
    CHECK(scene.state.guest == Guest::destination);
    CHECK(exit_status(scene.state.outcome) == 0);
}

TEST_CASE("cancel is obeyed in every phase before COMMIT, and undoes what was made, newest first",
          "[sim][source][cancel]") {
    struct Row {
        Phase phase;
        Actions expected;
    };
    Actions before = undo_before_stop;
    before.insert(before.begin(), Action::interrupt);
    Actions converging = before;
    converging.insert(converging.begin() + 1, {Action::cancel_migration, Action::resume_source});
    Actions after = undo_after_stop;
    after.insert(after.begin(), Action::interrupt);
    std::vector<Row> const rows{
        {Phase::checking, {Action::interrupt, Action::finish}},
        {Phase::preparing,
         {Action::interrupt, Action::abort_destination, Action::record_end, Action::finish}},
        {Phase::copying, before},
        {Phase::converging, converging},
    };
    for (Row const& row : rows) {
        INFO(name(row.phase));
        Scene scene = at(row.phase);
        CHECK(may_cancel(scene.state));
        scene.tell(Kind::cancel_requested);
        CHECK(scene.state.phase == Phase::rolling_back);
        CHECK_FALSE(may_cancel(scene.state));
        scene.drain();
        CHECK(scene.log == row.expected);
        CHECK(scene.state.phase == Phase::done);
        CHECK(scene.state.outcome == Outcome::cancelled);
        CHECK(scene.state.guest == Guest::source);
        CHECK(exit_status(scene.state.outcome) == 5);
    }
}

TEST_CASE("cancel while stopped brings guest and addresses back at once, side by side",
          "[sim][source][cancel]") {
    for (Phase phase : {Phase::stopped, Phase::switching}) {
        INFO(name(phase));
        Scene scene = at(phase);
        if (phase == Phase::stopped) {
            scene.ok(Action::fire_network);
        } else {
            scene.ok(Action::continue_migration);
            scene.ok(Action::copy_final);
            scene.ok(Action::seal_destination);
            scene.log.clear();
        }
        CHECK(scene.tell(Kind::cancel_requested) ==
              Actions{Action::cancel_migration, Action::rollback_network});
        scene.drain();
        // The two chains run at the same time; the actions after them have one order.
        CHECK(scene.log.size() == undo_after_stop.size());
        CHECK(Actions(scene.log.end() - 5, scene.log.end()) ==
              Actions(undo_after_stop.end() - 5, undo_after_stop.end()));
        CHECK(scene.state.outcome == Outcome::cancelled);
    }
}

TEST_CASE("cancel is refused from the moment COMMIT is being recorded", "[sim][source][cancel]") {
    for (Scene scene : {recording_commit(), at(Phase::committed), at(Phase::in_doubt)}) {
        INFO(describe(scene.state));
        State const before = scene.state;
        CHECK_FALSE(may_cancel(before));
        CHECK(scene.tell(Kind::cancel_requested).empty());
        CHECK(scene.state == before);
    }
}

TEST_CASE("a failed check is a refusal: nothing was touched", "[sim][source]") {
    struct Row {
        ActionResult result;
        Outcome outcome;
        ExitStatus exit;
    };
    for (Row const& row :
         {Row{ActionResult::failed, Outcome::refused, exit_refused},
          Row{ActionResult::unknown, Outcome::failed, exit_failed}}) {  // it could not be checked
        Scene scene = at(Phase::checking);
        CHECK(scene.ends(Action::check, row.result) == Actions{Action::finish});
        scene.drain();
        CHECK(scene.state.outcome == row.outcome);
        CHECK(scene.state.resources.empty());
        CHECK(exit_status(scene.state.outcome) == row.exit);
    }
}

TEST_CASE("a journal that cannot be written is a failure, one that may be written is closed again",
          "[sim][source]") {
    Scene failed = at(Phase::checking);
    failed.ok(Action::check);
    CHECK(failed.ends(Action::record_begin, ActionResult::failed) == Actions{Action::finish});
    CHECK(failed.state.outcome == Outcome::failed);

    Scene unknown = at(Phase::checking);
    unknown.ok(Action::check);
    CHECK(unknown.ends(Action::record_begin, ActionResult::unknown) == Actions{Action::record_end});
    CHECK(unknown.state.outcome == Outcome::failed);
}

TEST_CASE("the pause limit, a lost peer and a failed migration bring the guest back while stopped",
          "[sim][source]") {
    for (Kind kind : {Kind::downtime_limit_exceeded, Kind::peer_lost, Kind::migration_failed,
                      Kind::guest_resumed, Kind::peer_silent_too_long}) {
        for (Phase phase : {Phase::stopped, Phase::switching}) {
            INFO(name(kind) << " in " << name(phase));
            Scene scene = at(phase);
            Actions const asked = scene.tell(kind);
            CHECK(std::ranges::count(asked, Action::cancel_migration) == 1);
            scene.drain();
            CHECK(scene.state.outcome == Outcome::failed);
            CHECK(scene.state.guest == Guest::source);
            CHECK(exit_status(scene.state.outcome) == 1);
        }
    }
}

TEST_CASE("a lost peer is tolerated while the guest runs, until the limit", "[sim][source]") {
    for (Phase phase : {Phase::preparing, Phase::converging}) {
        INFO(name(phase));
        Scene scene = at(phase);
        CHECK(scene.tell(Kind::peer_lost).empty());
        CHECK(scene.state.phase == phase);
        scene.tell(Kind::peer_silent_too_long);
        CHECK(scene.state.phase == Phase::rolling_back);
        scene.drain();
        CHECK(scene.state.outcome == Outcome::failed);
    }
    Scene stops = at(Phase::converging);
    stops.tell(Kind::peer_lost);
    stops.tell(Kind::stop_seen);
    CHECK(stops.state.phase == Phase::rolling_back);
    CHECK_FALSE(stops.state.resources.contains(Resource::fired));
}

TEST_CASE("a copy whose destination is unreachable is suspended, and resumed, undone or cancelled",
          "[sim][source]") {
    auto const suspend = [] {
        Scene scene = at(Phase::copying);
        CHECK(scene.tell(Kind::peer_silent_too_long) == Actions{Action::interrupt});
        scene.ok(Action::interrupt);
        scene.ends(Action::copy_disks, ActionResult::unknown);
        CHECK(scene.state.phase == Phase::suspended);
        CHECK(scene.state.outcome == Outcome::suspended);
        CHECK(scene.state.guest == Guest::source);
        CHECK(exit_status(scene.state.outcome) == 6);
        return scene;
    };
    Scene resumed = suspend();
    CHECK(resumed.tell(Kind::resume_requested) == Actions{Action::copy_disks});
    CHECK(resumed.state.outcome == Outcome::none);
    CHECK(resumed.ok(Action::copy_disks) == Actions{Action::start_ram});

    Scene undone = suspend();
    undone.tell(Kind::suspended_too_long);
    undone.drain();
    CHECK(undone.state.outcome == Outcome::failed);

    Scene cancelled = suspend();
    cancelled.tell(Kind::cancel_requested);
    cancelled.drain();
    CHECK(cancelled.state.outcome == Outcome::cancelled);

    Scene data_link = at(Phase::copying);
    data_link.ends(Action::copy_disks, ActionResult::link_lost);
    CHECK(data_link.state.phase == Phase::suspended);
}

TEST_CASE("a lost monitor is connected again, and what was missed is read, in every phase",
          "[sim][source][qmp]") {
    auto const back = [](Phase phase, Qemu qemu) {
        Scene scene = at(phase);
        CHECK(scene.tell(Kind::qmp_lost).empty());
        scene.tell(qmp_back(qemu));
        CHECK(scene.state.qmp_up);
        return scene;
    };
    CHECK(back(Phase::copying, Qemu::running).state.phase == Phase::copying);
    CHECK(back(Phase::converging, Qemu::migrating).state.phase == Phase::converging);
    CHECK(back(Phase::converging, Qemu::stopping).log == Actions{Action::fire_network});
    Scene const stopped = back(Phase::converging, Qemu::paused_pre_switchover);
    CHECK(stopped.log == Actions{Action::fire_network, Action::list_final});
    CHECK(back(Phase::stopped, Qemu::paused_pre_switchover).log.back() == Action::list_final);
    for (Phase phase : {Phase::converging, Phase::stopped, Phase::switching}) {
        INFO(name(phase));
        CHECK(back(phase, Qemu::running).state.phase == Phase::rolling_back);
    }
    CHECK(back(Phase::converging, Qemu::postmigrate).state.phase == Phase::rolling_back);
    CHECK(back(Phase::switching, Qemu::postmigrate).state.completed);
    // Neither of the two goes on to COMMIT.
    Scene silent = at(Phase::switching);
    silent.ok(Action::continue_migration);
    silent.ok(Action::copy_final);
    silent.tell(Kind::migration_completed);
    silent.tell(Kind::qmp_lost);
    CHECK(silent.ok(Action::seal_destination).empty());
    silent.tell(qmp_back(Qemu::postmigrate));
    CHECK(silent.state.in_flight.contains(Action::record_commit));
}

TEST_CASE("while the source's QEMU is silent the destination is aborted before anything else",
          "[sim][source][qmp]") {
    Scene scene = at(Phase::converging);
    scene.ok(Action::start_ram);
    scene.tell(Kind::qmp_lost);
    CHECK(scene.tell(Kind::qmp_silent_too_long) == Actions{Action::abort_destination});
    CHECK(scene.state.phase == Phase::rolling_back);
    CHECK(scene.state.guest == Guest::silent_source);
    CHECK(scene.ok(Action::abort_destination).empty());
    // QEMU answers at last: now the guest is continued.
    CHECK(scene.tell(qmp_back(Qemu::paused_pre_switchover)) == Actions{Action::cancel_migration});
    scene.drain();
    CHECK(scene.state.outcome == Outcome::failed);
    CHECK(scene.state.guest == Guest::source);
}

TEST_CASE("a guest that was stopped from outside is not resumed, and is reported as stopped",
          "[sim][source][stopped]") {
    for (Phase phase : {Phase::converging, Phase::stopped}) {
        INFO(name(phase));
        Scene scene = at(phase);
        scene.tell(Kind::guest_stopped_by_others);
        CHECK(scene.state.phase == Phase::rolling_back);
        scene.drain();
        CHECK(std::ranges::find(scene.log, Action::resume_source) == scene.log.end());
        CHECK(scene.state.outcome == Outcome::failed);
        CHECK(scene.state.guest == Guest::stopped_source);
    }
    Scene continued = at(Phase::copying);
    CHECK(continued.tell(Kind::guest_stopped_by_others).empty());
    continued.tell(Kind::guest_resumed);
    continued.tell(Kind::cancel_requested);
    CHECK(continued.state.guest == Guest::source);
}

TEST_CASE("COMMIT that certainly was not recorded ends on the source, one that may be is repeated",
          "[sim][source][commit]") {
    Scene failed = recording_commit();
    failed.ends(Action::record_commit, ActionResult::failed);
    CHECK(failed.state.phase == Phase::rolling_back);

    Scene unknown = recording_commit();
    unknown.ok(Action::set_images_aside);
    CHECK(unknown.ends(Action::record_commit, ActionResult::unknown) ==
          Actions{Action::record_commit});
    CHECK(unknown.tell(Kind::downtime_limit_exceeded).empty());
    CHECK(unknown.ok(Action::record_commit) == Actions{Action::send_commit});
}

TEST_CASE("COMMIT that may be recorded is made void after some tries, here or at the destination",
          "[sim][source][commit]") {
    auto const unknown_each_time = [] {
        Scene scene = recording_commit();
        scene.ok(Action::set_images_aside);
        for (unsigned attempt = 1; attempt < tries_max; ++attempt) {
            CHECK(scene.ends(Action::record_commit, ActionResult::unknown) ==
                  Actions{Action::record_commit});
        }
        CHECK(scene.ends(Action::record_commit, ActionResult::unknown) ==
              Actions{Action::record_rollback});
        CHECK(scene.state.phase == Phase::rolling_back);
        CHECK(may_resolve(scene.state));
        return scene;
    };
    Actions const bring_back{Action::restore_images, Action::rollback_network};

    Scene here = unknown_each_time();
    CHECK(here.ok(Action::record_rollback) == bring_back);
    CHECK(here.ok(Action::restore_images) == Actions{Action::cancel_migration});
    here.drain();
    CHECK(here.state.outcome == Outcome::failed);
    CHECK(here.state.guest == Guest::source);

    Scene there = unknown_each_time();
    CHECK(there.ends(Action::record_rollback, ActionResult::unknown) ==
          Actions{Action::abort_destination});
    CHECK(there.ends(Action::abort_destination, ActionResult::unknown) ==
          Actions{Action::record_rollback});
    CHECK(there.ends(Action::record_rollback, ActionResult::failed) ==
          Actions{Action::abort_destination});
    CHECK(there.ok(Action::abort_destination) == bring_back);
    // A journal that cannot be written ends the migration too.
    for (Action action :
         {Action::restore_images, Action::rollback_network, Action::cancel_migration,
          Action::resume_source, Action::drop_storage, Action::drop_network}) {
        there.ok(action);
    }
    for (unsigned attempt = 1; attempt < tries_max; ++attempt) {
        CHECK(there.ends(Action::record_end, ActionResult::failed) == Actions{Action::record_end});
    }
    CHECK(there.ends(Action::record_end, ActionResult::failed) == Actions{Action::finish});

    Scene fenced = unknown_each_time();
    fenced.ends(Action::record_rollback, ActionResult::failed);
    fenced.ends(Action::abort_destination, ActionResult::unknown);
    fenced.ends(Action::record_rollback, ActionResult::failed);
    CHECK(fenced.tell(operator_resolved(Side::source)) == bring_back);
}

TEST_CASE("images that cannot be set aside keep the guest on the source", "[sim][source][commit]") {
    Scene scene = recording_commit();
    CHECK(scene.ends(Action::set_images_aside, ActionResult::failed) == Actions{Action::interrupt});
    CHECK(scene.ok(Action::record_commit) == Actions{Action::record_rollback});
    CHECK(scene.ok(Action::interrupt).empty());
    CHECK(scene.ok(Action::record_rollback) ==
          Actions{Action::restore_images, Action::rollback_network});
    CHECK(scene.ok(Action::restore_images) == Actions{Action::cancel_migration});
    scene.drain();
    CHECK(scene.state.outcome == Outcome::failed);
}

TEST_CASE("what keeps failing after the answer is given up, and the guest has moved",
          "[sim][source]") {
    Scene scene = at(Phase::committed);
    scene.ends(Action::send_commit, ActionResult::acked);
    Actions const order{Action::tombstone_disks, Action::settle_network, Action::quit_source,
                        Action::record_end, Action::finish};
    for (std::size_t index = 0; index + 1 < order.size(); ++index) {
        for (unsigned attempt = 1; attempt < tries_max; ++attempt) {
            CHECK(scene.ends(order[index], ActionResult::failed) == Actions{order[index]});
        }
        CHECK(scene.ends(order[index], ActionResult::unknown) == Actions{order[index + 1]});
    }
    scene.ok(Action::finish);
    CHECK(scene.state.phase == Phase::done);
    CHECK(scene.state.outcome == Outcome::moved);
}

TEST_CASE("in doubt: COMMIT is sent again when the peer is back, and its answer decides",
          "[sim][source][commit]") {
    Scene acked = at(Phase::in_doubt);
    CHECK(acked.state.outcome == Outcome::in_doubt);
    CHECK(exit_status(acked.state.outcome) == 4);
    CHECK(acked.state.in_flight.empty());
    CHECK(acked.tell(Kind::peer_back) == Actions{Action::send_commit});
    CHECK(acked.ends(Action::send_commit, ActionResult::unknown) == Actions{Action::send_commit});
    CHECK(acked.ends(Action::send_commit, ActionResult::acked) == Actions{Action::tombstone_disks});
    acked.drain();
    CHECK(acked.state.outcome == Outcome::moved);

    Scene aborted = at(Phase::in_doubt);
    aborted.tell(Kind::peer_back);
    CHECK(aborted.ends(Action::send_commit, ActionResult::aborted) ==
          Actions{Action::record_rollback});
    CHECK(aborted.ok(Action::record_rollback) ==
          Actions{Action::restore_images, Action::rollback_network});
    aborted.drain();
    CHECK(aborted.state.outcome == Outcome::failed);
    CHECK(aborted.state.guest == Guest::source);
}

TEST_CASE("in doubt: an operator decides if the destination does not answer",
          "[sim][source][commit]") {
    Scene to_source = at(Phase::in_doubt);
    CHECK(may_resolve(to_source.state));
    CHECK(to_source.tell(operator_resolved(Side::source)) == Actions{Action::record_rollback});

    Scene to_destination = at(Phase::in_doubt);
    CHECK(to_destination.tell(operator_resolved(Side::destination)) ==
          Actions{Action::tombstone_disks});

    Scene asked = at(Phase::committed);  // waits for the pending answer, which takes precedence
    CHECK(asked.tell(operator_resolved(Side::source)) == Actions{Action::interrupt});
    CHECK(asked.ok(Action::interrupt).empty());
    CHECK(asked.ends(Action::send_commit, ActionResult::acked) == Actions{Action::tombstone_disks});

    CHECK_FALSE(may_resolve(at(Phase::switching).state));
}

TEST_CASE("a restarted sidecar decides from journal and QEMU alone", "[sim][source][restart]") {
    struct Row {
        Record record;
        Qemu qemu;
        Phase phase;
        Actions first;
    };
    Actions const back{Action::cancel_migration, Action::rollback_network};
    Actions const names_first{Action::restore_images, Action::rollback_network};
    std::vector<Row> const rows{
        {Record::none, Qemu::running, Phase::idle, {}},
        {Record::ended, Qemu::running, Phase::idle, {}},
        {Record::begun, Qemu::running, Phase::rolling_back, back},
        {Record::begun, Qemu::copying, Phase::preparing, {Action::prepare_destination}},
        {Record::begun, Qemu::migrating, Phase::rolling_back, back},
        {Record::begun, Qemu::paused_pre_switchover, Phase::rolling_back, back},
        {Record::begun, Qemu::postmigrate, Phase::rolling_back, {Action::record_rollback}},
        {Record::begun, Qemu::gone, Phase::rolling_back, {Action::record_rollback}},
        {Record::committed, Qemu::postmigrate, Phase::in_doubt, {Action::set_images_aside}},
        {Record::committed,
         Qemu::paused_pre_switchover,
         Phase::in_doubt,
         {Action::set_images_aside}},
        {Record::committed, Qemu::gone, Phase::in_doubt, {Action::set_images_aside}},
        {Record::committed, Qemu::running, Phase::rolling_back, {Action::record_rollback}},
        {Record::committed, Qemu::copying, Phase::rolling_back, {Action::record_rollback}},
        {Record::rolled_back, Qemu::postmigrate, Phase::rolling_back, names_first},
        {Record::rolled_back, Qemu::copying, Phase::rolling_back, back},
        {Record::rolled_back, Qemu::gone, Phase::rolling_back, names_first},
    };
    for (Row const& row : rows) {
        INFO(name(row.record) << " " << name(row.qemu));
        Scene scene;
        CHECK(scene.tell(restarted(row.record, row.qemu)) == row.first);
        CHECK(scene.state.phase == row.phase);
    }
}

TEST_CASE("RAM that does not converge ends the migration while RAM is sent, and only then",
          "[sim][source]") {
    Scene scene = at(Phase::converging);
    scene.ok(Action::start_ram);
    Actions const asked = scene.tell(Kind::ram_not_converging);
    CHECK(std::ranges::count(asked, Action::cancel_migration) == 1);
    scene.drain();
    CHECK(scene.state.outcome == Outcome::failed);
    CHECK(scene.state.guest == Guest::source);
    CHECK(exit_status(scene.state.outcome) == 1);
    // QEMU stopped the guest at the same moment: RAM did converge.
    for (Phase phase : {Phase::stopped, Phase::switching, Phase::committed}) {
        INFO(name(phase));
        CHECK(at(phase).tell(Kind::ram_not_converging).empty());
    }
}

TEST_CASE("a source QEMU that dies before COMMIT is a crash at the source, after it a move",
          "[sim][source]") {
    for (Phase phase : {Phase::copying, Phase::converging, Phase::stopped, Phase::switching}) {
        INFO(name(phase));
        Scene scene = at(phase);
        scene.tell(Kind::qemu_gone);
        scene.drain();
        CHECK(scene.state.outcome == Outcome::failed);
        CHECK(scene.state.guest == Guest::crashed_source);
        CHECK(std::ranges::count(scene.log, Action::resume_source) == 0);
    }
    Scene scene = at(Phase::committed);
    CHECK(scene.tell(Kind::qemu_gone).empty());
    scene.ends(Action::send_commit, ActionResult::acked);
    scene.drain();
    CHECK(scene.state.outcome == Outcome::moved);
}
