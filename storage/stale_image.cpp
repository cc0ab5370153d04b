#include "storage/stale_image.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/fd.hpp"
#include "core/fsync.hpp"
#include "core/sync.hpp"
#include "storage/block_device.hpp"
#include "storage/image.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

constexpr std::string_view leaving_mark = ".leaving-";
constexpr std::string_view tombstone_mark = ".moved-";
constexpr int links_max = 40;  // as many as the kernel follows

std::string directory_of(std::string const& path) {
    auto directory = std::filesystem::path(path).parent_path().string();
    return directory.empty() ? "." : directory;
}

bool exists(std::string const& path) {
    struct stat status{};
    return lstat(path.c_str(), &status) == 0;
}

bool is_link(std::string const& path) {
    struct stat status{};
    return lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

/// The file itself, without its directory synced. Ok when `from` is gone and one of `done` is
/// there.
Result<> rename_file(std::string const& from, std::string const& to,
                     std::vector<std::string> const& done) {
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return {};
    int const error = errno;
    if (error == ENOENT && std::ranges::any_of(done, exists)) return {};
    return fail_errno(error, "cannot rename {} to {}", from, to);
}

Result<> move_file(std::string const& from, std::string const& to) {
    TRY_VOID(rename_file(from, to, {to}));
    return sync_directory_of(to);
}

Task<Result<>> sync_directory(core::Loop& loop, std::string directory) {
    Fd const fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) co_return fail_errno(errno, "cannot open {}", directory);
    auto const synced = co_await core::fsync(loop, fd.get(), Deadline::never());
    if (!synced) co_return fail_errno(synced.error().os, "cannot sync {}", directory);
    co_return Result<>{};
}

/// What keeps `path` from being renamed, by its attributes; empty: nothing that they tell.
std::string obstacle_of(std::string const& path, bool is_directory) {
    struct statx status{};
    if (statx(AT_FDCWD, path.c_str(), 0, STATX_BASIC_STATS, &status) < 0) return {};
    if ((status.stx_attributes & STATX_ATTR_IMMUTABLE) != 0) return "is immutable (chattr +i)";
    if ((status.stx_attributes & STATX_ATTR_APPEND) != 0) return "is append-only (chattr +a)";
    if (!is_directory && (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0)
        return "is a mount point (a bind mount)";
    if (!is_directory && status.stx_nlink > 1)
        return fmt::format("has {} hard links: the stale disk could be started by the other name",
                           status.stx_nlink);
    return {};
}

}  // namespace

std::string image_file(std::string const& path) {
    auto file = path;
    for (int links = 0; links < links_max && is_link(file); ++links) {
        std::error_code error;
        auto const target = std::filesystem::read_symlink(file, error);
        if (error) break;
        file = target.is_absolute() ? target.string() : directory_of(file) + "/" + target.string();
    }
    return file;
}

std::string leaving_path(std::string const& path, std::string const& migration_id) {
    return image_file(path) + std::string(leaving_mark) + migration_id;
}

std::string tombstone_path(std::string const& path, std::string const& migration_id) {
    return image_file(path) + std::string(tombstone_mark) + migration_id;
}

std::string stale_name(std::string const& path, std::string const& migration_id) {
    for (auto const& name :
         {leaving_path(path, migration_id), tombstone_path(path, migration_id)}) {
        if (exists(name)) return name;
    }
    return image_file(path);
}

bool has_stale_name(std::string const& path) {
    auto const stale = [](std::string const& name) {
        auto const file = std::filesystem::path(name).filename().string();
        return file.find(leaving_mark) != std::string::npos ||
               file.find(tombstone_mark) != std::string::npos;
    };
    return stale(path) || stale(image_file(path));
}

namespace {

Result<> check_device_can_be_set_aside(std::string const& path) {
    auto const possible = check_can_be_read_only(path);
    if (possible) return {};
    return fail(Errc::refused,
                "the device {} cannot be made read-only when its guest has moved, so that a stale "
                "disk could start: {}",
                path, possible.error().what);
}

}  // namespace

Result<> check_can_be_set_aside(std::string const& path, std::string const& migration_id) {
    if (is_block_device(path)) return check_device_can_be_set_aside(path);
    auto const file = image_file(path);
    auto const directory = directory_of(file);
    auto const refuse = [&](std::string const& why) {
        return fail(Errc::refused,
                    "the image {} cannot be renamed when its guest has moved, so that a stale disk "
                    "could start: {}",
                    file, why);
    };
    if (auto const why = obstacle_of(file, false); !why.empty()) return refuse("it " + why);
    if (auto const why = obstacle_of(directory, true); !why.empty())
        return refuse(fmt::format("its directory {} {}", directory, why));
    if (access(directory.c_str(), W_OK | X_OK) < 0) {
        return refuse(
            fmt::format("its directory {} cannot be written: {}", directory, std::strerror(errno)));
    }
    if (std::filesystem::path(leaving_path(file, migration_id)).filename().string().size() >
        NAME_MAX) {
        return refuse("its name would be too long");
    }
    return {};
}

Task<Result<>> set_images_aside(core::Loop& loop, std::vector<std::string> paths,
                                std::string migration_id) {
    std::vector<std::string> directories;
    for (auto const& path : paths) {
        if (is_block_device(path)) {
            CO_TRY_VOID(set_device_read_only(path, true));
            continue;
        }
        auto const file = image_file(path);
        auto const leaving = leaving_path(file, migration_id);
        CO_TRY_VOID(rename_file(file, leaving, {leaving, tombstone_path(file, migration_id)}));
        auto const directory = directory_of(file);
        if (std::ranges::find(directories, directory) == directories.end())
            directories.push_back(directory);
    }
    std::vector<Task<Result<>>> syncs;
    for (auto const& directory : directories) syncs.push_back(sync_directory(loop, directory));
    co_return co_await when_all(loop, std::move(syncs));
}

Result<> restore_images(std::vector<std::string> const& paths, std::string const& migration_id) {
    Result<> all;
    for (auto const& path : paths) {
        auto const file = image_file(path);
        auto one = is_block_device(path) ? set_device_read_only(path, false)
                                         : move_file(leaving_path(file, migration_id), file);
        if (!one && all) all = std::move(one);
    }
    return all;
}

Result<> tombstone(std::string const& path, std::string const& migration_id) {
    if (is_block_device(path)) return set_device_read_only(path, true);
    auto const mark = std::string(tombstone_mark) + migration_id;
    auto const file = image_file(path);
    auto const leaving = leaving_path(file, migration_id);
    TRY_VOID(move_file(exists(leaving) ? leaving : file, file + mark));
    // The name is free for a guest that comes back.
    return file == path ? Result<>{} : move_file(path, path + mark);
}

Result<> untombstone(std::string const& path, std::string const& migration_id) {
    if (is_block_device(path)) return set_device_read_only(path, false);
    auto const mark = std::string(tombstone_mark) + migration_id;
    if (is_link(path + mark)) TRY_VOID(move_file(path + mark, path));
    auto const file = image_file(path);
    return move_file(file + mark, file);
}

Result<std::vector<std::string>> remove_tombstone(std::string const& path,
                                                  std::string const& migration_id) {
    auto const mark = std::string(tombstone_mark) + migration_id;
    std::vector<std::string> stale;
    if (is_link(path + mark)) stale.push_back(image_file(path + mark) + mark);
    stale.push_back(path + mark);
    std::vector<std::string> removed;
    for (auto const& name : stale) {
        if (unlink(name.c_str()) == 0) {
            removed.push_back(name);
        } else if (errno != ENOENT) {
            return fail_errno(errno, "cannot remove {}", name);
        }
    }
    return removed;
}

Result<std::vector<std::string>> tombstones_of(std::string const& path) {
    auto const directory = directory_of(path);
    auto const prefix =
        std::filesystem::path(path).filename().string() + std::string(tombstone_mark);
    std::vector<std::string> found;
    std::error_code error;
    auto entry = std::filesystem::directory_iterator(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        if (entry->path().filename().string().starts_with(prefix))
            found.push_back(entry->path().string());
    }
    if (error) return fail_errno(error.value(), "cannot list {}", directory);
    return found;
}

}  // namespace storage
