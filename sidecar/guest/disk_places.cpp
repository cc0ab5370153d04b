#include "sidecar/guest/disk_places.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "qmp/launch_policy.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/left_devices.hpp"
#include "storage/block_device.hpp"
#include "storage/image.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using storage::DestinationImage;

namespace {

/// Space that must remain besides the disks: metadata of the images, the journal, logs.
constexpr std::uint64_t disk_slack_bytes = 64ULL << 20;

/// The bytes that a leftover image at `path` occupies; none: the file there is not a leftover.
Result<std::optional<std::uint64_t>> leftover_bytes(std::vector<DestinationImage> const& leftovers,
                                                    std::string const& path) {
    for (auto const& image : leftovers) {
        if (image.path() != path || image.kind != DestinationImage::Kind::file) continue;
        TRY(bool const there, image.file.is_there());
        if (!there) continue;
        TRY(auto const bytes, storage::allocated_bytes(path));
        return std::optional(bytes);
    }
    return std::optional<std::uint64_t>();
}

/// An earlier migration of this guest was copying to the device: its QEMU may still have it open.
bool is_leftover_device(std::vector<DestinationImage> const& leftovers, std::string const& path) {
    return std::ranges::any_of(leftovers, [&](DestinationImage const& image) {
        return image.kind == DestinationImage::Kind::device &&
               storage::is_same_device(image.path(), path);
    });
}

Result<> check_device_size(MovedDisk const& disk, std::string const& path, std::uint64_t bytes) {
    if (bytes >= disk.virtual_bytes) return {};
    return fail(Errc::refused,
                "the device {} on the destination has {} bytes, and disk {} has {}: a disk fits "
                "only on a device that is at least as large",
                path, bytes, disk.name, disk.virtual_bytes);
}

/// `mine`: the guest left the device itself, or was being copied to it.
Result<> check_device(Paths const& paths, MovedDisk const& disk, std::string const& path,
                      bool leftover, bool mine) {
    if (disk.format != "raw") {
        return fail(Errc::refused,
                    "disk {} is a {} image: only a raw disk can be put on a block device ({})",
                    disk.name, disk.format, path);
    }
    if (disk.target.empty() && !mine) {
        return fail(Errc::refused,
                    "{} (for disk {}) is a block device that exists on the destination, and this "
                    "guest did not leave it there: name it with `--disk {}={}` to overwrite it",
                    path, disk.name, disk.name, path);
    }
    auto const status = storage::look_at_device(path);
    if (!status) return fail(Errc::refused, "disk {}: {}", disk.name, status.error().what);
    TRY_VOID(check_device_size(disk, path, status->bytes));
    if (status->read_only && !mine && !guest_that_left(paths, path)) {
        return fail(Errc::refused,
                    "the device {} (for disk {}) is read-only on the destination: `blockdev "
                    "--setrw {}` there, if it may be overwritten",
                    path, disk.name, path);
    }
    if (leftover) return {};
    auto unused = storage::check_device_unused(path);
    if (unused) return {};
    return fail(Errc::refused, "disk {} cannot be put there on the destination: {}", disk.name,
                unused.error().what);
}

/// In /dev a file would fill the memory of the host.
bool is_below_dev(std::string const& directory) {
    std::error_code error;
    auto const real = std::filesystem::canonical(directory, error).string();
    return !error && qmp::path_below("/dev", real) && !qmp::path_below("/dev/shm", real);
}

/// A file that is created here.
struct NewFile {
    std::string what;  ///< For people: "disk d0".
    std::string path;
    std::uint64_t bytes = 0;  ///< That it will occupy.
};

/// The directory in which the file will be made.
Result<struct stat> check_directory(NewFile const& file) {
    auto const& path = file.path;
    auto const directory = std::filesystem::path(path).parent_path().string();
    struct stat entry{};
    if (stat(directory.c_str(), &entry) < 0) {
        return fail(Errc::refused,
                    "the directory {} for {} does not exist on the destination: make it, or "
                    "map it with `serve --map-path`",
                    directory, file.what);
    }
    if (is_below_dev(directory)) {
        return fail(Errc::refused,
                    "there is no block device {} (for {}) on the destination: make it first", path,
                    file.what);
    }
    if (access(directory.c_str(), W_OK) != 0) {
        return fail(Errc::refused, "{} cannot be made in {} on the destination: {}", file.what,
                    directory, std::strerror(errno));
    }
    return entry;
}

/// Where files are created: a directory of the file system, and the bytes that they need.
using Space = std::map<dev_t, std::pair<std::string, std::uint64_t>>;

Result<> check_new_file(NewFile const& file, std::vector<DestinationImage> const& leftovers,
                        Space& space) {
    auto const& path = file.path;
    TRY(auto const directory, check_directory(file));
    TRY(auto const freed, leftover_bytes(leftovers, path));
    struct stat existing{};
    if (!freed && lstat(path.c_str(), &existing) == 0) {
        auto const busy = storage::in_use(path);
        return fail(Errc::refused,
                    "{} (for {}) exists on the destination already{}: remove it first", path,
                    file.what, busy && *busy ? " and in use" : "");
    }
    auto& place = space[directory.st_dev];
    place.first = std::filesystem::path(path).parent_path().string();
    place.second += file.bytes - std::min(file.bytes, freed.value_or(0));
    return {};
}

Result<> check_space(Space const& space) {
    for (auto const& [device, place] : space) {
        TRY(auto const free, storage::free_bytes(place.first));
        if (free < place.second + disk_slack_bytes) {
            return fail(Errc::refused,
                        "the guest's images need {} MiB in {} on the destination, and {} MiB are "
                        "free there",
                        (place.second + disk_slack_bytes) >> 20, place.first, free >> 20);
        }
    }
    return {};
}

}  // namespace

Result<> check_places(Paths const& paths, HostMaps const& maps, Description const& description,
                      std::vector<DestinationImage> const& leftovers) {
    Space space;
    std::vector<std::string> taken;
    for (auto const& disk : description.disks) {
        auto const path = image_path(maps, disk);
        bool const device = storage::is_block_device(path);
        for (auto const& other : taken) {
            if (other != path && !storage::is_same_device(other, path)) continue;
            return fail(Errc::refused, "disk {} and another one have the same place {}", disk.name,
                        path);
        }
        taken.push_back(path);
        if (is_device_to_be_made(disk)) continue;
        if (!device) {
            NewFile const file{"disk " + disk.name, path, disk.allocated_bytes};
            TRY_VOID(check_new_file(file, leftovers, space));
            continue;
        }
        bool const leftover = is_leftover_device(leftovers, path);
        bool const mine = leftover || has_left(paths, description.guest, path);
        TRY_VOID(check_device(paths, disk, path, leftover, mine));
    }
    for (auto const& file : description.files) {
        if (!file.copied || !is_missing(maps, file, leftovers)) continue;
        TRY_VOID(check_new_file({file.what, map_path(maps, file.path), file.allocated_bytes},
                                leftovers, space));
    }
    return check_space(space);
}

}  // namespace sidecar
