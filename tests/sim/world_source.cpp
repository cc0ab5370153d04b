// The source's half of the model world: its actions, QEMU, the sidecar's deaths, the operator.
// Part of world.hpp. A local action in flight may end ok, failed, or unknown having happened or
// not, and its sidecar may die with it having happened or not, all of it at any later moment.
#include "tests/sim/moves.hpp"

#include <algorithm>

namespace sim {

namespace {

using src::Action;
using Kind = src::Event::Kind;

/// Whether `action` runs at the peer: a request on the wire, ended by its reply or a time-out.
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

/// Whether `action` changes nothing in the world by itself.
bool only_tells(Action action) {
    return action == Action::check || action == Action::interrupt || action == Action::finish;
}

bool migration_active(SourceQemu qemu) {
    return qemu == SourceQemu::migrating || qemu == SourceQemu::stopping ||
           qemu == SourceQemu::pre_switchover || qemu == SourceQemu::device;
}

void resume(World& world) {
    world.source_qemu = SourceQemu::running;
    world.data_complete = false; // the guest writes again
}

/// QMP commands. Returns false when QEMU in its present state refuses.
bool qmp_takes_effect(World& world, Action action) {
    switch (action) {
        case Action::prepare_storage:
            world.source_storage = true;
            return world.source_qemu != SourceQemu::gone;
        case Action::start_ram:
            if (world.source_qemu != SourceQemu::running ||
                world.destination_qemu != DestinationQemu::waiting) {
                return false;
            }
            world.destination_qemu = DestinationQemu::receiving;
            world.source_qemu = SourceQemu::migrating;
            world.source_told = SourceQemu::migrating; // so that a failure is heard of as one
            return true;
        case Action::continue_migration:
            if (world.source_qemu != SourceQemu::pre_switchover) {
                return false;
            }
            world.source_qemu = SourceQemu::device;
            return true;
        case Action::cancel_migration:
            if (migration_active(world.source_qemu)) {
                resume(world);
            }
            return world.source_qemu != SourceQemu::gone;
        case Action::resume_source:
            if (world.source_qemu == SourceQemu::postmigrate) {
                resume(world);
            }
            return executes(world.source_qemu);
        case Action::quit_source:
            world.source_qemu = SourceQemu::gone;
            world.source_told = SourceQemu::gone;
            world.source_storage = false;
            return true;
        default:
            return false;
    }
}

/// Copies need a destination to write to; the last one also a guest that holds still.
bool copy_takes_effect(World& world, Action action) {
    bool const writable = world.destination_exports && takes_blocks(world.destination_qemu);
    if (action == Action::copy_disks) {
        return writable && executes(world.source_qemu);
    }
    bool const still = world.source_qemu == SourceQemu::pre_switchover ||
                       world.source_qemu == SourceQemu::device ||
                       world.source_qemu == SourceQemu::postmigrate;
    if (!writable || !still) {
        return false;
    }
    world.data_complete = true;
    return true;
}

/// Every record has its own place in the journal; the highest one counts.
void record(World& world, src::Record written) {
    world.source_journal = std::max(world.source_journal, written);
}

/// Does what `action` does. Returns false when it cannot happen as the world is.
bool takes_effect(World& world, Action action) {
    switch (action) {
        case Action::record_begin:
            record(world, src::Record::begun);
            return true;
        case Action::record_commit:
            record(world, src::Record::committed);
            return true;
        case Action::record_rollback:
            record(world, src::Record::rolled_back);
            return true;
        case Action::record_end:
            record(world, src::Record::ended);
            return true;
        case Action::prepare_network:
            world.source_movers = true;
            return true;
        case Action::list_final:
            return world.source_qemu == SourceQemu::pre_switchover;
        case Action::copy_disks:
        case Action::copy_final:
            return copy_takes_effect(world, action);
        case Action::fire_network:
            world.network_at = Side::destination;
            return true;
        case Action::rollback_network:
            world.network_at = Side::source;
            return true;
        case Action::drop_storage:
            world.source_storage = false;
            return true;
        case Action::drop_network:
        case Action::settle_network:
            world.source_movers = false;
            return true;
        case Action::tombstone_disks:
            world.tombstone = true;
            return true;
        default:
            return qmp_takes_effect(world, action);
    }
}

/// Where an action that has happened and not ended is kept; null for those that do both in one
/// step, because nobody but their own sidecar can see the difference.
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
    tell_source(next, src::action_ended(action, label.result), moves.mutation);
    return next;
}

void local_action_moves(Moves& moves, Action action) {
    World const& world = moves.from.world;
    auto const what = code(action);
    World after = world;
    bool* const bit = happened_bit(after, action);
    bool const split = bit != nullptr;
    bool const has_happened = split && *bit;
    bool const possible = has_happened || only_tells(action) || takes_effect(after, action);
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
    // Without a fault an action fails only for a reason its sidecar has heard, or will not hear.
    bool const fault = possible || world.source_told != world.source_qemu;
    end_action(moves, fault ? Nature::fault : Nature::healthy,
               {.what = what, .result = ActionResult::failed}, world);
}

/// Whether the destination works on `request`, or its answer is still on the way.
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

/// How `reply` ends what the source waits for; nothing when it waits for something else.
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
        phase == src::Phase::copying) {
        fault(Move::source_patience_over, Kind::peer_silent_too_long);
    }
    // The model has no rates: the verdict on RAM may come at any moment.
    if (converging) fault(Move::ram_not_converging, Kind::ram_not_converging);
    // An operator's word comes once, and never against a disk that carries the tombstone.
    if (!src::may_resolve(from.source) || from.world.fenced || from.world.tombstone) {
        return;
    }
    Node& fenced = moves.add(Nature::fault, {.move = Move::operator_fences_for_source});
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

src::Qemu qemu_found(SourceQemu qemu) {
    switch (qemu) {
        case SourceQemu::running:
            return src::Qemu::running;
        case SourceQemu::migrating:
            return src::Qemu::migrating;
        case SourceQemu::stopping:
        case SourceQemu::pre_switchover:
        case SourceQemu::device:
            return src::Qemu::paused_pre_switchover;
        case SourceQemu::postmigrate:
            return src::Qemu::postmigrate;
        case SourceQemu::gone:
            return src::Qemu::gone;
    }
    return src::Qemu::gone;
}

/// Its memory is lost.
Node& sidecar_dies(Moves& moves, Label label) {
    label.move = Move::source_sidecar_dies;
    Node& next = moves.add(Nature::fault, label);
    // Written while it copies, removed when it leaves that phase.
    next.world.copy_noted = moves.from.source.phase == src::Phase::copying;
    next.source = {};
    next.world.source_up = false;
    next.world.ram_started = false;
    next.world.continued = false;
    return next;
}

/// It dies with any of what is in flight having happened, and COMMIT perhaps still on its way to
/// disk.
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

/// Dead: the watchdog acts on what the journal says, and a new sidecar starts. What has completed
/// is continued only behind ROLLBACK, because COMMIT may still land.
void dead_sidecar_moves(Moves& moves) {
    World const& world = moves.from.world;
    auto const watchdog = [&](Move move) -> World& {
        return moves.add(Nature::healthy, {.move = move}).world;
    };
    bool const begun = world.source_journal == src::Record::begun;
    if (world.source_qemu != SourceQemu::postmigrate) {
        if (begun && migration_active(world.source_qemu) && !executes(world.source_qemu)) {
            resume(watchdog(Move::watchdog_resumes));
        }
    } else if (begun && moves.mutation == Mutation::watchdog_records_nothing) {
        resume(watchdog(Move::watchdog_resumes));
    } else if (begun) {
        record(watchdog(Move::watchdog_records), src::Record::rolled_back);
    } else if (world.source_journal == src::Record::rolled_back) {
        resume(watchdog(Move::watchdog_resumes));
    }
    auto const starts = [&](Move move, src::Qemu found) {
        Node& next = moves.add(Nature::heal, {.move = move});
        next.world.source_up = true;
        next.world.source_told = world.source_qemu;
        next.world.copy_noted = false;
        tell_source(next, src::restarted(world.source_journal, found), moves.mutation);
    };
    starts(Move::source_sidecar_starts, qemu_found(world.source_qemu));
    // It may have died before it had written anything down.
    if (world.copy_noted && begun && qemu_found(world.source_qemu) == src::Qemu::running) {
        starts(Move::source_sidecar_resumes, src::Qemu::copying);
    }
}

/// A write of a sidecar that died: whenever it likes, or never.
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

/// A host that starts guests asks the sidecar first: its journal is closed and no tombstone stands.
/// The mutation starts whatever disk it finds.
void host_moves(Moves& moves) {
    World const& world = moves.from.world;
    if (world.source_qemu != SourceQemu::gone) {
        return;
    }
    src::Phase const phase = moves.from.source.phase;
    bool const over = phase == src::Phase::done || phase == src::Phase::idle;
    bool const closed =
        world.source_journal == src::Record::none || world.source_journal == src::Record::ended;
    bool const allowed = world.source_up && over && closed && !world.tombstone;
    bool const stale = moves.mutation == Mutation::stale_disk_started &&
                       world.source_journal == src::Record::committed;
    if (allowed || stale) {
        World& next = moves.add(Nature::fault, {.move = Move::host_starts_guest}).world;
        resume(next);
        next.source_told = SourceQemu::running;  // a QEMU of its own: the sidecar starts with it
    }
}

/// Puts `request` on the wire. prepare and seal are asked once and answered by id, so whatever is
/// still on its way of them is of no more use; COMMIT, abort and their answers are kept however
/// late.
void send(World& world, Request request) {
    world.requests.erase(Request::prepare);
    world.requests.erase(Request::seal);
    for (Reply reply : {Reply::prepared, Reply::sealed, Reply::refused}) {
        world.replies.erase(reply);
    }
    world.requests.insert(request);
    world.commit_sent |= request == Request::commit;
}

/// What the sidecar hears next, QMP being in order: one rung of the ladder, or what ended it.
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
                hear(SourceQemu::stopping, Kind::stop_seen);
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
    src::Event heard = event;
    if (mutation == Mutation::source_resumes_on_silence &&
        event == src::action_ended(Action::send_commit, ActionResult::unknown)) {
        heard.result = ActionResult::aborted;
    }
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
    // Within copy_disks, whose connections to the destination's disks are dead. The weaker rules
    // are caught without it, in a third of the states.
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
    // Of a QEMU that was started anew it knows nothing.
    bool const peer_alive = peer == DestinationQemu::receiving || peer == DestinationQemu::loaded ||
                            peer == DestinationQemu::running;
    bool const notices = qemu != SourceQemu::pre_switchover;  // it waits there without looking
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
    }
    if (world.source_up && qemu != world.source_told) {
        tell_of_qemu(moves.add(Nature::healthy, {.move = Move::source_told}), moves.mutation);
    }
}

}  // namespace sim
