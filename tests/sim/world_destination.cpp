// The destination's half of the model world: the effects of its actions, its QEMU, its sidecar's
// deaths.
//
// Part of world.hpp. As at the source, an action may end in every way, and its sidecar may die, at
// any moment. Only replies end at once, because a reply that is not sent is the same as one that is
// lost.
#include "tests/sim/moves.hpp"

namespace sim {

namespace {

using dst::Action;
using Kind = dst::Event::Kind;

/// Whether `action` is a reply, and which one.
struct ReplyOf {
    bool is_reply = false;
    Reply reply{};
};

ReplyOf reply_of(Action action) {
    switch (action) {
        case Action::reply_prepared:
            return {true, Reply::prepared};
        case Action::reply_sealed:
            return {true, Reply::sealed};
        case Action::reply_ack:
            return {true, Reply::ack};
        case Action::reply_aborted:
            return {true, Reply::aborted};
        case Action::reply_refused:
            return {true, Reply::refused};
        default:
            return {};
    }
}

bool prepare_takes_effect(World& world) {
    bool const anew =
        world.destination_qemu == DestinationQemu::gone_waiting && world.destination_made;
    if (world.destination_qemu != DestinationQemu::none && !anew) {
        return false;
    }
    world.destination_made = true;
    world.destination_exports = true;
    world.destination_qemu = DestinationQemu::waiting;
    world.destination_told = DestinationQemu::waiting;
    return true;
}

bool seal_takes_effect(World& world) {
    world.destination_exports = false;
    return takes_blocks(world.destination_qemu);
}

bool start_takes_effect(World& world) {
    if (world.destination_qemu == DestinationQemu::loaded) {
        world.destination_qemu = DestinationQemu::running;
        world.continued_wrongly |= world.stopped_noted;
    }
    return world.destination_qemu == DestinationQemu::running;
}

bool leave_takes_effect(World& world) {
    if (world.destination_qemu == DestinationQemu::loaded) {
        world.destination_qemu = DestinationQemu::stopped;
    }
    return world.destination_qemu == DestinationQemu::stopped;
}

/// Applies the effect of `action`. Returns false if it is impossible in this world.
bool takes_effect(World& world, Action action) {
    switch (action) {
        case Action::prepare:
            return prepare_takes_effect(world);
        case Action::seal:
            return seal_takes_effect(world);
        case Action::record_owner:
            world.destination_journal = dst::Record::owner;
            return true;
        case Action::start_guest:
            return start_takes_effect(world);
        case Action::leave_stopped:
            return leave_takes_effect(world);
        case Action::announce_network:
            world.network_at = Side::destination;
            return true;
        case Action::record_aborted:
            world.destination_journal = dst::Record::aborted;
            return true;
        case Action::destroy:
            end_destination_qemu(world, DestinationQemu::none);
            world.destination_told = DestinationQemu::none;
            world.destination_made = false;
            return true;
        case Action::record_end:
            world.destination_journal = is_owner(world.destination_journal)
                                            ? dst::Record::ended_owner
                                            : dst::Record::ended_aborted;
            return true;
        default:
            return true;
    }
}

void end_action(Moves& moves, Nature nature, Label label, World const& world) {
    label.move = Move::destination_ends;
    Node& next = moves.add(nature, label);
    next.world = world;
    tell_destination(next, dst::action_ended(static_cast<Action>(label.what), label.result),
                     moves.mutation);
}

void action_moves(Moves& moves, Action action) {
    World const& world = moves.from.world;
    auto const what = code(action);
    World after = world;
    bool const possible = takes_effect(after, action);
    if (possible) {
        end_action(moves, Nature::healthy, {.what = what, .result = ActionResult::ok}, after);
    }
    if (action == Action::finish) {
        return;
    }
    if (possible) {
        end_action(moves, Nature::fault,
                   {.what = what, .result = ActionResult::unknown, .happened = true}, after);
    }
    end_action(moves, Nature::fault, {.what = what, .result = ActionResult::unknown}, world);
    // Without a fault an action fails only for a reason that its sidecar knows already, or that it
    // will never hear of.
    bool const fault = possible || world.destination_told != world.destination_qemu;
    end_action(moves, fault ? Nature::fault : Nature::healthy,
               {.what = what, .result = ActionResult::failed}, world);
}

/// The sidecar dies; each of the actions in flight may have happened.
void death_moves(Moves& moves) {
    std::vector<Action> pending;
    for (unsigned index = 0; index < dst::action_count; ++index) {
        auto const action = static_cast<Action>(index);
        World after = moves.from.world;
        if (moves.from.destination.in_flight.contains(action) && takes_effect(after, action)) {
            pending.push_back(action);
        }
    }
    for (unsigned choice = 0; choice < 1U << pending.size(); ++choice) {
        Node& next = moves.add(Nature::fault, {.move = Move::destination_sidecar_dies,
                                               .what = static_cast<std::uint8_t>(choice)});
        next.destination = {};
        next.world.destination_up = false;
        for (std::size_t at = 0; at < pending.size(); ++at) {
            if ((choice >> at & 1U) != 0) {
                (void)takes_effect(next.world, pending[at]);
            }
        }
    }
}

dst::Event event_of(Request request, bool stopped) {
    switch (request) {
        case Request::prepare:
            return dst::prepare_requested(stopped);
        case Request::seal:
            return dst::event(Kind::seal_requested);
        case Request::commit:
            return dst::event(Kind::commit_received);
        case Request::abort:
            return dst::event(Kind::abort_requested);
    }
    return dst::event(Kind::abort_requested);
}

void request_moves(Moves& moves) {
    World const& world = moves.from.world;
    bool const stopped =
        world.stopped_noted && moves.mutation != Mutation::destination_forgets_stopped;
    for (Request request : {Request::prepare, Request::seal, Request::commit, Request::abort}) {
        if (!world.requests.contains(request)) {
            continue;
        }
        auto const what = code(request);
        moves.add(Nature::fault, {.move = Move::request_lost, .what = what})
            .world.requests.erase(request);
        if (!world.destination_up) {
            continue;
        }
        Node& once = moves.add(Nature::healthy, {.move = Move::request_delivered, .what = what});
        once.world.requests.erase(request);
        tell_destination(once, event_of(request, stopped), moves.mutation);
        if (request == Request::commit || request == Request::abort) {
            moves.destination_event(Nature::fault, {.move = Move::request_repeated, .what = what},
                                    event_of(request, stopped));
        }
    }
}

/// The destination's timeout: by a fault at any moment, and when the source's session is over.
void patience_moves(Moves& moves) {
    Node const& from = moves.from;
    dst::Event const silence = dst::event(Kind::peer_silent_too_long);
    if (from.destination.phase == dst::Phase::idle ||
        dst::step(from.destination, silence).state == from.destination) {
        return;
    }
    src::Phase const phase = from.source.phase;
    bool const over = from.world.source_up && from.world.requests.empty() &&
                      (phase == src::Phase::done || phase == src::Phase::idle);
    moves.destination_event(over ? Nature::healthy : Nature::fault,
                            {.move = Move::destination_patience_over}, silence);
    DestinationQemu const qemu = from.world.destination_qemu;
    if (qemu != DestinationQemu::none && !ended(qemu) && moves.mutation == Mutation::none) {
        moves.destination_event(Nature::fault, {.move = Move::destination_qemu_silent},
                                dst::event(Kind::qemu_silent_too_long));
    }
}

dst::Qemu qemu_found(DestinationQemu qemu) {
    switch (qemu) {
        case DestinationQemu::waiting:
        case DestinationQemu::receiving:
            return dst::Qemu::waiting;
        case DestinationQemu::loaded:
        case DestinationQemu::stopped:
            return dst::Qemu::loaded;
        case DestinationQemu::running:
            return dst::Qemu::running;
        case DestinationQemu::none:
        case DestinationQemu::gone:
        case DestinationQemu::gone_waiting:
            return dst::Qemu::gone;
    }
    return dst::Qemu::gone;
}

void sidecar_moves(Moves& moves) {
    World const& world = moves.from.world;
    if (world.destination_up) {
        death_moves(moves);
        return;
    }
    Node& next = moves.add(Nature::heal, {.move = Move::destination_sidecar_starts});
    next.world.destination_up = true;
    next.world.destination_told = world.destination_qemu;
    bool const known = world.destination_journal != dst::Record::none || world.destination_made;
    if (known) {
        tell_destination(next,
                         dst::restarted(world.destination_journal,
                                        qemu_found(world.destination_qemu), world.stopped_noted),
                         moves.mutation);
    }
}

}  // namespace

void end_destination_qemu(World& world, DestinationQemu end) {
    world.destination_qemu = end;
    world.destination_exports = false;
}

/// How QEMU died matters only to a machine that may still restart it. For the others both Nodes are
/// merged into one.
static void forget_what_it_waited_for(Node& node) {
    dst::Phase const phase = node.destination.phase;
    bool const matters = phase == dst::Phase::idle || phase == dst::Phase::preparing ||
                         phase == dst::Phase::prepared || phase == dst::Phase::qemu_lost;
    World& world = node.world;
    if (matters || world.destination_qemu != DestinationQemu::gone_waiting) {
        return;
    }
    if (world.destination_told == world.destination_qemu) {
        world.destination_told = DestinationQemu::gone;
    }
    world.destination_qemu = DestinationQemu::gone;
}

void tell_destination(Node& node, dst::Event const& event, Mutation mutation) {
    bool const takes_loaded_for_commit =
        mutation == Mutation::destination_starts_on_loaded && event.kind == Kind::qemu_loaded;
    dst::Step step = dst::step(node.destination, sim::heard(mutation, event));
    if (takes_loaded_for_commit) {
        step = dst::step(step.state, dst::event(Kind::commit_received));
    }
    node.destination = step.state;
    forget_what_it_waited_for(node);
    for (Action action : step.actions) {
        if (ReplyOf const found = reply_of(action); found.is_reply) {
            node.world.replies.insert(found.reply);  // sent at once; it may still get lost
            tell_destination(node, dst::action_ended(action, ActionResult::ok), mutation);
        } else if (action == Action::record_aborted &&
                   mutation == Mutation::aborted_sent_before_durable) {
            node.world.replies.insert(Reply::aborted);
        }
    }
}

void destination_moves(Moves& moves) {
    for (unsigned index = 0; index < dst::action_count; ++index) {
        auto const action = static_cast<Action>(index);
        if (moves.from.destination.in_flight.contains(action)) {
            action_moves(moves, action);
        }
    }
    request_moves(moves);
    patience_moves(moves);
    sidecar_moves(moves);
}

void destination_qemu_moves(Moves& moves) {
    World const& world = moves.from.world;
    DestinationQemu const qemu = world.destination_qemu;
    bool const receiving = qemu == DestinationQemu::receiving;
    if (receiving && world.source_qemu == SourceQemu::device) {
        moves.add(Nature::healthy, {.move = Move::destination_qemu_loads}).world.destination_qemu =
            moves.mutation == Mutation::destination_without_S ? DestinationQemu::running
                                                              : DestinationQemu::loaded;
    }
    if (qemu != DestinationQemu::none && !ended(qemu)) {
        auto const killed = [&](DestinationQemu end) {
            end_destination_qemu(
                moves.add(Nature::fault, {.move = Move::destination_qemu_killed}).world, end);
        };
        // QEMU reports incoming RAM a moment after the source has begun to send it.
        bool const untold = receiving && world.source_qemu == SourceQemu::migrating;
        bool const waiting = moves.from.destination.phase == dst::Phase::prepared &&
                             (qemu == DestinationQemu::waiting || untold);
        if (waiting) {
            killed(DestinationQemu::gone_waiting);
        }
        if (!waiting || untold) {
            killed(DestinationQemu::gone);
        }
    }
    if (!world.destination_up || qemu == world.destination_told) {
        return;
    }
    Node& next = moves.add(Nature::healthy, {.move = Move::destination_told});
    next.world.destination_told = qemu;
    if (ended(qemu)) {
        bool const waited = qemu == DestinationQemu::gone_waiting;
        tell_destination(next, dst::qemu_gone(waited ? dst::Qemu::waiting : dst::Qemu::gone),
                         moves.mutation);
    } else if (qemu == DestinationQemu::loaded) {
        tell_destination(next, dst::event(Kind::qemu_loaded), moves.mutation);
    }
}

}  // namespace sim
