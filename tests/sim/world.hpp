// The model world in which the two migration machines are explored: two QEMUs, two journals, the
// network, leftovers on each side, and messages that are lost, repeated or late.
//
// Used by the explorer and the scenarios. A Node is the complete state; transitions() gives every
// next Node. A cut link has no bit of its own. Its effects on the machines are lost and late
// messages, a failed QEMU, and actions that end unknown at any moment.
#pragma once

#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"
#include "tests/sim/mutation.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace sim {

namespace src = sidecar::machine::source;
namespace dst = sidecar::machine::destination;
using sidecar::machine::ActionResult;
using sidecar::machine::EnumSet;
using sidecar::machine::Guest;
using sidecar::machine::Outcome;
using sidecar::machine::Side;

/// The source's QEMU. Its guest executes in `running` and `migrating`.
enum class SourceQemu : std::uint8_t {
    running,
    migrating,
    stopping,  ///< STOP emitted; QEMU flushes its disks.
    pre_switchover,  ///< Waits without limit for migrate-continue or migrate_cancel.
    device,  ///< Sends device state; then waits for the destination's acknowledgement.
    postmigrate,
    gone,
};

/// The destination's QEMU, started with `-S`. Its guest executes only in `running`.
enum class DestinationQemu : std::uint8_t {
    none,
    waiting,
    receiving,  ///< RAM has begun to arrive.
    loaded,
    running,
    stopped,  ///< Loaded, and its sidecar has left it stopped to its operator.
    gone,
    gone_waiting,  ///< Gone before it reported any RAM.
};

/// The source's disk images: whether a QEMU can open them by their names.
enum class Images : std::uint8_t {
    named,
    leaving,  ///< IMAGE.leaving-ID
    moved,  ///< IMAGE.moved-ID
};

/// The source's requests to the destination, and the replies.
enum class Request : std::uint8_t { prepare, seal, commit, abort };
enum class Reply : std::uint8_t { prepared, sealed, ack, aborted, refused };

struct World {
    SourceQemu source_qemu = SourceQemu::running;
    SourceQemu source_told = SourceQemu::running;  ///< What its sidecar knows of it.
    DestinationQemu destination_qemu = DestinationQemu::none;
    DestinationQemu destination_told = DestinationQemu::none;
    src::Record source_journal = src::Record::none;
    dst::Record destination_journal = dst::Record::none;
    EnumSet<Request> requests;  ///< On the wire.
    EnumSet<Reply> replies;  ///< On the wire.
    Side network_at = Side::source;
    bool source_up = true;
    bool destination_up = true;
    bool commit_in_air = false;  ///< The sidecar died; its COMMIT may still reach the disk.
    bool commit_sent = false;  ///< COMMIT was sent at least once.
    bool source_storage = false;  ///< Bitmaps, exports, NBD server at the source.
    bool source_movers = false;
    bool destination_made = false;  ///< Disks, taps, movers, keys exist at the destination.
    bool destination_exports = false;  ///< Writable exports at the destination.
    bool data_complete = false;  ///< The destination's disks equal the source's at STOP.
    Images images = Images::named;
    bool untidy = false;  ///< The source's sidecar has given up cleaning up.
    bool ram_started = false;  ///< start_ram is in flight, and has happened.
    bool continued = false;  ///< continue_migration is in flight, and has happened.
    bool copy_noted = false;  ///< The source's sidecar died while copying; its progress is noted.
    bool fenced = false;  ///< An operator has fenced the destination's host.
    bool requested = false;  ///< The one explored migration was requested.
    /// The source's sidecar is not connected to its QEMU: it receives and sends nothing.
    bool qmp_down = false;
    bool others_stopped = false;  ///< Others have stopped the guest at the source.
    /// The guest did not run at the check: the records of both sides say so.
    bool stopped_noted = false;
    bool continued_wrongly = false;  ///< A sidecar or a watchdog has continued a stopped guest.

    friend bool operator==(World const&, World const&) = default;
};

struct Node {
    src::State source;
    dst::State destination;
    World world;

    friend bool operator==(Node const&, Node const&) = default;
};

/// The kind of a step. Once faults have ceased, `heal` steps come first, then `healthy` ones.
enum class Nature : std::uint8_t { healthy, heal, fault };

enum class Move : std::uint8_t {
    migrate_requested,
    cancel_requested,
    downtime_limit_exceeded,
    source_patience_over,
    resume_requested,
    suspended_too_long,
    qmp_lost,
    qmp_back,
    qmp_silent_too_long,
    others_stop_guest,
    others_continue_guest,
    ram_not_converging,
    destination_patience_over,
    operator_fences_for_source,
    operator_resolves_to_destination,
    source_happens,
    source_ends,
    destination_ends,
    source_qemu_steps,
    source_qemu_fails,
    source_qemu_killed,
    source_told,
    destination_qemu_loads,
    destination_qemu_killed,
    destination_told,
    destination_qemu_silent,
    request_delivered,
    request_repeated,
    request_lost,
    reply_delivered,
    reply_repeated,
    reply_lost,
    peer_lost,
    peer_back,
    source_sidecar_dies,
    source_sidecar_starts,
    source_sidecar_resumes,
    source_asks_anew,
    destination_sidecar_dies,
    destination_sidecar_starts,
    late_write_lands,
    late_write_lost,
    watchdog_cancels,
    watchdog_records,
    watchdog_resumes,
    host_starts_guest,
};

/// One step of a trace: the move; its action, message or event; how it ended; and whether its
/// effect happened anyway (an `unknown` with the effect, or a death in between).
struct Label {
    Move move{};
    std::uint8_t what = 0;
    ActionResult result = ActionResult::ok;
    bool happened = false;
};

struct Transition {
    Nature nature;
    Label label;
    Node next;
};

/// Whether the guest runs when the migration is requested.
enum class Start : std::uint8_t { running, stopped };

/// The start of an exploration: the guest is on the source, nothing was requested.
[[nodiscard]] Node initial(Start start = Start::running);

/// Appends every possible step from `node` to `list`.
void transitions(Node const& node, Mutation mutation, std::vector<Transition>& list);

/// Gives one event to a machine and starts the actions that it asks for (requests are sent).
void tell_source(Node& node, src::Event const& event, Mutation mutation);
void tell_destination(Node& node, dst::Event const& event, Mutation mutation);

[[nodiscard]] inline bool executes(World const& world) {
    bool const may =
        world.source_qemu == SourceQemu::running || world.source_qemu == SourceQemu::migrating;
    return may && !world.others_stopped;
}
[[nodiscard]] inline bool has_guest(DestinationQemu qemu) {
    return qemu == DestinationQemu::running || qemu == DestinationQemu::stopped;
}
[[nodiscard]] inline bool is_owner(dst::Record record) {
    return record == dst::Record::owner || record == dst::Record::ended_owner;
}
[[nodiscard]] inline bool is_aborted(dst::Record record) {
    return record == dst::Record::aborted || record == dst::Record::ended_aborted;
}

/// A Node in 24 bytes, without loss.
using Packed = std::array<std::uint64_t, 3>;
[[nodiscard]] Packed pack(Node const& node);
[[nodiscard]] Node unpack(Packed const& packed);

[[nodiscard]] std::string describe(Label const& label);
[[nodiscard]] std::string describe(Node const& node);

}  // namespace sim
