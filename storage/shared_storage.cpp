#include "storage/shared_storage.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "core/fd.hpp"

namespace storage {

using core::fail_errno;
using core::Result;

namespace {

/// A mark holds a secret, and no more.
constexpr std::size_t secret_bytes_max = 128;
// Not in linux/magic.h.
constexpr std::uint32_t cifs_magic = 0xff534d42;
constexpr std::uint32_t smb2_magic = 0xfe534d42;

std::string read_mark(std::string const& path) {
    core::Fd const file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat entry{};
    if (!file || fstat(file.get(), &entry) < 0 || !S_ISREG(entry.st_mode)) return {};
    std::string text(secret_bytes_max, '\0');
    auto const got = read(file.get(), text.data(), text.size());
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return text;
}

bool write_mark(std::string const& path, std::string const& secret) {
    // One of a process of this migration that was killed.
    unlink(path.c_str());
    core::Fd const file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                             S_IRUSR | S_IWUSR));
    if (!file) return false;
    auto const written = write(file.get(), secret.data(), secret.size());
    // Another host must see it now.
    return written == static_cast<ssize_t>(secret.size()) && fsync(file.get()) == 0;
}

}  // namespace

std::string mark_path(std::string const& image, std::string const& id) {
    return (std::filesystem::path(image).parent_path() / (".sidecar-" + id + ".shared")).string();
}

DirectoryMarks::DirectoryMarks(std::vector<std::string> const& images, std::string const& id,
                               std::string const& secret) {
    for (auto const& image : images) {
        auto path = mark_path(image, id);
        if (std::ranges::find(paths_, path) != paths_.end()) continue;
        if (!write_mark(path, secret)) unlink(path.c_str());
        paths_.push_back(std::move(path));
    }
}

DirectoryMarks::~DirectoryMarks() {
    for (auto const& path : paths_) unlink(path.c_str());
}

bool is_same_storage(std::string const& image, std::string const& inode, std::string const& id,
                     std::string const& secret) {
    if (secret.empty() || read_mark(mark_path(image, id)) != secret) return false;
    auto const here = inode_of(image);
    return here && *here == inode;
}

Result<std::string> inode_of(std::string const& path) {
    struct stat entry{};
    if (stat(path.c_str(), &entry) < 0) return fail_errno(errno, "cannot look at {}", path);
    return std::to_string(entry.st_ino);
}

Result<bool> is_cached_per_host(std::string const& path) {
    constexpr auto kinds =
        std::to_array<std::uint32_t>({NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, cifs_magic, smb2_magic,
                                      V9FS_MAGIC, FUSE_SUPER_MAGIC, AFS_SUPER_MAGIC});
    struct statfs place{};
    if (statfs(path.c_str(), &place) < 0) return fail_errno(errno, "cannot look at {}", path);
    return std::ranges::find(kinds, static_cast<std::uint32_t>(place.f_type)) != kinds.end();
}

}  // namespace storage
