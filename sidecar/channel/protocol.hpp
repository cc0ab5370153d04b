// The messages between sidecars, and on a control socket: every verb with its arguments and its
// answer, and the one place that parses them. Arriving messages are not trusted: from_json() checks
// every member against its limits. A value of a folder above this one (a Description, a report)
// travels as Json, and that folder parses it.
//
// The messages of one migration; A -> B is a request, and B answers each but those in brackets:
//
//   source sidecar             serve            destination sidecar
//     hello                     ->  peer          ->                   accepted, or refused
//     check {description}       ------------------>                    compares, changes nothing
//     hash_file {path}          ------------------>                    a base, or a read-only file
//     prepare {description,key} ------------------>                    disks, taps, QEMU, exports
//     send_file {piece}         ------------------>                    until prepare is answered
//        NBD: disks, from here until seal; RAM, from QEMU to QEMU
//     reexport                  ------------------>                    after a cut link
//     hash {disk, ranges}       ------------------>                    with --verify
//     conntrack {entries}       ------------------>
//        STOP at the source
//     fire {interfaces}         ------------------>                    its network takes over
//     seal                      ------------------>                    exports deleted
//        QEMU: completed; the source records COMMIT
//     [conntrack] [frames]      ------------------>                    frames that the source
//     caught commit {frames}           ------------------>                    records OWNER, starts
//     it frames, conntrack         ------------------>                    late frames and entries
//   or, instead of commit:
//     return_frames {last}      ------------------>                    returns the frames it caught
//     abort                     ------------------>                    undoes all, ABORTED
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/json.hpp"
#include "core/task.hpp"
#include "netmove/conntrack_entry.hpp"
#include "netmove/mover.hpp"
#include "netmove/tunnel/tunnel.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/channel/protocol_files.hpp"
#include "sidecar/channel/protocol_shared.hpp"
#include "sidecar/channel/survey.hpp"
#include "sidecar/channel/verb.hpp"
#include "sidecar/host/host_identity.hpp"
#include "sidecar/host/settings.hpp"
#include "storage/extents.hpp"

namespace sidecar::protocol {

using core::Json;
using core::Result;
using Bytes = std::vector<std::uint8_t>;

/// Version of the messages. Both sides must use the same; what a release may lack is a Feature.
constexpr int version = 2;

/// The role of the other end of a connection.
enum class Role : std::uint8_t {
    command,  ///< A command of this host, or `serve`, on the control socket.
    source,  ///< A remote sidecar that moves a guest to this host.
    replication_source,  ///< ... that keeps a copy of a guest on this host.
    vtep_source,  ///< ... whose guest this host sends frames to.
    anchor_source,  ///< ... whose guest has its anchor on this host.
    local,  ///< A process of this host, at the socket of `serve`.
    destination,  ///< The host that a source asks. It sends no requests itself.
    sidecar,  ///< The guest's sidecar, as a command sees it.
};
std::string_view name(Role role);
/// Whether `role` may send `verb`. Other requests end in an error of kind protocol.
bool may_ask(Role role, Verb verb);

/// What a release may not support. Both sides list theirs in the hello.
enum class Feature : std::uint8_t {
    verify,
    base,
    conntrack,
    replicate,
    vtep,
    anchor,
    local_address,
    stand_in,
    shared_storage,
    stopped_guest,  ///< Leaves a guest stopped that was stopped at the source.
    block_device,
    anchor_release,
    anchor_vxlan,
    guest_files,  ///< Takes files that the guest only reads.
};
using Features = std::set<Feature>;
/// The features of this release.
Features const& our_features();

/// A side of a migration.
enum class Owner : std::uint8_t { source, destination };
std::string_view name(Owner owner);

/// In which state a recovery point has the guest's file systems.
enum class ConsistencyKind : std::uint8_t {
    crash,  ///< As after a power failure, with every write that a flush confirmed.
    filesystem,  ///< The guest agent had frozen them.
    off,  ///< The guest was off.
};
std::string_view name(ConsistencyKind kind);
std::optional<ConsistencyKind> consistency_kind_from(std::string_view name);

// The messages that open a connection through `serve`.

struct Hello {
    std::string guest;
    std::string migration_id;
    Role role = Role::source;  ///< One of the four remote roles.
    Features features = our_features();
    [[nodiscard]] Json to_json() const;
    /// Fails with refused if the version differs, and names both.
    static Result<Hello> from_json(Json const& json);
};

/// The answer of `serve` to a source that it accepts. A source that it does not accept
/// gets a Refusal.
struct Welcome {
    Features features = our_features();
    [[nodiscard]] Json to_json() const;
    static Result<Welcome> from_json(Json const& json);
};

struct Refusal {
    std::string why;
    [[nodiscard]] Json to_json() const;
    /// None: the message is not a refusal.
    static std::optional<Refusal> from_json(Json const& json);
};

// Each request has its verb and its answer; both have to_json() and from_json().

struct Nothing {
    [[nodiscard]] Json to_json() const { return Json::object(); }
    static Result<Nothing> from_json(Json const&) { return Nothing{}; }
};

/// A request without arguments.
template <Verb V, class AnswerOfIt = Nothing>
struct Bare {
    static constexpr Verb verb = V;
    using Answer = AnswerOfIt;
    [[nodiscard]] Json to_json() const { return Json::object(); }
    static Result<Bare> from_json(Json const&) { return Bare{}; }
};

/// An answer, or a notification, that only people and reports read.
struct Document {
    Json json;
    [[nodiscard]] Json to_json() const { return json; }
    static Result<Document> from_json(Json const& json) { return Document{json}; }
};

// Migration.

/// Where a destination's QEMU receives disks and RAM.
struct DataPort {
    int port = 0;  ///< TCP: it listens there until `prepare`. 0: of an earlier release.
    core::PortRange range = {};  ///< One of these.
};

struct CheckAnswer {
    std::vector<std::optional<netmove::VxlanEnd>> vxlan = {};  ///< One for each interface.
    std::vector<bool> anchored_here = {};  ///< One for each interface: its anchor is on this host.
    int tunnel_port = 0;  ///< UDP, of an anchor's tunnels; 0: no interface needs one.
    HostIdentity host = {};  ///< Of the destination; its id is empty if its release sends none.
    bool has_registry = false;  ///< `serve` has a `--registry`.
    DataPort data = {};
    std::vector<std::string> warnings = {};  ///< What this host cannot give the guest.
    /// One for each file of the description: there is none at its place here.
    std::vector<bool> missing_files = {};
    [[nodiscard]] Json to_json() const;
    static Result<CheckAnswer> from_json(Json const& json);
};

struct Check {
    static constexpr Verb verb = Verb::check;
    using Answer = CheckAnswer;
    Json description;  ///< sidecar/guest/description.hpp
    std::optional<netmove::tunnel::Key> probe = {};  ///< See AnchorProbe.
    [[nodiscard]] Json to_json() const;
    static Result<Check> from_json(Json const& json);
};

/// The ports and exports of the destination's QEMU.
struct Endpoints {
    int nbd_port = 0;  ///< 0: the guest has no disks.
    int ram_port = 0;
    std::vector<std::string> exports;  ///< One for each disk.
    unsigned generation = 0;  ///< Counts the QEMUs that were started.
    int tunnel_port = 0;  ///< UDP, of an anchor's tunnels; 0: none begins here.
    /// One for each disk, or none: up to here it reads as zeroes where nothing was copied to it. 0:
    /// it may be anything, or QEMU says it.
    std::vector<std::uint64_t> zero_bytes = {};
    [[nodiscard]] Json to_json() const;
    static Result<Endpoints> from_json(Json const& json);
};

struct Prepare {
    static constexpr Verb verb = Verb::prepare;
    using Answer = Endpoints;
    Json description;
    std::string key;  ///< For RAM and NBD, in hex; empty: plaintext.
    /// Of the interfaces that an anchor moves: each is AnchorMove::to of one.
    std::vector<netmove::tunnel::Key> tunnels = {};
    int anchor_port = 0;  ///< TCP, of the `serve` that holds the anchor.
    [[nodiscard]] Json to_json() const;
    static Result<Prepare> from_json(Json const& json);
};

using Reexport = Bare<Verb::reexport, Endpoints>;

/// The hash of a file, or the progress of hashing it.
struct HashFileAnswer {
    std::string sha256;  ///< Not known yet if empty.
    std::uint64_t done_bytes = 0;  ///< Progress while sha256 is empty.
    [[nodiscard]] Json to_json() const;
    static Result<HashFileAnswer> from_json(Json const& json);
};

struct HashFile {
    static constexpr Verb verb = Verb::hash_file;
    using Answer = HashFileAnswer;
    std::string path;  ///< At the source, absolute.
    std::uint64_t offset = 0;
    std::uint64_t length = 0;  ///< 0: the whole file.
    [[nodiscard]] Json to_json() const;
    static Result<HashFile> from_json(Json const& json);
};

struct HashAnswer {
    std::string hash;
    [[nodiscard]] Json to_json() const;
    static Result<HashAnswer> from_json(Json const& json);
};

/// The ranges of a disk whose content at the destination the source wants to compare.
struct Hash {
    static constexpr Verb verb = Verb::hash;
    using Answer = HashAnswer;
    std::size_t disk = 0;  ///< Index in the description.
    std::vector<storage::Extent> ranges;
    /// {"disk": 0, "ranges": [OFFSET, LENGTH, OFFSET, LENGTH, ...]}
    [[nodiscard]] Json to_json() const;
    /// Checks shape and numbers; storage::check_ranges checks whether the disk has such ranges.
    static Result<Hash> from_json(Json const& json);
};

struct FireAnswer {
    std::uint64_t took_us = 0;  ///< From the request's arrival until the addresses had moved.
    [[nodiscard]] Json to_json() const;
    static Result<FireAnswer> from_json(Json const& json);
};

struct Fire {
    static constexpr Verb verb = Verb::fire;
    using Answer = FireAnswer;
    std::vector<netmove::GuestInterface> interfaces;
    int downtime_limit_ms = 0;  ///< The guest is stopped no longer than this before COMMIT.
    /// How many milliseconds ago the guest's MAC addresses moved, before this move. The hosts'
    /// clocks need not agree. None: of an earlier release.
    std::optional<std::vector<std::int64_t>> moved_ms_ago = {};
    [[nodiscard]] Json to_json() const;
    static Result<Fire> from_json(Json const& json);
};

struct FramesAnswer {
    std::uint64_t taken = 0;  ///< Frames of that NIC, in total.
    [[nodiscard]] Json to_json() const;
    static Result<FramesAnswer> from_json(Json const& json);
};

/// Caught frames of one NIC, as bytes after the JSON.
struct Frames {
    static constexpr Verb verb = Verb::frames;
    using Answer = FramesAnswer;
    std::size_t nic = 0;
    /// Index of the first frame in the NIC's count: a repeated message changes nothing.
    std::uint64_t first = 0;
    Bytes bytes;  ///< Made by netmove::to_wire().
    [[nodiscard]] Json to_json() const;
    static Result<Frames> from_json(Json const& json, Bytes bytes);
};

struct ReturnFramesAnswer {
    struct Part {
        std::size_t nic = 0;
        std::size_t size = 0;  ///< In `bytes`, after those of the parts before.
    };
    std::vector<Part> parts;
    bool more = false;
    Bytes bytes;
    [[nodiscard]] Json to_json() const;
    static Result<ReturnFramesAnswer> from_json(Json const& json, Bytes bytes);
};

struct ReturnFrames {
    static constexpr Verb verb = Verb::return_frames;
    using Answer = ReturnFramesAnswer;
    bool last = false;  ///< Nothing is requested afterwards.
    [[nodiscard]] Json to_json() const;
    static Result<ReturnFrames> from_json(Json const& json);
};

/// What the destination has done with the guest's tracked connections so far.
struct TrackingReport {
    struct Failure {
        std::string why;
        std::uint64_t entries = 0;
    };
    std::uint64_t restored = 0;
    std::vector<Failure> failed;
    std::vector<std::string> gateways;  ///< The source's gateways that exist here too.
    [[nodiscard]] Json to_json() const;
    static Result<TrackingReport> from_json(Json const& json);
};

struct Conntrack {
    static constexpr Verb verb = Verb::conntrack;
    using Answer = TrackingReport;
    /// Of the guest; in the first message only.
    std::optional<std::vector<netmove::GuestInterface>> interfaces;
    std::vector<std::string> gateways;  ///< Of the source's host; with `interfaces`.
    std::vector<Json> entries;  ///< netmove::ConntrackEntry, which needs the guest's addresses.
    std::vector<netmove::ConntrackKey> gone;
    [[nodiscard]] Json to_json() const;
    static Result<Conntrack> from_json(Json const& json);
};

using Seal = Bare<Verb::seal>;

/// The frames that the destination has delivered, and those that it has not.
struct FramesReport {
    std::uint64_t replayed = 0;
    std::uint64_t waited = 0;
    std::uint64_t late = 0;
    std::uint64_t lost = 0;
    [[nodiscard]] Json to_json() const;
    static Result<FramesReport> from_json(Json const& json);
};

/// Answers COMMIT and abort: what the destination has recorded.
struct Verdict {
    Owner owner = Owner::source;  ///< source: ABORTED is durable. destination: OWNER is.
    std::string why;  ///< ABORTED: the reason, as a sentence.
    FramesReport frames;
    TrackingReport conntrack;
    std::optional<double> resume_to_answer_ms;
    [[nodiscard]] Json to_json() const;
    static Result<Verdict> from_json(Json const& json);
};

/// Verdict::why of a destination that has no other reason.
inline constexpr std::string_view given_up_earlier = "it was given up earlier";

struct Commit {
    static constexpr Verb verb = Verb::commit;
    using Answer = Verdict;
    /// For each NIC, the number of frames that were sent before.
    std::vector<std::uint64_t> frames;
    [[nodiscard]] Json to_json() const;
    static Result<Commit> from_json(Json const& json);
};

using Abort = Bare<Verb::abort, Verdict>;

// Replication.

struct ReplicateBeginAnswer {
    unsigned number = 0;  ///< Number of the round, from 1 on.
    bool full = true;  ///< Everything must be sent.
    int nbd_port = 0;
    std::vector<std::string> exports;
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateBeginAnswer> from_json(Json const& json);
};

struct ReplicateBegin {
    static constexpr Verb verb = Verb::replicate_begin;
    using Answer = ReplicateBeginAnswer;
    Json description;
    unsigned base = 0;  ///< The point since which the source knows what was written; 0: none.
    std::string key;  ///< As Prepare::key.
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateBegin> from_json(Json const& json);
};

struct ReplicateComplete {
    static constexpr Verb verb = Verb::replicate_complete;
    using Answer = Nothing;
    unsigned number = 0;
    std::uint64_t age_ms = 0;
    std::uint64_t bytes = 0;
    ConsistencyKind consistency = ConsistencyKind::crash;
    std::string why;  ///< With `crash`: why not better.
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateComplete> from_json(Json const& json);
};

struct ReplicateHandOver {
    static constexpr Verb verb = Verb::replicate_hand_over;
    using Answer = Nothing;
    unsigned number = 0;
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateHandOver> from_json(Json const& json);
};

using ReplicateForget = Bare<Verb::replicate_forget>;

// The control socket.

struct Migrate {
    static constexpr Verb verb = Verb::migrate;
    using Answer = Document;  ///< The report; with check_only {"checked": [LINE, ...]}.
    MigrateOptions options;  ///< With `resume`, all other options are ignored.
    [[nodiscard]] Json to_json() const { return options.to_json(); }
    static Result<Migrate> from_json(Json const& json);
};

struct SetAnswer {
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    int downtime_limit_ms = 0;
    int converge_limit_s = 0;
    [[nodiscard]] Json to_json() const;
    static Result<SetAnswer> from_json(Json const& json);
};

struct Set {
    static constexpr Verb verb = Verb::set;
    using Answer = SetAnswer;
    MigrationChanges changes;
    [[nodiscard]] Json to_json() const { return changes.to_json(); }
    static Result<Set> from_json(Json const& json);
};

using Cancel = Bare<Verb::cancel>;

struct Resolve {
    static constexpr Verb verb = Verb::resolve;
    using Answer = Nothing;
    Owner to = Owner::source;
    [[nodiscard]] Json to_json() const;
    static Result<Resolve> from_json(Json const& json);
};

using Status = Bare<Verb::status, Document>;

struct ReplicateAnswer {
    std::string points_are;  ///< For people.
    Json point;  ///< With --once: the point that was created.
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateAnswer> from_json(Json const& json);
};

struct Replicate {
    static constexpr Verb verb = Verb::replicate;
    using Answer = ReplicateAnswer;
    ReplicationSettings settings;
    [[nodiscard]] Json to_json() const { return settings.to_json(); }
    static Result<Replicate> from_json(Json const& json);
};

struct ReplicateStop {
    static constexpr Verb verb = Verb::replicate_stop;
    using Answer = Nothing;
    bool forget = false;  ///< Also delete the copy.
    [[nodiscard]] Json to_json() const;
    static Result<ReplicateStop> from_json(Json const& json);
};

using Release = Bare<Verb::release>;

/// `serve` hands over a remote sidecar: after the answer the connection belongs to that peer.
struct Peer {
    static constexpr Verb verb = Verb::peer;
    using Answer = Nothing;
    std::string migration_id;
    std::string from;  ///< Its address, for the log.
    Role role = Role::source;
    Features features;
    [[nodiscard]] Json to_json() const;
    static Result<Peer> from_json(Json const& json);
};

struct Progress {
    static constexpr Verb verb = Verb::progress;
    using Answer = Nothing;
    Json line;
    [[nodiscard]] Json to_json() const { return line; }
    static Result<Progress> from_json(Json const& json) { return Progress{json}; }
};

// The requests that a handler receives, by the role of its other end.

using FromCommand =
    std::variant<Migrate, Set, Cancel, Resolve, Status, Replicate, ReplicateStop, Release, Peer>;
using FromSource =
    std::variant<Check, Survey, Heard, FindShared, Prepare, SendFile, Reexport, HashFile, Hash,
                 Fire, Frames, ReturnFrames, Conntrack, Seal, Commit, Abort>;
using FromReplicationSource =
    std::variant<ReplicateBegin, ReplicateComplete, ReplicateHandOver, ReplicateForget>;

/// A request, or a notification, whose arguments are not parsed yet.
struct Call {
    Verb verb = Verb::status;
    Json arguments;
    Bytes bytes;
};

/// Arguments, or an answer, ready to be sent.
struct Packed {
    Json json;
    Bytes bytes = {};
};

template <class T>
concept CarriesBytes =
    requires(T message) { message.bytes; } && std::same_as<decltype(T::bytes), Bytes>;

template <class T>
Packed pack(T message) {
    Packed made{message.to_json()};
    if constexpr (CarriesBytes<T>) made.bytes = std::move(message.bytes);
    return made;
}

template <class T>
Result<T> unpack(Json const& json, Bytes bytes) {
    if constexpr (CarriesBytes<T>) {
        return T::from_json(json, std::move(bytes));
    } else {
        return T::from_json(json);
    }
}

/// The call as one of the requests of `Variant`, checked by its from_json().
template <class Variant>
Result<Variant> parse(Call call) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
        Result<Variant> made =
            core::fail(core::Errc::protocol, "`{}` may not be asked here", name(call.verb));
        auto const try_one = [&]<class R>(std::type_identity<R>) {
            if (call.verb != R::verb) return;
            auto request = unpack<R>(call.arguments, std::move(call.bytes));
            if (request) {
                made = Variant(std::move(*request));
            } else {
                made = std::unexpected(std::move(request.error()));
            }
        };
        (try_one(std::type_identity<std::variant_alternative_t<I, Variant>>{}), ...);
        return made;
    }(std::make_index_sequence<std::variant_size_v<Variant>>{});
}

/// A handler's typed answer, packed.
template <class Answer>
core::Task<Result<Packed>> packed(core::Task<Result<Answer>> answer) {
    auto made = co_await std::move(answer);
    if (!made) co_return std::unexpected(std::move(made.error()));
    if constexpr (std::same_as<Answer, Packed>) {
        co_return std::move(*made);
    } else {
        co_return pack(std::move(*made));
    }
}

}  // namespace sidecar::protocol
