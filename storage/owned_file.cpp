#include "storage/owned_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "core/fd.hpp"
#include "storage/image.hpp"

namespace storage {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Json;
using core::Result;

namespace {

/// A directory, held open, and a name in it: what is compared is what is removed.
struct Place {
    Fd directory;
    std::string name;
};

Result<Place> place_of(std::string const& path) {
    std::filesystem::path const whole(path);
    auto directory = whole.parent_path().string();
    if (directory.empty()) directory = ".";
    Place place{Fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
                whole.filename().string()};
    if (!place.directory) return fail_errno(errno, "cannot open the directory {}", directory);
    return place;
}

/// None: there is no file of that name.
Result<std::optional<InodeIdentity>> identity_at(Place const& place, std::string const& path) {
    Fd const file(
        openat(place.directory.get(), place.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file && errno == ENOENT) return std::optional<InodeIdentity>();
    if (!file) return fail_errno(errno, "cannot look at {}", path);
    struct stat status{};
    if (fstat(file.get(), &status) < 0) return fail_errno(errno, "cannot look at {}", path);
    if (!S_ISREG(status.st_mode)) return std::optional(InodeIdentity{});  // never one of ours
    TRY(auto const identity, identity_of(file.get()));
    return std::optional(identity);
}

/// `path` lies in the directory of `place`.
Result<> remove_at(Place const& place, std::string const& path) {
    auto const name = std::filesystem::path(path).filename().string();
    if (unlinkat(place.directory.get(), name.c_str(), 0) < 0 && errno != ENOENT) {
        return fail_errno(errno, "cannot remove {}", path);
    }
    return {};
}

}  // namespace

bool InodeIdentity::is_same_file(InodeIdentity const& other) const {
    if (inode == 0 || inode != other.inode || born_ns != other.born_ns) return false;
    return born_ns != 0 || device == other.device;
}

Result<InodeIdentity> identity_of(int fd) {
    struct statx status{};
    if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) < 0) {
        return fail_errno(errno, "cannot look at a file");
    }
    InodeIdentity identity{makedev(status.stx_dev_major, status.stx_dev_minor), status.stx_ino};
    if ((status.stx_mask & STATX_BTIME) != 0) {
        constexpr std::int64_t ns_per_second = 1'000'000'000;
        identity.born_ns = status.stx_btime.tv_sec * ns_per_second + status.stx_btime.tv_nsec;
    }
    return identity;
}

Json OwnedFile::to_json() const {
    auto json = Json::object({{"path", path}});
    if (identity) {
        json.set("device", static_cast<std::int64_t>(identity->device))
            .set("inode", static_cast<std::int64_t>(identity->inode))
            .set("born_ns", identity->born_ns);
    }
    return json;
}

Result<OwnedFile> OwnedFile::from_json(Json const& json) {
    OwnedFile file;
    TRY(file.path, json.text("path"));
    if (!json.has("inode")) return file;
    file.identity = InodeIdentity{static_cast<std::uint64_t>(json["device"].integer_or(0)),
                                  static_cast<std::uint64_t>(json["inode"].integer_or(0)),
                                  json["born_ns"].integer_or(0)};
    return file;
}

Result<bool> OwnedFile::is_there() const {
    if (!identity) return false;
    TRY(auto const place, place_of(path));
    TRY(auto const found, identity_at(place, path));
    return found && found->is_same_file(*identity);
}

std::string unfinished_path(std::string const& path, std::string const& id) {
    return path + ".new-" + id;
}

Result<> publish(std::string const& path, std::string const& id) {
    auto const unfinished = unfinished_path(path, id);
    if (renameat2(AT_FDCWD, unfinished.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
        return sync_directory_of(path);
    }
    // A file system without RENAME_NOREPLACE; link(2) does not replace a file either.
    if (errno != EINVAL) return fail_errno(errno, "cannot create {}", path);
    if (link(unfinished.c_str(), path.c_str()) < 0) {
        return fail_errno(errno, "cannot create {}", path);
    }
    if (unlink(unfinished.c_str()) < 0) return fail_errno(errno, "cannot remove {}", unfinished);
    return sync_directory_of(path);
}

Result<bool> remove_if_same(std::string const& path, InodeIdentity const& identity) {
    return remove_owned({path, identity}, {});
}

Result<bool> remove_owned(OwnedFile const& file, std::string const& id) {
    auto place = place_of(file.path);
    if (!place && place.error().os == ENOENT) return false;  // its directory is gone
    if (!place) return std::unexpected(std::move(place.error()));
    if (!id.empty()) TRY_VOID(remove_at(*place, unfinished_path(file.path, id)));
    TRY(auto const found, identity_at(*place, file.path));
    bool const ours = found && file.identity && found->is_same_file(*file.identity);
    if (ours) TRY_VOID(remove_at(*place, file.path));
    if (fsync(place->directory.get()) < 0) {
        return fail_errno(errno, "cannot sync the directory of {}", file.path);
    }
    return found && !ours;
}

}  // namespace storage
