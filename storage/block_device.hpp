// Block devices as images: LVM and ZFS volumes, partitions, loop devices. What one is, who uses it,
// the kernel's read-only flag, and making it read as zeroes. Used by both sides of a migration.
// Symbolic links are followed, and two devices are compared by their numbers. Invariant: nothing
// here writes to a device, but zero_device().
#pragma once

#include <cstdint>
#include <string>

#include "core/fd.hpp"
#include "core/loop.hpp"

namespace storage {

/// Whether `path`, links followed, is a block device now.
bool is_block_device(std::string const& path);
/// Whether both paths lead to one block device now.
bool is_same_device(std::string const& one, std::string const& other);

struct BlockDeviceStatus {
    std::uint64_t bytes = 0;
    bool read_only = false;  ///< BLKROGET
};
/// Fails with io, or with invalid if it is no block device.
core::Result<BlockDeviceStatus> look_at_device(std::string const& path);

/// Fails with refused, and says by whom the device is used: mounted, swap space, a part of another
/// device (LVM, RAID, ZFS), a QEMU that locks it, another process that has it open for writing.
core::Result<> check_device_unused(std::string const& path);

/// Holds the device against others that want it for themselves alone (mount, swap, LVM, another
/// claim) while the descriptor is open. Programs that share it, as QEMU does, may open it. Fails
/// with refused if it is held already.
core::Result<core::Fd> claim_device(std::string const& path);

/// BLKROSET: with `read_only`, QEMU does not open the device for writing, and writes of those that
/// have it open fail with EPERM. Idempotent. A reboot clears the flag. Fails with io.
core::Result<> set_device_read_only(std::string const& path, bool read_only);
/// Whether this process may do that. Changes nothing. Fails with io.
core::Result<> check_can_be_read_only(std::string const& path);

/// Which device it is, independent of its name: for device-mapper its UUID, which outlives a
/// reboot; for others the kernel's number of this attachment, and the boot. Empty: the kernel does
/// not tell.
std::string device_identity(std::string const& path);
/// Names the time since the last boot.
std::string boot_identity();

/// Makes the device read as zeroes from its start on, without using space where it is thin: returns
/// up to which byte. Stops at `bytes`, at the deadline, or where the device cannot do it at once. A
/// thin volume of device-mapper is discarded as a whole.
core::Task<core::Result<std::uint64_t>> zero_device(core::Loop& loop, std::string path,
                                                    std::uint64_t bytes, core::Deadline deadline);

}  // namespace storage
