// OwnedFile: a file that this program creates, and later removes only if it is still that file.
// Used for the destination's images by migration and replication.
//
// The order that leaves nothing foreign removed and nothing of ours behind, whenever the process
// dies:
//   1. Record the path, durably, with the id of the migration.
//   2. Create the file as PATH.new-ID, with O_EXCL. That name alone says whose it is.
//   3. Record its identity (inode, birth time, device), durably.
//   4. publish(): rename it to PATH. It fails when PATH exists.
//   5. remove_owned(): remove PATH.new-ID, and PATH only if it has the recorded identity.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/json.hpp"
#include "core/result.hpp"

namespace storage {

/// Which file it is, independent of its name. An inode number is used again after its file is
/// removed; the birth time tells the two files apart.
struct InodeIdentity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::int64_t born_ns = 0;  ///< Since 1970; 0: the file system records no birth time.

    /// A device number may change at boot, so it is compared only where there is no birth time.
    [[nodiscard]] bool is_same_file(InodeIdentity const& other) const;
    friend bool operator==(InodeIdentity const&, InodeIdentity const&) = default;
};

/// Of an open file, also of one opened with O_PATH.
core::Result<InodeIdentity> identity_of(int fd);

struct OwnedFile {
    std::string path;
    std::optional<InodeIdentity> identity = {};  ///< None: not created, as far as is recorded.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<OwnedFile> from_json(core::Json const& json);
    /// Whether `path` is this file now; a symbolic link never is.
    [[nodiscard]] core::Result<bool> is_there() const;
};

/// Removes `path` if it is that file. Returns whether another file stays there.
core::Result<bool> remove_if_same(std::string const& path, InodeIdentity const& identity);

/// PATH.new-ID: the name under which the migration `id` creates PATH.
std::string unfinished_path(std::string const& path, std::string const& id);
/// Renames PATH.new-ID to PATH and syncs the directory. Fails with io, EEXIST, when PATH exists:
/// both files then stay as they are.
core::Result<> publish(std::string const& path, std::string const& id);

/// Removes PATH.new-ID, and PATH if it is still the file of `file.identity`; syncs the directory.
/// Ok also when neither is there. Returns whether a file that is not ours stays at PATH.
core::Result<bool> remove_owned(OwnedFile const& file, std::string const& id);

}  // namespace storage
