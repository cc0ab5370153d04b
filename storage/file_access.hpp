// FileAccess: who may use an image: its owner, its group and its permissions, which a disk keeps on
// another host. Users are found by their names where /etc/passwd has them, because numbers differ
// from host to host; those of a directory service have the same number everywhere. Reads these
// files alone: the system's resolver of names may block.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace storage {

struct FileAccess {
    std::string user = {};  ///< Empty: /etc/passwd of its host has no name for `uid`.
    std::string group = {};
    unsigned uid = 0;
    unsigned gid = 0;
    unsigned mode = 0600;  ///< Permissions alone (0777).

    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol.
    static core::Result<FileAccess> from_json(core::Json const& json);
    friend bool operator==(FileAccess const&, FileAccess const&) = default;
};

/// Of the file itself, also behind a symbolic link. Fails with io.
core::Result<FileAccess> access_of(std::string const& path);

/// How this host names those: a user or a group that it does not have becomes root's.
struct LocalAccess {
    unsigned uid = 0;
    unsigned gid = 0;
    std::vector<std::string> missing = {};  ///< "user libvirt-qemu".
};
LocalAccess local_access(FileAccess const& access);

/// A user and the group that it has in /etc/passwd.
struct UserIds {
    unsigned uid = 0;
    unsigned gid = 0;
};
/// None: /etc/passwd of this host has no user of that name.
std::optional<UserIds> ids_of_user(std::string const& name);
/// None: /etc/passwd of this host has no name for it.
std::optional<std::string> name_of_user(unsigned uid);
/// Whether a process of that user and group, without rights of root, may read and write the file.
/// `directory`: only pass it.
bool may_write(std::string const& file, UserIds const& user);
bool may_pass(std::string const& directory, UserIds const& user);

/// Gives an open file that this process has created to them. Fails with io.
core::Result<> give_access(int fd, FileAccess const& access);

}  // namespace storage
