// Whether two hosts see the same storage: one of them marks the directories of its images, and the
// other looks for the marks. Used by a migration, which leaves disks on shared storage where they
// are. Invariant: a mark is removed with its DirectoryMarks. A process that is killed leaves a
// file of some 20 bytes, which nothing reads.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/result.hpp"

namespace storage {

/// DIR/.sidecar-ID.shared, beside the image.
std::string mark_path(std::string const& image, std::string const& id);

/// The marks of one migration.
class DirectoryMarks {
public:
    /// Marks the directory of each image with `secret`, which must be random. A directory in
    /// which no file can be made has none, and so counts as this host's own.
    DirectoryMarks(std::vector<std::string> const& images, std::string const& id,
                   std::string const& secret);
    ~DirectoryMarks();
    DirectoryMarks(DirectoryMarks const&) = delete;
    DirectoryMarks(DirectoryMarks&& other) noexcept : paths_(std::exchange(other.paths_, {})) {}

private:
    std::vector<std::string> paths_;
};

/// Whether `image` on this host is the file that has this inode number on the host that has set the
/// mark: its directory has the mark. False, too, if it cannot be read.
bool is_same_storage(std::string const& image, std::string const& inode, std::string const& id,
                     std::string const& secret);

/// Of a file, in decimal. Fails with io.
core::Result<std::string> inode_of(std::string const& path);

/// Whether each host has a cache of its own for files there, which the other does not see: NFS,
/// SMB, 9p, FUSE. False for what is on a device of this host, and for cluster file systems. Fails
/// with io.
core::Result<bool> is_cached_per_host(std::string const& path);

}  // namespace storage
