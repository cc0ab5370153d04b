// Mirror: the source's half of moving a guest's disks, for one migration. The driver's StorageMover
// calls it phase by phase; bulk data goes source image (raw: read here; else by QEMU's NBD) -> here
// -> NBD -> destination QEMU and never to the driver.
//
// Rounds of dirty bitmaps, as in docs/architecture.md: bitmap b(k+1) starts on every disk in one
// transaction while b(k) goes on recording, so at any moment the older of the two holds everything
// that is dirty: a failed round leaves only the blocks of its bitmap to copy. b(k) is removed only
// after the destination has flushed what was copied for it. The newest bitmap is exported and
// opened as soon as it exists: when the guest stops, no QMP command is needed. Exports are deleted
// in QEMU before our ends of them are closed (see Nbd::close).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/sync.hpp"
#include "storage/extents.hpp"

namespace qmp {
class Client;
}

namespace storage {

class BlockTable;

/// As long as the sidecar waits for its peer.
constexpr core::milliseconds default_link_patience{30'000};

/// One disk of the guest.
struct Disk {
    std::string name;  ///< For people: "drive0".
    std::string node;  ///< The node the guest writes to (top of its chain).
    std::string format;  ///< raw, qcow2; for the report.
    std::uint64_t virtual_bytes = 0;
    std::string export_name;  ///< At the destination.
    /// For --verify: of that many bytes, empty. Null: nothing is hashed.
    std::shared_ptr<BlockTable> table = {};
    /// Images of its chain above the base that the destination's disk has below it, too: only what
    /// they hold is copied at first. The chain must not change meanwhile. 0: there is no base.
    unsigned layers_above_base = 0;
    std::string base_node = {};  ///< With a base and a table: a node over the base.
    /// Up to here the destination's disk reads as zeroes when the copy begins, whatever its QEMU
    /// says of it: of a block device QEMU says that all of it is data.
    std::uint64_t target_zero_bytes = 0;
};

/// The destination's NBD server.
struct Destination {
    std::string host;
    std::string port;
    std::string psk_username;
    std::string psk_file;  ///< Empty: plaintext.
};

/// How far the bulk pass of a disk has come: all that another sidecar, after this one was killed,
/// must know to go on beside the bitmaps, which QEMU keeps.
struct BulkProgress {
    bool done = false;
    std::uint64_t offset = 0;  ///< Everything before it is acknowledged by the destination,
    std::uint64_t flushed_offset = 0;  ///< and before this one outlives its QEMU.
    std::uint64_t copied_bytes = 0;  ///< For the report: data that has travelled.
};

/// Of all disks, and which bitmap holds what they owe beside.
struct CopyProgress {
    unsigned round = 0;
    unsigned generation = 0;  ///< Of the destination's QEMU that took it; see Reexported.
    std::vector<BulkProgress> disks;
};

/// The destination's disks, offered anew.
struct Reexported {
    std::string port = {};  ///< Empty: the one it was.
    /// Of its QEMU, counted: one that was started again has lost what its predecessor had not
    /// flushed, but for raw images, which the kernel keeps.
    unsigned generation = 0;
};

struct MirrorOptions {
    std::string directory;  ///< Ours alone (0700): the NBD socket is made in it. At most 80
                            ///< characters.
    /// Names this migration: bitmaps and exports are "sidecar-ID-...". Letters, digits, '-',
    /// '.', '_'.
    std::string migration_id;
    core::milliseconds downtime_limit{300};  ///< What the last delta and its flush may take while
                                             ///< it is stopped.
    std::uint64_t bandwidth_bytes_per_second = 0;  ///< 0: no limit. Not applied to the last delta.
    unsigned connections = 0;  ///< To each disk of the destination; 0: our
                               ///< default.
    /// Asks the destination for Target::reexport() after its connections were cut. Empty: a cut
    /// ends the copy.
    std::function<core::Task<core::Result<Reexported>>(core::Deadline)> reexport;
    unsigned generation = 0;  ///< Of the destination's QEMU when prepare() is called.
    /// How long the copy waits for a destination whose connections were cut.
    core::milliseconds link_timeout = default_link_patience;
    /// Of an earlier Mirror of this migration_id: prepare() then goes on with the bitmap it names,
    /// and begins anew when that is not the oldest there is any more. The destination must have
    /// been made to forget the earlier one's connections (Target::renew). None: a new copy.
    std::optional<CopyProgress> resume;
    /// Asks the destination for Hasher::hash() of a disk, by its index. With a table for every disk
    /// it makes the mirror verify what arrived; empty: it does not.
    std::function<core::Task<core::Result<std::string>>(std::size_t disk,
                                                        std::vector<Extent> ranges, core::Deadline)>
        hash;
    pid_t qemu = 0;  ///< The source's QEMU, to see which files it has open; 0: the process at
                     ///< the other end of the client's socket.
    bool images_by_nbd = false;  ///< Raw images too are read through QEMU, as all others are.
    std::size_t in_flight_bytes = 0;  ///< 0: by the round trip. limits::in_flight_bytes_max bounds
                                      ///< it.
};

/// How far the disks are from being ready for the stop.
struct ConvergenceReport {
    std::uint64_t delta_bytes = 0;  ///< Dirty now, all disks.
    std::uint64_t hot_bytes = 0;  ///< The part of it that was dirty in an earlier round too.
    core::milliseconds predicted{0};  ///< What copy_final() would take now: delta over rate, flush,
                                      ///< RTT.
    core::Clock::duration predicted_copy{};  ///< The part of it that is the delta.
    std::uint64_t next_round_bytes =
        0;  ///< The delta without hot blocks that may wait for the end.
    core::Clock::duration next_round_copy{};  ///< What copying these would take.
    std::uint64_t rate_bytes_per_second = 0;  ///< Measured in the last pass.
    std::uint64_t dirty_bytes_per_second = 0;  ///< How fast the guest dirties.
    bool converged = false;  ///< predicted <= downtime_limit.
    bool converging = true;  ///< False: the delta did not shrink for so many rounds, see
                             ///< set_stagnant_rounds().
};

enum class MirrorPhase : std::uint8_t {
    idle,
    preparing,
    bulk,
    rounds,
    verifying,  ///< Everything, once; then rounds again.
    converged,
    final_delta,
    copied,
    dropped
};
std::string_view name(MirrorPhase phase);

/// `done_bytes`, `total_bytes` and `fraction` never decrease; `eta` never increases.
struct Progress {
    MirrorPhase phase = MirrorPhase::idle;
    std::uint64_t done_bytes = 0;  ///< Of total_bytes; holes count as done when passed over.
    std::uint64_t total_bytes = 0;  ///< Virtual bytes of all disks (twice when they are
                                    ///< verified), plus what the rounds found dirty.
    std::uint64_t copied_bytes = 0;  ///< Data that travelled.
    double fraction = 0;
    std::uint64_t rate_bytes_per_second = 0;  ///< Of copied_bytes, over the last seconds.
    std::optional<core::milliseconds> eta;  ///< Until the disks are near. None: not known yet.
};

struct RoundReport {
    std::uint64_t dirty_bytes = 0;  ///< By the bitmap; for the bulk pass the data extents.
    std::uint64_t copied_bytes = 0;  ///< Sent as data; the rest were zeroes.
    std::uint64_t left_out_bytes = 0;  ///< Left to a later round: dirty again already, or hot.
    core::milliseconds took{0};
};

struct DiskReport {
    std::string name;
    std::uint64_t virtual_bytes = 0;
    std::uint64_t copied_bytes = 0;
    std::vector<RoundReport> rounds;  ///< The bulk pass first.
    std::uint64_t final_bytes = 0;  ///< Copied while the guest was stopped.
    std::string hash;  ///< Of the whole disk, once it is known to be identical; see CombinedHash.
    bool reads_image = false;  ///< The image itself was read, not QEMU's NBD export.
    bool has_base = false;
    std::uint64_t base_bytes = 0;  ///< Data not sent, because the base holds it (since the copy was
                                   ///< resumed, or went back).
    std::uint64_t resumed_at_bytes = 0;  ///< An earlier sidecar's copy was gone on with from here.
};

struct VerifyReport {
    bool identical = false;  ///< All of it, the last delta included.
    std::uint64_t bytes = 0;  ///< Of all disks.
    std::string hash;  ///< Of each disk, with spaces between.
    core::milliseconds full{0};  ///< The pass over everything.
    double final_ms = 0;  ///< The last delta, while the guest was stopped.
    std::string difference;  ///< The disk that was not identical, and where. Empty: none.
    std::uint64_t difference_offset = 0;
    [[nodiscard]] core::Json json() const;
};

struct MirrorReport {
    std::vector<DiskReport> disks;
    unsigned cuts = 0;  ///< Times the connections to the destination were lost and regained.
    std::vector<std::string> cleared;  ///< Leftovers of earlier tries that prepare() removed, in
                                       ///< words.
    core::milliseconds final_status{0};  ///< list_final(): block status.
    core::milliseconds final_copy{0};  ///< copy_final(): data,
    core::milliseconds final_flush{0};  ///< flush at the destination.
    std::size_t in_flight_bytes_peak = 0;
    std::optional<VerifyReport> verify;  ///< When that was asked for, and as far as it got.
    [[nodiscard]] core::Json json() const;  ///< disks[] as in the report of the program.
};

class Mirror {
public:
    /// `client` must outlive the mirror. Nothing happens before prepare().
    Mirror(core::Loop& loop, qmp::Client& client, std::vector<Disk> disks, Destination destination,
           MirrorOptions options);
    /// After drop(); asserts that nothing of ours runs.
    ~Mirror();
    Mirror(Mirror const&) = delete;
    Mirror& operator=(Mirror const&) = delete;

    /// Clears leftovers of earlier tries (but for what options.resume goes on with), starts the NBD
    /// server, bitmap b0 on all disks in one transaction, the exports, and connects to both ends.
    /// Fails with refused when another program started QEMU's NBD server or a disk of the
    /// destination is smaller; the caller then still calls drop().
    core::Task<core::Result<>> prepare(core::Deadline deadline);

    /// The bulk pass, then rounds until the delta fits downtime_limit, or stops shrinking: then it
    /// returns too, with `converging` false, and the caller decides (call it again, stop anyway,
    /// give up). An error of the destination says which disk and what to do. Connections that are
    /// cut are made anew for up to link_timeout, and the copy goes on where it was. When that is
    /// over it fails with link_lost(); called again, it goes on all the same.
    /// With MirrorOptions::hash, everything is verified once it is near, and then rounds follow
    /// until it is near again; a difference is an error (io) that names the disk and the byte.
    core::Task<core::Result<ConvergenceReport>> copy_until_converged(core::Deadline deadline);

    /// Makes sure that the newest bitmap is exported, enabled as it is, and opened. Cheap when it
    /// already is.
    core::Task<core::Result<>> arm(core::Deadline deadline);

    /// While RAM converges: NBD FLUSH in a loop on the source (so that QEMU's own flush at STOP is
    /// short) and on the destination, and another round whenever the delta has grown. Ends when
    /// `stop` is triggered, within the time of the writes in flight, or when something breaks (then
    /// broken() says what).
    core::Task<void> keep_converged(std::stop_token stop);
    /// The guest will be stopped in a moment: keep_converged() makes one more round at once, and
    /// then none unless the delta grows far beyond its aim, so that the stop finds a small delta
    /// and no round under way.
    void expect_stop();
    /// That round is over: the best moment to stop.
    [[nodiscard]] bool settled() const;
    /// What broke keep_converged(); also given by copy_final(), which then fails at once.
    [[nodiscard]] std::optional<core::Error> const& broken() const;
    /// As last measured; keep_converged() keeps it fresh.
    [[nodiscard]] ConvergenceReport convergence() const;
    /// The copy failed because the destination did not come back in time.
    [[nodiscard]] bool link_lost() const;

    /// At pre-switchover, after keep_converged()'s `stop` was triggered; it need not have ended,
    /// because commands to QEMU may take their time: reads the last bitmaps. QEMU answers for a
    /// bitmap only while its disk is active, so before `migrate-continue`.
    core::Task<core::Result<>> list_final(core::Deadline deadline);

    /// After list_final(): the last delta of all disks at once, then a flush of every disk at the
    /// destination, then goodbye to it. Afterwards every byte there equals ours.
    core::Task<core::Result<>> copy_final(core::Deadline deadline);
    /// While copy_final() runs: waits until nothing is read from QEMU any more, so that it may
    /// inactivate the disks (10.0 drops connections that read meanwhile). The writing goes on.
    core::Task<core::Result<>> final_read(core::Deadline deadline);

    /// Removes everything of ours from the source's QEMU: exports (hard, BLOCK_EXPORT_DELETED
    /// awaited), bitmaps, the NBD server if we started it; then closes all connections. Idempotent;
    /// works after every failure, wants a fresh deadline. A QEMU that is gone counts as cleaned.
    /// Nothing else may be running.
    core::Task<core::Result<>> drop(core::Deadline deadline);

    /// Rounds that do not shrink the delta before copy_until_converged() says so; at first
    /// limits::stagnant_rounds_max. One is enough for a caller that acts on each verdict.
    void set_stagnant_rounds(unsigned rounds);
    /// Takes effect at once. 0: no limit.
    void set_bandwidth(std::uint64_t bytes_per_second);
    void set_downtime_limit(core::milliseconds downtime_limit);
    [[nodiscard]] Progress progress() const;
    /// To be written down while copy_until_converged() runs; see MirrorOptions::resume.
    /// None: hot blocks wait for the end, which only this Mirror knows.
    [[nodiscard]] std::optional<CopyProgress> copy_progress() const;
    [[nodiscard]] MirrorReport report() const;

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/// Exports and bitmaps of ours, of whatever migration_id, that QEMU still has: for `status`, and
/// for tests that prove that there are none.
core::Task<core::Result<std::vector<std::string>>> leftovers(qmp::Client& client,
                                                             core::Deadline deadline);

/// Removes them, and our NBD server (known by its socket in `directory`), when no Mirror of this
/// process made them: a restarted sidecar undoing an earlier one's migration.
core::Task<core::Result<>> clear_leftovers(core::Loop& loop, qmp::Client& client,
                                           std::string directory, core::Deadline deadline);

}  // namespace storage
