// RecoveryPoint: all disks of a guest as they are at one instant, to be read while the guest goes
// on writing. Used by DiskReplicator, once a round.
//
// Under each device a `raw` node is put above the guest's node, which changes nothing; then one
// blockdev-reopen puts a copy-before-write filter under all of these nodes at once. QEMU drains
// every disk before it changes the first, so the instant is the same for all. From then on the old
// content of what the guest overwrites goes to a fleecing image first, and a snapshot-access node
// shows the disk as it was. Not blockdev-backup, which a transaction could start as well: QEMU
// before 10.1 lets a guest's write fail when its fleecing image has no space left, and here that
// write succeeds and the point is broken instead: a reader of it gets an error
// (on-cbw-error=break-snapshot, QEMU 7.1).
//
// Invariant: whatever fails or dies, release() brings every device back to its own node, also in
// another process: it looks at what QEMU has, not at what it remembers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/sync.hpp"

namespace qmp {
class Client;
}

namespace storage {

/// Called around the instant of a point, so that the disks are at rest in it: a guest's file
/// systems are frozen and thawed. Neither call may fail the point; the implementation keeps the
/// result.
class Quiescence {
public:
    virtual ~Quiescence() = default;
    virtual core::Task<void> hold(core::Deadline deadline) = 0;
    /// Called after every hold(), however the point ended, and never with a deadline that could
    /// keep it from being done.
    virtual core::Task<void> release() = 0;
};

struct PointDisk {
    std::string node;  ///< The node the guest writes to.
    std::string qdev;  ///< Of the device that uses it, as qmp::BlockDevice has it.
    std::uint64_t virtual_bytes = 0;
};

class RecoveryPoint {
public:
    /// `client` must outlive it. `directory`: where the fleecing images are made; they lose their
    /// names as soon as QEMU has them, and their space with release(). Nothing happens before
    /// take().
    RecoveryPoint(core::Loop& loop, qmp::Client& client, std::vector<PointDisk> disks,
                  std::string directory);

    /// `quiescence` (null: none) is held only while the instant is taken, not while the nodes for
    /// it are made. Fails with refused when a disk has no device, as qmp does, and as
    /// create_image(). After a failure release() is still to be called.
    core::Task<core::Result<>> take(Quiescence* quiescence, core::Deadline deadline);
    /// When that was; of the last take(), if it succeeded.
    [[nodiscard]] core::Clock::time_point taken_at() const { return taken_at_; }
    /// The node that shows disk `disk` as it was. May be exported read-only.
    [[nodiscard]] static std::string node(std::size_t disk);
    /// Removes everything of it, by this process or another; no export of its nodes may be left.
    /// Goes on past what fails and returns the first failure. Idempotent; wants a fresh deadline.
    core::Task<core::Result<>> release(core::Deadline deadline);

private:
    core::Task<core::Result<>> prepare(std::size_t disk, core::Deadline deadline);
    core::Task<core::Result<>> switch_over(std::vector<core::Json> tops, Quiescence* quiescence,
                                           core::Deadline deadline);

    core::Loop& loop_;
    qmp::Client& client_;
    std::vector<PointDisk> disks_;
    std::string directory_;
    core::Clock::time_point taken_at_{};
};

}  // namespace storage
