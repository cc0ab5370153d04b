// The whole model world: all steps out of a Node, packing, and the text of a trace.
#include "tests/sim/world.hpp"

#include "tests/sim/moves.hpp"

namespace sim {

namespace {

/// Writes or reads fields of a few bits each, one after the other; both directions share one list
/// of fields.
class Packer {
public:
    Packed words{};

    void field(std::uint64_t value, unsigned bits) {
        if (used_ + bits > 64) {
            ++word_;
            used_ = 0;
        }
        words.at(word_) |= value << used_;
        used_ += bits;
    }

private:
    unsigned word_ = 0;
    unsigned used_ = 0;
};

class Unpacker {
public:
    explicit Unpacker(Packed const& words) : words_(words) {}

    std::uint64_t field(unsigned bits) {
        if (used_ + bits > 64) {
            ++word_;
            used_ = 0;
        }
        std::uint64_t const mask = (std::uint64_t{1} << bits) - 1;
        std::uint64_t const value = (words_.at(word_) >> used_) & mask;
        used_ += bits;
        return value;
    }

private:
    Packed const& words_;
    unsigned word_ = 0;
    unsigned used_ = 0;
};

/// Visits every field of `node` with its width in bits: the one list that pack and unpack share.
template <typename N, typename Visit>
void each_field(N& node, Visit visit) {
    auto& s = node.source;
    visit(s.phase, 4), visit(s.outcome, 3), visit(s.guest, 3), visit(s.record, 3);
    visit(s.operator_decision, 2), visit(s.in_flight, src::action_count), visit(s.resources, 6);
    visit(s.peer_up, 1), visit(s.pre_switchover, 1), visit(s.completed, 1), visit(s.sealed, 1),
        visit(s.cancelled, 1);
    visit(s.commit_unknown, 1), visit(s.commit_sent, 1), visit(s.void_commit, 1);
    visit(s.rollback_failed, 1), visit(s.destination_aborted, 1), visit(s.guest_ran, 1);
    visit(s.qemu_gone, 1), visit(s.images_aside, 1), visit(s.tombstoned, 1);
    visit(s.failures, 2), visit(s.qmp_up, 1), visit(s.qmp_silent, 1);
    visit(s.guest_stopped, 1), visit(s.suspending, 1);
    auto& d = node.destination;
    visit(d.phase, 4), visit(d.record, 3), visit(d.in_flight, dst::action_count);
    visit(d.pending_request, 3), visit(d.loaded, 1), visit(d.exports_gone, 1),
        visit(d.qemu_gone, 1);
    visit(d.owner_unknown, 1), visit(d.destroyed, 1), visit(d.announced, 1), visit(d.stopped, 1);
    auto& w = node.world;
    visit(w.source_qemu, 3), visit(w.source_told, 3), visit(w.destination_qemu, 3);
    visit(w.destination_told, 3), visit(w.source_journal, 3), visit(w.destination_journal, 3);
    visit(w.ram_started, 1), visit(w.continued, 1);
    visit(w.requests, 4), visit(w.replies, 5), visit(w.network_at, 1), visit(w.source_up, 1);
    visit(w.destination_up, 1), visit(w.commit_in_air, 1), visit(w.commit_sent, 1),
        visit(w.source_storage, 1);
    visit(w.source_movers, 1), visit(w.destination_made, 1), visit(w.destination_exports, 1);
    visit(w.data_complete, 1), visit(w.images, 2), visit(w.untidy, 1), visit(w.fenced, 1),
        visit(w.requested, 1), visit(w.copy_noted, 1), visit(w.qmp_down, 1),
        visit(w.others_stopped, 1);
    visit(w.stopped_noted, 1), visit(w.continued_wrongly, 1);
}

template <typename T>
std::uint64_t bits_of(T const& value) {
    return static_cast<std::uint64_t>(value);
}
template <typename E>
std::uint64_t bits_of(EnumSet<E> const& value) {
    return value.bits();
}
template <typename T>
void from_bits(T& value, std::uint64_t bits) {
    value = static_cast<T>(bits);
}
template <typename E>
void from_bits(EnumSet<E>& value, std::uint64_t bits) {
    for (unsigned index = 0; index < 32; ++index) {
        if ((bits >> index & 1U) != 0) {
            value.insert(static_cast<E>(index));
        }
    }
}

/// In the order of Move.
constexpr std::array<std::string_view, 46> move_names{
    "operator: migrate",
    "operator: cancel",
    "the pause limit is exceeded",
    "source sidecar: peer silent too long",
    "operator: migrate --resume",
    "source sidecar: suspended too long",
    "source sidecar: QMP lost",
    "source sidecar: QMP back",
    "source sidecar: QMP silent too long",
    "another stops the guest at the source",
    "another continues the guest at the source",
    "source sidecar: RAM does not converge",
    "destination sidecar: peer silent too long",
    "operator fences the destination: to source",
    "operator: to destination",
    "source: happens:",
    "source: ended:",
    "destination: ended:",
    "source QEMU becomes",
    "source QEMU: migration fails, guest restarts",
    "kill -9 source QEMU",
    "source sidecar hears of its QEMU",
    "destination QEMU has loaded the stream",
    "kill -9 destination QEMU",
    "destination sidecar hears of its QEMU",
    "destination sidecar: QMP silent too long",
    "request arrives:",
    "request arrives, and will again:",
    "request lost:",
    "reply arrives:",
    "reply arrives, and will again:",
    "reply lost:",
    "source sidecar: peer lost",
    "source sidecar: peer back",
    "kill -9 source sidecar",
    "source sidecar starts",
    "source sidecar starts, and goes on copying",
    "source sidecar: the disks are lost, prepare again",
    "kill -9 destination sidecar",
    "destination sidecar starts",
    "the dead sidecar's COMMIT reaches the disk",
    "the dead sidecar's COMMIT never reaches the disk",
    "watchdog cancels the migration",
    "watchdog records ROLLBACK",
    "watchdog resumes the guest",
    "source host starts the guest from its disk",
};
static_assert(move_names.size() == static_cast<std::size_t>(Move::host_starts_guest) + 1);

constexpr std::array<std::string_view, 7> source_qemu_names{
    "running", "migrating", "stopping", "pre_switchover", "device", "postmigrate", "gone"};
constexpr std::array<std::string_view, 8> destination_qemu_names{
    "none", "waiting", "receiving", "loaded", "running", "stopped", "gone", "gone_waiting"};
constexpr std::array<std::string_view, 4> request_names{"prepare", "seal", "commit", "abort"};
constexpr std::array<std::string_view, 5> reply_names{"prepared", "sealed", "ack", "aborted",
                                                      "refused"};

std::string action_result_of(std::string_view action, Label const& label) {
    std::string text{action};
    (text += ' ') += name(label.result);
    if (label.result == ActionResult::unknown) {
        text += label.happened ? " (it happened)" : " (it did not happen)";
    }
    return text;
}

/// The action, message or event that a label is about; empty for most.
std::string subject(Label const& label) {
    switch (label.move) {
        case Move::source_happens:
            return std::string(name(static_cast<src::Action>(label.what)));
        case Move::source_ends:
            return action_result_of(name(static_cast<src::Action>(label.what)), label);
        case Move::destination_ends:
            return action_result_of(name(static_cast<dst::Action>(label.what)), label);
        case Move::source_qemu_steps:
            return std::string(source_qemu_names.at(label.what));
        case Move::request_delivered:
        case Move::request_repeated:
        case Move::request_lost:
            return std::string(request_names.at(label.what));
        case Move::reply_delivered:
        case Move::reply_repeated:
        case Move::reply_lost:
            return std::string(reply_names.at(label.what));
        case Move::source_sidecar_dies:
            if (label.happened) {
                return "with its COMMIT on the way to disk";
            }
            return label.what != 0 ? "right after what it was doing happened" : "";
        case Move::destination_sidecar_dies:
            return label.what != 0 ? "right after what it was doing happened" : "";
        default:
            return "";
    }
}

} // namespace

Node initial(Start start) {
    Node node;
    node.world.others_stopped = start == Start::stopped;
    return node;
}

void transitions(Node const& node, Mutation mutation, std::vector<Transition>& list) {
    Moves moves{.from = node, .mutation = mutation, .list = list};
    source_moves(moves);
    destination_moves(moves);
    source_qemu_moves(moves);
    destination_qemu_moves(moves);
}

Packed pack(Node const& node) {
    Packer packer;
    each_field(node,
               [&packer](auto const& value, unsigned bits) { packer.field(bits_of(value), bits); });
    return packer.words;
}

Node unpack(Packed const& packed) {
    Unpacker unpacker(packed);
    Node node;
    each_field(node, [&unpacker](auto& value, unsigned bits) {
        value = {};
        from_bits(value, unpacker.field(bits));
    });
    return node;
}

std::string describe(Label const& label) {
    std::string text{move_names.at(code(label.move))};
    if (std::string const about = subject(label); !about.empty()) {
        text += ' ';
        text += about;
    }
    return text;
}

std::string describe(Node const& node) {
    World const& world = node.world;
    std::string text = "    source       ";
    text += world.source_up ? describe(node.source) : "(down)";
    text += "\n    destination  ";
    text += world.destination_up ? describe(node.destination) : "(down)";
    text += "\n    world        source_qemu=";
    text += source_qemu_names.at(code(world.source_qemu));
    text += " destination_qemu=";
    text += destination_qemu_names.at(code(world.destination_qemu));
    (text += " source_journal=") += name(world.source_journal);
    (text += " destination_journal=") += name(world.destination_journal);
    (text += " network_at=") += name(world.network_at);
    auto const flag = [&text](bool set, std::string_view word) {
        if (set) {
            (text += ' ') += word;
        }
    };
    flag(world.commit_in_air, "commit_in_air");
    flag(world.source_storage, "source_storage");
    flag(world.source_movers, "source_movers");
    flag(world.destination_made, "destination_made");
    flag(world.destination_exports, "destination_exports");
    flag(world.data_complete, "data_complete");
    flag(world.images == Images::leaving, "images_leaving");
    flag(world.images == Images::moved, "images_moved");
    flag(world.untidy, "untidy");
    flag(world.copy_noted, "copy_noted");
    flag(world.fenced, "fenced");
    flag(world.qmp_down, "qmp_down");
    flag(world.others_stopped, "others_stopped");
    flag(world.stopped_noted, "stopped_noted");
    flag(world.continued_wrongly, "continued_wrongly");
    for (unsigned index = 0; index < request_names.size(); ++index) {
        flag(world.requests.contains(static_cast<Request>(index)), request_names.at(index));
    }
    for (unsigned index = 0; index < reply_names.size(); ++index) {
        flag(world.replies.contains(static_cast<Reply>(index)), reply_names.at(index));
    }
    return text;
}

} // namespace sim
