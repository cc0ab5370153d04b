#include "storage/block_device.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "core/fd.hpp"
#include "storage/image.hpp"
#include "storage/limits.hpp"
#include "storage/thin_volume.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

/// The number of the device that `path` leads to; none: it is no block device.
std::optional<dev_t> number_of(std::string const& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) < 0 || !S_ISBLK(status.st_mode)) return {};
    return status.st_rdev;
}

/// Closing a descriptor that was open for writing makes udev look at the device: only for reading,
/// unless it is written.
Result<Fd> open_device(std::string const& path, int flags) {
    if (!number_of(path)) return fail(Errc::invalid, "{} is not a block device", path);
    Fd device(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK));
    if (!device) return fail_errno(errno, "cannot open the device {}", path);
    return device;
}

std::string first_line(std::string const& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

bool is_open_for_writing(std::filesystem::path const& process, std::string const& number) {
    std::ifstream lines(process / "fdinfo" / number);
    constexpr std::string_view key = "flags:";
    constexpr int octal = 8;
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(key)) continue;
        auto const flags = std::strtoul(line.c_str() + key.size(), nullptr, octal);
        return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY;
    }
    return false;
}

/// Whether a process has the device open for writing, by any of its names.
bool writes_to(std::filesystem::path const& process, dev_t number) {
    std::error_code error;
    std::filesystem::directory_iterator entries(process / "fd", error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
        if (number_of(entries->path().string()) == number &&
            is_open_for_writing(process, entries->path().filename().string()))
            return true;
    }
    return false;
}

/// "qemu-system-x86 (pid 1234)"; empty: no other process that we may look at.
std::string writer_of(dev_t number) {
    std::error_code error;
    std::filesystem::directory_iterator entries("/proc", error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
        auto const pid = std::strtol(entries->path().filename().c_str(), nullptr, 10);
        if (pid <= 0 || pid == getpid() || !writes_to(entries->path(), number)) continue;
        return fmt::format("{} (pid {})", first_line(entries->path() / "comm"), pid);
    }
    return {};
}

}  // namespace

bool is_block_device(std::string const& path) { return number_of(path).has_value(); }

bool is_same_device(std::string const& one, std::string const& other) {
    auto const first = number_of(one);
    return first && first == number_of(other);
}

Result<BlockDeviceStatus> look_at_device(std::string const& path) {
    TRY(auto const device, open_device(path, O_RDONLY));
    BlockDeviceStatus status;
    int read_only = 0;
    if (ioctl(device.get(), BLKGETSIZE64, &status.bytes) < 0 ||
        ioctl(device.get(), BLKROGET, &read_only) < 0) {
        return fail_errno(errno, "cannot look at the device {}", path);
    }
    status.read_only = read_only != 0;
    return status;
}

Result<Fd> claim_device(std::string const& path) {
    auto device = open_device(path, O_RDONLY | O_EXCL);
    if (device || device.error().os != EBUSY) return device;
    return fail(Errc::refused,
                "the device {} is in use: it is mounted, is swap space, or is a part of LVM, RAID "
                "or ZFS, or another guest comes to it",
                path);
}

Result<> check_device_unused(std::string const& path) {
    auto const used = [&](std::string const& by) {
        return fail(Errc::refused, "the device {} is in use: {}", path, by);
    };
    {
        auto claim = claim_device(path);
        if (!claim) return std::unexpected(std::move(claim.error()));
    }
    TRY(bool const locked, in_use(path));
    auto const writer = writer_of(number_of(path).value_or(0));
    if (!writer.empty()) return used(writer + " has it open");
    if (locked) return used("a QEMU has it open");
    return {};
}

Result<> set_device_read_only(std::string const& path, bool read_only) {
    TRY(auto const device, open_device(path, O_RDONLY));
    int const flag = read_only ? 1 : 0;
    if (ioctl(device.get(), BLKROSET, &flag) == 0) return {};
    return fail_errno(errno, "cannot make the device {} {}", path,
                      read_only ? "read-only" : "writable");
}

Result<> check_can_be_read_only(std::string const& path) {
    TRY(auto const status, look_at_device(path));
    return set_device_read_only(path, status.read_only);
}

std::string device_identity(std::string const& path) {
    auto const number = number_of(path);
    if (!number) return {};
    auto const name = fmt::format("{}:{}", major(*number), minor(*number));
    std::error_code error;
    auto const place = std::filesystem::canonical("/sys/dev/block/" + name, error);
    if (error) return {};
    if (auto const uuid = first_line(place / "dm/uuid"); !uuid.empty()) return "dm " + uuid;
    auto sequence = first_line(place / "diskseq");
    if (sequence.empty()) sequence = first_line(place.parent_path() / "diskseq");  // a partition
    auto const boot = boot_identity();
    if (sequence.empty() || boot.empty()) return {};
    return fmt::format("disk {} {} {}", boot, sequence, name);
}

std::string boot_identity() { return first_line("/proc/sys/kernel/random/boot_id"); }

Task<Result<std::uint64_t>> zero_device(core::Loop& loop, std::string path, std::uint64_t bytes,
                                        Deadline deadline) {
    CO_TRY(bool const empty, co_await empty_thin_volume(loop, path, deadline));
    if (empty) co_return bytes;
    CO_TRY(auto const device, open_device(path, O_RDWR));
    std::uint64_t done = 0;
    while (done < bytes && !deadline.passed()) {
        auto const piece = std::min(bytes - done, limits::zero_device_piece_bytes);
        auto const zeroed =
            co_await loop.punch_hole(device.get(), done, piece, Deadline::never(deadline.token()));
        // It knows no way to do so without writing, or takes whole blocks only.
        if (!zeroed) break;
        done += piece;
    }
    co_return done;
}

}  // namespace storage
