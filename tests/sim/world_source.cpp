// The source's half of the model world: its actions, QEMU, the sidecar's deaths, the operator. Part
// of world.hpp. A local action in flight may end ok, failed, or unknown (with or without its
// effect). Its sidecar may die with or without the effect. All of this may happen at any later
// moment.
#include "sidecar/machine/watchdog.hpp"
#include "tests/sim/moves.hpp"

#include <algorithm>

namespace sim {

namespace {

using src::Action;
using Kind = src::Event::Kind;

/// Whether `action` runs at the peer: a request that ends by its reply or a timeout.
bool asks_peer(Action action) {
    return action == Action::prepare_destination || action == Action::seal_destination ||
           action == Action::send_commit || action == Action::abort_destination;
}

Request request_of(Action action) {
    switch (action) {
        case Action::prepare_destination:
            return Request::prepare;
        case Action::seal_destination:
            return Request::seal;
        case Action::send_commit:
            return Request::commit;
        default:
            return Request::abort;
    }
}

/// The bit that records that an action in flight has happened. Null for actions that happen and end
/// in one step, because only their own sidecar can see the difference.
bool* happened_bit(World& world, Action action) {
    switch (action) {
        case Action::start_ram:
            return &world.ram_started;
        case Action::continue_migration:
            return &world.continued;
        default:
            return nullptr;
    }
}

Node& end_action(Moves& moves, Nature nature, Label label, World const& world) {
    label.move = Move::source_ends;
    auto const action = static_cast<Action>(label.what);
    Node& next = moves.add(nature, label);
    next.world = world;
    if (bool* const bit = happened_bit(next.world, action)) {
        *bit = false;
    }
    if (action == Action::check && world.others_stopped) {
        next.world.stopped_noted = true;
        tell_source(next, src::event(Kind::guest_stopped_by_others), moves.mutation);
    }
    tell_source(next, src::action_ended(action, label.result), moves.mutation);
    return next;
}

/// Whether it is a QMP command, or needs one.
bool asks_qemu(Action action) {
    return action == Action::prepare_storage || action == Action::copy_disks ||
           action == Action::start_ram || action == Action::list_final ||
           action == Action::continue_migration || action == Action::cancel_migration ||
           action == Action::resume_source || action == Action::drop_storage;
}

void local_action_moves(Moves& moves, Action action) {
    World const& world = moves.from.world;
    auto const what = code(action);
    if (world.qmp_down && asks_qemu(action)) {
        // Its command may have reached QEMU before the loss. Then it has happened already, or
        // happens now.
        World after = world;
        bool* const bit = happened_bit(after, action);
        bool const has_happened = bit != nullptr && *bit;
        end_action(moves, Nature::healthy,
                   {.what = what, .result = ActionResult::unknown, .happened = has_happened},
                   world);
        return;
    }
    if (action == Action::resume_source && world.others_stopped && !executes(world) &&
        world.source_qemu == SourceQemu::running) {
        // query-status shows that another has stopped the guest: it is not continued.
        Node& told = moves.add(Nature::healthy, {.move = Move::source_ends,
                                                 .what = what,
                                                 .result = ActionResult::failed,
                                                 .happened = true});
        tell_source(told, src::event(Kind::guest_stopped_by_others), moves.mutation);
        tell_source(told, src::action_ended(action, ActionResult::failed), moves.mutation);
        return;
    }
    if (action == Action::copy_disks && moves.mutation == Mutation::none) {
        end_action(moves, Nature::fault, {.what = what, .result = ActionResult::link_lost}, world);
    }
    World after = world;
    bool* const bit = happened_bit(after, action);
    bool const split = bit != nullptr;
    bool const has_happened = split && *bit;
    bool const possible = has_happened || only_tells(action) || takes_effect(after, action);
    if (action == Action::set_images_aside && moves.mutation == Mutation::stale_disk_named) {
        after = world;
    }
    if (action == Action::start_ram && possible &&
        moves.mutation == Mutation::network_before_stop) {
        after.network_at = Side::destination;
    }
    if (possible && split && !has_happened) {
        *bit = true;
        moves.add(Nature::healthy, {.move = Move::source_happens, .what = what}).world = after;
    } else if (possible) {
        end_action(moves, Nature::healthy, {.what = what, .result = ActionResult::ok}, after);
        if (action != Action::finish) {
            end_action(moves, Nature::fault,
                       {.what = what, .result = ActionResult::unknown, .happened = true}, after);
        }
    }
    if (has_happened || action == Action::finish) {
        return;
    }
    end_action(moves, Nature::fault, {.what = what, .result = ActionResult::unknown}, world);
    // Without a fault an action fails only for a reason that its sidecar knows already, or that it
    // will never hear of.
    bool const fault = possible || world.source_told != world.source_qemu;
    end_action(moves, fault ? Nature::fault : Nature::healthy,
               {.what = what, .result = ActionResult::failed}, world);
}

/// Whether the destination works on `request`, or its reply is in flight.
bool answer_expected(Node const& node, Request request) {
    if (node.world.requests.contains(request) || !node.world.replies.empty()) {
        return true;
    }
    switch (request) {
        case Request::prepare:
            return node.destination.pending_request == dst::PendingRequest::prepare;
        case Request::seal:
            return node.destination.pending_request == dst::PendingRequest::seal;
        case Request::commit:
            return node.destination.pending_request == dst::PendingRequest::commit;
        case Request::abort:
            return node.destination.pending_request == dst::PendingRequest::abort;
    }
    return false;
}

void peer_action_moves(Moves& moves, Action action) {
    Nature const nature =
        answer_expected(moves.from, request_of(action)) ? Nature::fault : Nature::healthy;
    end_action(moves, nature, {.what = code(action), .result = ActionResult::unknown},
               moves.from.world);
}

/// How `reply` ends the source's wait; nothing if the source waits for something else.
struct Answer {
    bool fits = false;
    Action action{};
    ActionResult result{};
};

Answer answer_of(src::State const& state, Reply reply) {
    auto const waits = [&state](Action action) { return state.in_flight.contains(action); };
    switch (reply) {
        case Reply::prepared:
            return {waits(Action::prepare_destination), Action::prepare_destination,
                    ActionResult::ok};
        case Reply::sealed:
            return {waits(Action::seal_destination), Action::seal_destination, ActionResult::ok};
        case Reply::ack:
            return {waits(Action::send_commit), Action::send_commit, ActionResult::acked};
        case Reply::aborted:
            if (waits(Action::send_commit)) {
                return {true, Action::send_commit, ActionResult::aborted};
            }
            return {waits(Action::abort_destination), Action::abort_destination, ActionResult::ok};
        case Reply::refused:
            for (Action action : {Action::prepare_destination, Action::seal_destination,
                                  Action::abort_destination}) {
                if (waits(action)) {
                    return {true, action, ActionResult::failed};
                }
            }
            return {};
    }
    return {};
}

void reply_moves(Moves& moves) {
    for (Reply reply :
         {Reply::prepared, Reply::sealed, Reply::ack, Reply::aborted, Reply::refused}) {
        if (!moves.from.world.replies.contains(reply)) {
            continue;
        }
        auto const what = code(reply);
        moves.add(Nature::fault, {.move = Move::reply_lost, .what = what})
            .world.replies.erase(reply);
        if (!moves.from.world.source_up) {
            continue;
        }
        Answer const answer = answer_of(moves.from.source, reply);
        auto const deliver = [&](Node& next) {
            if (answer.fits) {
                tell_source(next, src::action_ended(answer.action, answer.result), moves.mutation);
            }
        };
        Node& once = moves.add(Nature::healthy, {.move = Move::reply_delivered, .what = what});
        once.world.replies.erase(reply);
        deliver(once);
        if (answer.fits && (reply == Reply::ack || reply == Reply::aborted)) {
            deliver(moves.add(Nature::fault, {.move = Move::reply_repeated, .what = what}));
        }
    }
}

void operator_moves(Moves& moves) {
    Node const& from = moves.from;
    src::Phase const phase = from.source.phase;
    if (!from.world.requested) {
        Node& next = moves.add(Nature::healthy, {.move = Move::migrate_requested});
        next.world.requested = true;
        tell_source(next, src::event(Kind::migrate_requested), moves.mutation);
    }
    auto const fault = [&](Move move, Kind kind) {
        moves.source_event(Nature::fault, {.move = move}, src::event(kind));
    };
    if (src::may_cancel(from.source)) fault(Move::cancel_requested, Kind::cancel_requested);
    bool const paused = phase == src::Phase::stopped || phase == src::Phase::switching;
    if (paused) fault(Move::downtime_limit_exceeded, Kind::downtime_limit_exceeded);
    bool const converging = phase == src::Phase::converging;
    if (converging || phase == src::Phase::checking || phase == src::Phase::preparing ||
        (phase == src::Phase::copying && !from.source.suspending)) {
        fault(Move::source_patience_over, Kind::peer_silent_too_long);
    }
    if (phase == src::Phase::suspended) {
        fault(Move::resume_requested, Kind::resume_requested);
        moves.source_event(Nature::healthy, {.move = Move::suspended_too_long},
                           src::event(Kind::suspended_too_long));
    }
    // The model has no rates: the verdict on RAM may come at any moment.
    if (converging) fault(Move::ram_not_converging, Kind::ram_not_converging);
    // An operator decides once, and never against a disk that has the tombstone.
    if (!src::may_resolve(from.source) || from.world.fenced || from.world.images == Images::moved) {
        return;
    }
    Node& fenced = moves.add(Nature::fault, {.move = Move::operator_fences_for_source});
    if (moves.mutation == Mutation::operator_fences_nothing) {
        tell_source(fenced, src::operator_resolved(Side::source), moves.mutation);
        return;
    }
    fenced.world.fenced = true;
    fenced.world.destination_up = false;
    fenced.destination = {};
    if (fenced.world.destination_qemu != DestinationQemu::none) {
        end_destination_qemu(fenced.world, DestinationQemu::gone);
    }
    tell_source(fenced, src::operator_resolved(Side::source), moves.mutation);
    if (is_owner(from.world.destination_journal)) {
        moves.source_event(Nature::fault, {.move = Move::operator_resolves_to_destination},
                           src::operator_resolved(Side::destination));
    }
}

/// The sidecar dies and its memory is lost.
Node& sidecar_dies(Moves& moves, Label label) {
    label.move = Move::source_sidecar_dies;
    Node& next = moves.add(Nature::fault, label);
    // The note is written during copying, and removed when that phase ends.
    next.world.copy_noted = moves.from.source.phase == src::Phase::copying ||
                            moves.from.source.phase == src::Phase::suspended;
    next.world.qmp_down = false;
    next.source = {};
    next.world.source_up = false;
    next.world.ram_started = false;
    next.world.continued = false;
    return next;
}

/// The sidecar dies. Each of the actions in flight may have happened, and COMMIT may still be on
/// its way to disk.
void death_moves(Moves& moves) {
    Node const& from = moves.from;
    std::vector<Action> pending;
    for (unsigned index = 0; index < src::action_count; ++index) {
        auto const action = static_cast<Action>(index);
        World after = from.world;
        bool* const bit = happened_bit(after, action);
        bool const open = from.source.in_flight.contains(action) && !asks_peer(action) &&
                          !only_tells(action) && (bit == nullptr || !*bit);
        if (open && takes_effect(after, action)) {
            pending.push_back(action);
        }
    }
    for (unsigned choice = 0; choice < 1U << pending.size(); ++choice) {
        Node& next = sidecar_dies(moves, {.what = static_cast<std::uint8_t>(choice)});
        for (std::size_t at = 0; at < pending.size(); ++at) {
            if ((choice >> at & 1U) != 0) {
                (void)takes_effect(next.world, pending[at]);
            }
        }
    }
    if (from.source.in_flight.contains(Action::record_commit) &&
        from.world.source_journal == src::Record::begun) {
        sidecar_dies(moves, {.happened = true}).world.commit_in_air = true;
    }
}

/// The watchdog renames the images back, then continues the guest.
void watchdog_resumes(World& world) {
    if (world.images == Images::leaving) {
        world.images = Images::named;
    }
    if (world.source_qemu == SourceQemu::postmigrate) {
        continue_guest(world);
    } else {
        resume(world);
    }
}

/// The sidecar is dead: the watchdog acts on the journal, and a new sidecar starts. A guest whose
/// migration completed is continued only after ROLLBACK, because COMMIT may still reach the disk.
void dead_sidecar_moves(Moves& moves) {
    World const& world = moves.from.world;
    auto const watchdog = [&](Move move) -> World& {
        return moves.add(Nature::healthy, {.move = move}).world;
    };
    using Rule = sidecar::machine::watchdog::Action;
    bool const ignores_commit = moves.mutation == Mutation::watchdog_ignores_commit &&
                                world.source_journal == src::Record::committed;
    auto rule = sidecar::machine::watchdog::next(
        ignores_commit ? src::Record::begun : world.source_journal, qemu_found(world),
        world.stopped_noted && moves.mutation != Mutation::watchdog_forgets_stopped);
    if (moves.mutation == Mutation::watchdog_leaves_switchover &&
        world.source_qemu == SourceQemu::pre_switchover) {
        rule = Rule::leave;
    }
    switch (rule) {
        case Rule::leave:
            break;
        case Rule::cancel_migration:
            watchdog_resumes(watchdog(Move::watchdog_cancels));
            break;
        case Rule::record_rollback:
            if (moves.mutation == Mutation::watchdog_records_nothing) {
                watchdog_resumes(watchdog(Move::watchdog_resumes));
            } else {
                record(watchdog(Move::watchdog_records), src::Record::rolled_back);
            }
            break;
        case Rule::resume_guest:
            watchdog_resumes(watchdog(Move::watchdog_resumes));
            break;
    }
    auto const starts = [&](Move move, src::Qemu found) {
        Node& next = moves.add(Nature::heal, {.move = move});
        next.world.source_up = true;
        next.world.source_told = world.source_qemu;
        next.world.copy_noted = false;
        // Open work is repeated in full; finished work stays as it is.
        next.world.untidy &= world.source_journal == src::Record::ended;
        bool const stopped = world.stopped_noted && world.others_stopped;
        tell_source(next, src::restarted(world.source_journal, found, stopped), moves.mutation);
    };
    bool const begun = world.source_journal == src::Record::begun;
    starts(Move::source_sidecar_starts, qemu_found(world));
    // The sidecar may have died before it wrote the note.
    bool const as_noted =
        world.source_qemu == SourceQemu::running && world.others_stopped == world.stopped_noted;
    if (world.copy_noted && begun && as_noted) {
        starts(Move::source_sidecar_resumes, src::Qemu::copying);
    }
}

/// The write of a sidecar that died: it happens at any later moment, or never.
void late_write_moves(Moves& moves) {
    if (!moves.from.world.commit_in_air) {
        return;
    }
    World& landed = moves.add(Nature::healthy, {.move = Move::late_write_lands}).world;
    landed.commit_in_air = false;
    record(landed, src::Record::committed);
    moves.add(Nature::healthy, {.move = Move::late_write_lost}).world.commit_in_air = false;
}

void sidecar_moves(Moves& moves) {
    Node const& from = moves.from;
    late_write_moves(moves);
    if (!from.world.source_up) {
        dead_sidecar_moves(moves);
        return;
    }
    death_moves(moves);
    if (from.source.peer_up && from.source.phase != src::Phase::idle) {
        moves.source_event(Nature::fault, {.move = Move::peer_lost}, src::event(Kind::peer_lost));
    } else if (!from.source.peer_up && from.world.destination_up) {
        moves.source_event(Nature::heal, {.move = Move::peer_back}, src::event(Kind::peer_back));
    }
}

/// Sends `request`. prepare and seal are asked once and answered by id, so their older messages
/// still in flight no longer matter. COMMIT, abort and their replies are kept however late.
void send(World& world, Request request) {
    world.requests.erase(Request::prepare);
    world.requests.erase(Request::seal);
    for (Reply reply : {Reply::prepared, Reply::sealed, Reply::refused}) {
        world.replies.erase(reply);
    }
    world.requests.insert(request);
    world.commit_sent |= request == Request::commit;
}

/// The next state that the sidecar hears of, in QMP's order: one step of the normal sequence, or
/// the one that ended it.
void tell_of_qemu(Node& next, Mutation mutation) {
    World& world = next.world;
    auto const hear = [&](SourceQemu qemu, Kind kind) {
        world.source_told = qemu;
        tell_source(next, src::event(kind), mutation);
    };
    if (world.source_qemu == SourceQemu::gone) {
        hear(SourceQemu::gone, Kind::qemu_gone);
    } else if (world.source_qemu < world.source_told) {
        bool const was_over = world.source_told >= SourceQemu::postmigrate;
        hear(world.source_qemu, was_over ? Kind::guest_resumed : Kind::migration_failed);
    } else {
        switch (world.source_told) {
            case SourceQemu::migrating:
                if (world.others_stopped) {
                    world.source_told = SourceQemu::stopping;  // QEMU emits STOP only if it ran
                } else {
                    hear(SourceQemu::stopping, Kind::stop_seen);
                }
                break;
            case SourceQemu::stopping:
                hear(SourceQemu::pre_switchover, Kind::pre_switchover_seen);
                break;
            case SourceQemu::device:
                hear(SourceQemu::postmigrate, Kind::migration_completed);
                break;
            default:
                world.source_told = SourceQemu::device;
                break;
        }
    }
}

}  // namespace

void tell_source(Node& node, src::Event const& event, Mutation mutation) {
    bool const after_stop =
        node.source.phase == src::Phase::stopped || node.source.phase == src::Phase::switching;
    if (mutation == Mutation::failed_migration_not_heard && after_stop &&
        event.kind == Kind::migration_failed) {
        return;
    }
    src::Event const heard = sim::heard(mutation, event);
    bool const last_try = heard.kind == Kind::action_ended && heard.result != ActionResult::ok &&
                          src::only_tidies_up(heard.action) &&
                          node.source.failures + 1U == src::tries_max;
    node.world.untidy |= last_try;
    src::Step step = src::step(node.source, heard);
    node.source = step.state;
    for (Action action : step.actions) {
        if (asks_peer(action)) {
            send(node.world, request_of(action));
        } else if (action == Action::interrupt) {
            tell_source(node, src::action_ended(action, ActionResult::ok), mutation);
        } else if (action == Action::record_commit &&
                   mutation == Mutation::commit_sent_before_durable) {
            send(node.world, Request::commit);
        }
    }
}

void source_moves(Moves& moves) {
    for (unsigned index = 0; index < src::action_count; ++index) {
        auto const action = static_cast<Action>(index);
        if (!moves.from.source.in_flight.contains(action)) {
            continue;
        }
        if (asks_peer(action)) {
            peer_action_moves(moves, action);
        } else {
            local_action_moves(moves, action);
        }
    }
    reply_moves(moves);
    // Within copy_disks, when the connections to the destination's disks are dead. The mutations
    // are caught without this move, in a third of the states.
    World const& world = moves.from.world;
    bool const copies = moves.from.source.in_flight.contains(Action::copy_disks);
    if (copies && moves.mutation == Mutation::none && ended(world.destination_qemu) &&
        !world.requests.contains(Request::prepare)) {
        moves.add(Nature::fault, {.move = Move::source_asks_anew})
            .world.requests.insert(Request::prepare);
    }
    if (world.source_up) {
        operator_moves(moves);
    }
    sidecar_moves(moves);
    monitor_moves(moves);
    host_moves(moves);
}

void source_qemu_moves(Moves& moves) {
    World const& world = moves.from.world;
    SourceQemu const qemu = world.source_qemu;
    DestinationQemu const peer = world.destination_qemu;
    auto const becomes = [&](SourceQemu next) {
        moves.add(Nature::healthy, {.move = Move::source_qemu_steps, .what = code(next)})
            .world.source_qemu = next;
    };
    // It has no connection to a QEMU that was restarted.
    bool const peer_alive =
        peer == DestinationQemu::receiving || peer == DestinationQemu::loaded || has_guest(peer);
    bool const notices = qemu != SourceQemu::pre_switchover;  // it waits there without checking
    if (qemu == SourceQemu::migrating && peer_alive) {
        becomes(SourceQemu::stopping);
    } else if (qemu == SourceQemu::stopping && peer_alive) {
        becomes(SourceQemu::pre_switchover);
    } else if (qemu == SourceQemu::device && peer_alive && peer != DestinationQemu::receiving) {
        becomes(SourceQemu::postmigrate);
    }
    if (migration_active(qemu)) {
        Nature const nature = !peer_alive && notices ? Nature::healthy : Nature::fault;
        resume(moves.add(nature, {.move = Move::source_qemu_fails}).world);
    }
    if (qemu != SourceQemu::gone) {
        World& next = moves.add(Nature::fault, {.move = Move::source_qemu_killed}).world;
        next.source_qemu = SourceQemu::gone;
        next.source_storage = false;
        next.qmp_down = false;
        next.others_stopped = false;
    }
    if (world.source_up && qemu != world.source_told && !world.qmp_down) {
        tell_of_qemu(moves.add(Nature::healthy, {.move = Move::source_told}), moves.mutation);
    }
}

}  // namespace sim
