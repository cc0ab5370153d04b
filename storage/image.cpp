#include "storage/image.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/process.hpp"
#include "core/sync.hpp"
#include "storage/block_device.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

// Where QEMU locks an image (its file-posix driver): one byte for each permission held or not
// shared.
constexpr off_t qemu_lock_bytes_begin = 100;
constexpr off_t qemu_lock_bytes_length = 200;

struct Output {
    int status = 0;
    std::string text;
    std::string errors;
};

Task<Result<>> read_all(core::Loop& loop, int fd, std::string& text, Deadline deadline) {
    std::vector<std::byte> chunk(64 * 1024);
    for (;;) {
        CO_TRY(int const count, co_await loop.read(fd, chunk, deadline));
        if (count == 0) co_return Result<>{};
        text.append(reinterpret_cast<char const*>(chunk.data()), static_cast<std::size_t>(count));
        if (text.size() > limits::qemu_img_output_bytes_max) {
            co_return fail(Errc::protocol, "qemu-img says more than {} bytes",
                           limits::qemu_img_output_bytes_max);
        }
    }
}

/// qemu-img reports the kernel's error only as text.
std::unexpected<core::Error> failed_with(std::string what, std::string const& errors) {
    auto failure = fail(Errc::io, "{}: {}", what, errors);
    if (errors.find("No space left on device") != std::string::npos) failure.error().os = ENOSPC;
    return failure;
}

Task<Result<Output>> start_qemu_img(core::Loop& loop, std::vector<std::string> arguments,
                                    Deadline deadline) {
    int out[2];
    int err[2];
    if (pipe2(out, O_CLOEXEC) < 0) co_return fail_errno(errno, "cannot make a pipe");
    Fd out_read(out[0]);
    Fd out_write(out[1]);
    if (pipe2(err, O_CLOEXEC) < 0) co_return fail_errno(errno, "cannot make a pipe");
    Fd err_read(err[0]);
    Fd err_write(err[1]);
    arguments.insert(arguments.begin(), "qemu-img");
    core::SpawnOptions options;
    options.stdout_fd = out_write.get();
    options.stderr_fd = err_write.get();
    CO_TRY(auto process, core::spawn(arguments, options));
    out_write.reset();
    err_write.reset();
    Output output;
    // One after the other: qemu-img's complaints fit a pipe (64 KiB) many times over.
    auto read = co_await read_all(loop, out_read.get(), output.text, deadline);
    if (read) read = co_await read_all(loop, err_read.get(), output.errors, deadline);
    if (!read) (void)process.signal(SIGKILL);
    CO_TRY(output.status, co_await core::wait_exit(loop, process, Deadline::never()));
    CO_TRY_VOID(std::move(read));
    while (!output.errors.empty() && output.errors.back() == '\n') output.errors.pop_back();
    co_return output;
}

// What only touches headers.
Task<Result<Output>> qemu_img(core::Loop& loop, std::vector<std::string> arguments,
                              Deadline deadline) {
    return start_qemu_img(loop, std::move(arguments), deadline.sooner(limits::qemu_img));
}

// As qemu-img wants it: "a:b" would be taken for a protocol.
std::string plain(std::string const& path) { return path.starts_with('/') ? path : "./" + path; }

}  // namespace

Result<> sync_directory_of(std::string const& path) {
    auto directory = std::filesystem::path(path).parent_path().string();
    if (directory.empty()) directory = ".";
    Fd const fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || fsync(fd.get()) < 0) return fail_errno(errno, "cannot sync {}", directory);
    return {};
}

Task<Result<>> run_qemu_img(core::Loop& loop, std::vector<std::string> arguments,
                            Deadline deadline) {
    auto const what = fmt::format("{} {}", arguments.front(), arguments.back());
    CO_TRY(auto const output, co_await start_qemu_img(loop, std::move(arguments), deadline));
    if (output.status == 0) co_return Result<>{};
    co_return failed_with(fmt::format("qemu-img {} failed", what), output.errors);
}

Task<Result<ImageInfo>> image_info(core::Loop& loop, std::string path, std::string format,
                                   Deadline deadline) {
    if (access(path.c_str(), R_OK) < 0)
        co_return fail_errno(errno, "cannot read the disk {}", path);
    std::vector<std::string> arguments{"info", "--output=json", "-U"};
    if (!format.empty()) arguments.insert(arguments.end(), {"-f", format});
    arguments.push_back(plain(path));
    CO_TRY(auto const output, co_await qemu_img(loop, std::move(arguments), deadline));
    if (output.status != 0) {
        co_return fail(Errc::invalid, "the disk {} is not a usable image: {}", path, output.errors);
    }
    CO_TRY(auto const json, core::Json::parse(output.text));
    ImageInfo info;
    info.path = path;
    CO_TRY(info.format, json.text("format"));
    CO_TRY(auto const virtual_bytes, json.integer("virtual-size"));
    info.virtual_bytes = static_cast<std::uint64_t>(virtual_bytes);
    info.allocated_bytes = static_cast<std::uint64_t>(json["actual-size"].integer_or(0));
    if (json.has("cluster-size")) {
        info.cluster_bytes = static_cast<std::uint64_t>(json["cluster-size"].integer_or(0));
    }
    info.backing_file = json["backing-filename"].text_or("");
    info.backing_format = json["backing-filename-format"].text_or("");
    info.encrypted = json["encrypted"].boolean_or(false);
    info.has_internal_snapshots = json["snapshots"].size() > 0;
    co_return info;
}

namespace {

// As `qemu-img create -o` takes it.
std::string layout_text(Qcow2Layout const& layout) {
    std::vector<std::string> words;
    if (layout.cluster_bytes != 0)
        words.push_back(fmt::format("cluster_size={}", layout.cluster_bytes));
    if (!layout.compat.empty()) words.push_back("compat=" + layout.compat);
    if (layout.refcount_bits != 0)
        words.push_back(fmt::format("refcount_bits={}", layout.refcount_bits));
    // Named only where it is not the default: an image of compat 0.10 knows neither.
    if (!layout.compression.empty() && layout.compression != "zlib")
        words.push_back("compression_type=" + layout.compression);
    if (layout.extended_l2) words.emplace_back("extended_l2=on");
    if (layout.lazy_refcounts) words.emplace_back("lazy_refcounts=on");
    return fmt::format("{}", fmt::join(words, ","));
}

}  // namespace

Task<Result<InodeIdentity>> create_image(core::Loop& loop, std::string path, std::string format,
                                         std::uint64_t virtual_bytes, CreateOptions options,
                                         Deadline deadline) {
    if (format != "raw" && format != "qcow2") {
        co_return fail(Errc::invalid, "cannot create a disk of format {}: only raw and qcow2",
                       format);
    }
    Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) co_return fail_errno(errno, "cannot create the disk {}", path);
    CO_TRY(auto const identity, identity_of(file.get()));
    Result<> made;
    if (format == "raw") {
        if (ftruncate(file.get(), static_cast<off_t>(virtual_bytes)) < 0) {
            made = fail_errno(errno, "cannot make the disk {} {} bytes long", path, virtual_bytes);
        }
    } else {
        std::vector<std::string> arguments{"create", "-q", "-f", format};
        if (auto const layout = layout_text(options.layout); !layout.empty()) {
            arguments.insert(arguments.end(), {"-o", layout});
        }
        if (!options.backing_file.empty()) {
            arguments.insert(arguments.end(),
                             {"-b", options.backing_file, "-F", options.backing_format});
        }
        arguments.insert(arguments.end(), {plain(path), fmt::format("{}", virtual_bytes)});
        auto const output = co_await qemu_img(loop, std::move(arguments), deadline);
        if (!output) {
            made = std::unexpected(output.error());
        } else if (output->status != 0) {
            made = failed_with("cannot create the disk " + path, output->errors);
        }
    }
    if (made && options.access) made = give_access(file.get(), *options.access);
    if (made && fsync(file.get()) < 0) made = fail_errno(errno, "cannot sync the disk {}", path);
    if (made) made = sync_directory_of(path);
    if (made) co_return identity;
    (void)remove_if_same(path, identity);
    co_return std::unexpected(std::move(made.error()));
}

Result<std::uint64_t> free_bytes(std::string const& directory) {
    struct statvfs status{};
    if (statvfs(directory.c_str(), &status) < 0) {
        return fail_errno(errno, "cannot ask for the free space of {}", directory);
    }
    return status.f_bavail * status.f_frsize;
}

Result<std::uint64_t> allocated_bytes(std::string const& path) {
    if (is_block_device(path)) {
        TRY(auto const device, look_at_device(path));
        return device.bytes;
    }
    struct stat status{};
    if (stat(path.c_str(), &status) < 0) return fail_errno(errno, "cannot look at {}", path);
    constexpr std::uint64_t stat_block_bytes = 512;
    return static_cast<std::uint64_t>(status.st_blocks) * stat_block_bytes;
}

Result<bool> in_use(std::string const& path) {
    Fd const file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno(errno, "cannot read the disk {}", path);
    struct stat status{};
    if (fstat(file.get(), &status) < 0) return fail_errno(errno, "cannot look at {}", path);
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) return false;
    struct flock lock{};
    lock.l_type = F_WRLCK;  // in the way of every lock, shared ones too
    lock.l_whence = SEEK_SET;
    lock.l_start = qemu_lock_bytes_begin;
    lock.l_len = qemu_lock_bytes_length;
    if (fcntl(file.get(), F_OFD_GETLK, &lock) < 0) {
        return fail_errno(errno, "cannot ask for the locks of {}", path);
    }
    return lock.l_type != F_UNLCK;
}

}  // namespace storage
