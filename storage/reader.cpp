#include "storage/reader.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

bool same_file(struct stat const& one, struct stat const& other) {
    if (S_ISBLK(one.st_mode)) return S_ISBLK(other.st_mode) && one.st_rdev == other.st_rdev;
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// Whether QEMU itself may read what the descriptor stands for: we may read more than it, and must
// not do so on its behalf. O_PATH needs no right to the file.
bool opened_for_reading(pid_t pid, std::string const& number) {
    std::ifstream lines(fmt::format("/proc/{}/fdinfo/{}", pid, number));
    constexpr std::string_view key = "flags:";
    constexpr int octal = 8;
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(key)) continue;
        auto const flags = std::strtoul(line.c_str() + key.size(), nullptr, octal);
        return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_WRONLY;
    }
    return false;
}

// Needs the rights to look at QEMU's descriptors: root, or QEMU's own user.
Result<> held_by(pid_t pid, struct stat const& wanted) {
    // A client made by launch() has ourselves as its peer; what we opened proves nothing.
    if (pid <= 0 || pid == getpid()) return fail(Errc::refused, "QEMU's pid is not known");
    auto const directory = fmt::format("/proc/{}/fd", pid);
    std::error_code error;
    std::filesystem::directory_iterator entries(directory, error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
        struct stat found{};
        if (stat(entries->path().c_str(), &found) == 0 && same_file(wanted, found) &&
            opened_for_reading(pid, entries->path().filename())) {
            return {};
        }
    }
    if (error) return fail_errno(error.value(), "cannot list {}", directory);
    return fail(Errc::refused, "QEMU (pid {}) has another file open", pid);
}

bool passes_bytes_through(qmp::BlockNode const& node) {
    // A path and no "json:" means that the node is exactly a protocol node, or the raw format on
    // one: an offset, a size or a node in between has no such short form.
    bool const plain = node.file_name_told.starts_with('/');
    return plain && (node.driver == "raw" || node.driver == "file" || node.driver == "host_device");
}

}  // namespace

Result<ImageFile> ImageFile::open(qmp::BlockNode const& node, pid_t qemu) {
    if (!passes_bytes_through(node)) {
        return fail(Errc::refused, "node {} ({}, {}) is not a plain raw image", node.node_name,
                    node.driver, node.file_name_told);
    }
    auto const& path = node.file_name_told;
    // Looked at before it is opened: opening a FIFO or a tape does something.
    struct stat about{};
    if (stat(path.c_str(), &about) != 0) return fail_errno(errno, "cannot find {}", path);
    if (!S_ISREG(about.st_mode) && !S_ISBLK(about.st_mode)) {
        return fail(Errc::refused, "{} is neither a file nor a block device", path);
    }
    int const flags = O_RDONLY | O_CLOEXEC | (node.cache_direct ? O_DIRECT : 0);
    ImageFile image{core::Fd(::open(path.c_str(), flags)), path, node.cache_direct};
    if (!image.file) return fail_errno(errno, "cannot open {}", path);
    if (fstat(image.file.get(), &about) != 0) return fail_errno(errno, "cannot look at {}", path);
    TRY_VOID(held_by(qemu, about));
    off_t const size = lseek(image.file.get(), 0, SEEK_END);
    if (size < 0 || static_cast<std::uint64_t>(size) != node.virtual_bytes) {
        return fail(Errc::refused, "{} has {} bytes, but the disk {}", path, size,
                    node.virtual_bytes);
    }
    return image;
}

Task<Result<>> BaseReader::read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                Deadline deadline) {
    std::uint64_t const size = pool_.traits().size;
    auto const there =
        static_cast<std::size_t>(std::min<std::uint64_t>(length, size - std::min(size, offset)));
    std::ranges::fill(buffer.bytes().first(length).subspan(there), std::byte{0});
    if (there == 0) co_return Result<>{};
    co_return co_await pool_.least_loaded().pread(std::move(buffer), there, offset,
                                                  std::move(deadline));
}

Task<Result<>> ImageReader::read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                 Deadline deadline) {
    assert(length <= buffer.size());
    if (image_.direct && offset % limits::buffer_alignment_bytes != 0) {
        return otherwise_.least_loaded().pread(std::move(buffer), length, offset,
                                               std::move(deadline));
    }
    return read_file(std::move(buffer), length, offset, std::move(deadline));
}

Task<Result<>> ImageReader::read_file(Buffer buffer, std::size_t length, std::uint64_t offset,
                                      Deadline deadline) {
    // O_DIRECT wants whole blocks; the end of the file cuts the last one off.
    auto const whole = image_.direct ? buffer.room() : buffer.bytes().first(length);
    for (std::size_t done = 0; done < length;) {
        auto const count = co_await loop_.read_at(image_.file.get(), whole.subspan(done),
                                                  offset + done, buffer.registered(), deadline);
        if (!count) {
            auto error = count.error();
            co_return std::unexpected(std::move(error).while_doing(
                fmt::format("reading {} bytes at {} of {}", length, offset, image_.path)));
        }
        if (*count == 0) {
            co_return fail(Errc::io, "{} ends before byte {}: it was cut off under the guest",
                           image_.path, offset + length);
        }
        done += static_cast<std::size_t>(*count);
    }
    co_return Result<>{};
}

}  // namespace storage
