// DiskReplicator: rounds that bring a guest's disks, each time as they are at one instant, to a
// destination, while the guest stays. Used by the driver of `sidecar replicate`.
//
// Bitmap b(k) holds what was written since the last point that the destination has. b(k+1) begins
// before the next point is taken, so both hold what is written around that instant: what is read
// is always the point's content, and a block too many is only a block too many. b(k) is removed by
// accept(), once the destination has said that the point is complete; a round that was cut, or
// whose end is not known, removes b(k+1) instead, and its blocks stay dirty.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "storage/mirror.hpp"
#include "storage/recovery_point.hpp"

namespace storage {

struct WarmDisk {
    std::string name;  ///< For people.
    PointDisk point;
};

struct WarmOptions {
    std::string directory;  ///< For the NBD socket; as MirrorOptions::directory.
    std::string fleecing_directory;  ///< As RecoveryPoint's; on a disk, with room for what a guest
                                     ///< overwrites during a round.
    std::string migration_id;  ///< As MirrorOptions::migration_id.
    std::uint64_t bandwidth_bytes_per_second = 0;  ///< 0: no limit.
    Quiescence* quiescence = nullptr;  ///< Around the instant of each point; outlives the copy.
};

struct WarmRound {
    std::uint64_t owed_bytes = 0;  ///< By the bitmaps; in a full round the data there was.
    std::uint64_t copied_bytes = 0;  ///< Sent as data.
    core::Clock::time_point taken_at{};  ///< The instant.
    core::milliseconds took{0};
};

class DiskReplicator {
public:
    /// `client` must outlive it. Nothing happens before begin().
    DiskReplicator(core::Loop& loop, qmp::Client& client, std::vector<WarmDisk> disks,
                   WarmOptions options);
    /// Not while a round runs.
    ~DiskReplicator();
    DiskReplicator(DiskReplicator const&) = delete;
    DiskReplicator& operator=(DiskReplicator const&) = delete;

    /// Removes what an earlier copy or migration left in QEMU, and begins the first bitmap. Fails
    /// with refused when another program started QEMU's NBD server.
    core::Task<core::Result<>> begin(core::Deadline deadline);
    /// Takes the point and copies what is dirty in it, or, `full`, all data, into `export_names`
    /// (one for each disk) of `destination`, and flushes it there. When it returns, in whatever
    /// way, nothing of the round is left in QEMU but bitmaps, and no write is under way; if that
    /// could not be done, the next round does it first. Ends early when `deadline` is stopped.
    core::Task<core::Result<WarmRound>> round(Destination destination,
                                              std::vector<std::string> export_names, bool full,
                                              core::Deadline deadline);
    /// The point of the last round is complete there: its blocks are no longer dirty.
    core::Task<core::Result<>> accept(core::Deadline deadline);
    /// Removes everything of ours from QEMU. Idempotent; wants a fresh deadline. A QEMU that is
    /// gone counts as cleaned.
    core::Task<core::Result<>> drop(core::Deadline deadline);

    /// Data sent in the round under way, or the last.
    [[nodiscard]] std::uint64_t copied_bytes() const;

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/// Removes what a DiskReplicator of a sidecar that died left in QEMU. `disks` as it had them.
core::Task<core::Result<>> clear_warm_copy(core::Loop& loop, qmp::Client& client,
                                           std::vector<WarmDisk> disks, std::string directory,
                                           core::Deadline deadline);

}  // namespace storage
