// The names of a source's images while its guest leaves: IMAGE.leaving-ID from before COMMIT is
// sent, IMAGE.moved-ID once the destination has the guest, so that no QEMU can open a stale disk by
// its name. ID is the migration's. A symbolic link is followed: the file itself is renamed, in its
// own directory. A block device cannot be renamed: the kernel makes it read-only instead
// (block_device.hpp), until a reboot. Every function is idempotent: one that a crash interrupted is
// called again.
#pragma once

#include <string>
#include <vector>

#include "core/loop.hpp"

namespace storage {

/// The file that `path` leads to when its last component is a symbolic link; it need not exist.
std::string image_file(std::string const& path);

/// What set_images_aside makes of the file of `path`.
std::string leaving_path(std::string const& path, std::string const& migration_id);
/// What `tombstone` makes of the file of `path`.
std::string tombstone_path(std::string const& path, std::string const& migration_id);

/// The name that the file of `path` has now: one of the two above, or its own.
std::string stale_name(std::string const& path, std::string const& migration_id);
/// Whether `path`, or the file it leads to, has one of these names.
bool has_stale_name(std::string const& path);

/// Whether set_images_aside could rename the image. Fails with refused, and says why: the file or
/// its directory is read-only or immutable, it is a mount point, it has a second hard link by which
/// it could still be opened, its name would be too long; a device cannot be made read-only.
core::Result<> check_can_be_set_aside(std::string const& path, std::string const& migration_id);

/// Renames each image IMAGE.leaving-ID and syncs their directories. Ok also where that, or the
/// tombstone, has already happened. After an error some may be renamed. Devices become read-only.
core::Task<core::Result<>> set_images_aside(core::Loop& loop, std::vector<std::string> paths,
                                            std::string migration_id);
/// Renames each IMAGE.leaving-ID back, durably; all that can be, also when one cannot. Never over
/// another file. Ok also when an image has its name. Devices become writable.
core::Result<> restore_images(std::vector<std::string> const& paths,
                              std::string const& migration_id);

/// Renames IMAGE, or IMAGE.leaving-ID, to IMAGE.moved-ID, and a symbolic link PATH to
/// PATH.moved-ID; durable. Ok also when that has already happened. A device becomes read-only; the
/// caller must record it (left_devices.hpp).
core::Result<> tombstone(std::string const& path, std::string const& migration_id);
/// Gives the image of `migration_id` its name back, and a symbolic link too. Ok when it has it. A
/// device becomes writable.
core::Result<> untombstone(std::string const& path, std::string const& migration_id);
/// Removes PATH.moved-ID, and what it led to where it is a symbolic link; returns what was removed.
/// Ok when nothing of that name is there.
core::Result<std::vector<std::string>> remove_tombstone(std::string const& path,
                                                        std::string const& migration_id);
/// Every PATH.moved-*.
core::Result<std::vector<std::string>> tombstones_of(std::string const& path);

}  // namespace storage
