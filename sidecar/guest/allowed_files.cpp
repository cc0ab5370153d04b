#include "sidecar/guest/allowed_files.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/fd.hpp"
#include "sidecar/guest/image_header.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using qmp::FileAccess;
using qmp::FileUse;

namespace {

/// A file that QEMU may overwrite ends in one of these, so that no image is lost.
constexpr char const* overwritten[] = {".log", ".pid"};

auto refused(FileUse const& use, std::string const& why) {
    return fail(Errc::refused, "`{}`: {} {}", use.option, use.path, why);
}

/// Opens `path` below `directory`, without rights; fails with EXDEV or ELOOP if it leads out of it.
int open_below(int directory, std::string const& path, core::Fd& into) {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    auto const fd = syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
    int const error = fd < 0 ? errno : 0;
    into = core::Fd(static_cast<int>(fd));
    return error;
}

/// What is at a path below an allowed directory.
struct Found {
    core::Fd file;  ///< None: it does not exist.
    core::Fd directory;  ///< In which it is, or would be; none: there is none.
    bool leads_out = false;
};

Result<Found> find_below(std::string const& directory, std::string const& below) {
    Found found;
    core::Fd root(open(directory.c_str(), O_PATH | O_CLOEXEC));
    if (!root && errno == ENOENT) return found;
    if (!root) return fail_errno(errno, "cannot open {}", directory);
    if (below == ".") {  // what the operator named, even if it is a file
        found.file = std::move(root);
        return found;
    }
    int error = open_below(root.get(), below, found.file);
    auto const parent = std::filesystem::path(below).parent_path().string();
    if (error == 0 || error == ENOENT) {
        int const above = open_below(root.get(), parent.empty() ? "." : parent, found.directory);
        if (above != ENOENT && above != 0) error = above;
    }
    found.leads_out = error == EXDEV || error == ELOOP;
    if (error == 0 || error == ENOENT || found.leads_out) return found;
    return fail_errno(error, "cannot open {}/{}", directory, below);
}

/// The real path of an open file, with all links resolved.
std::string real_path(core::Fd const& file) {
    std::error_code ignored;  // an empty path is in no directory
    return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file.get()), ignored)
        .string();
}

bool is_sidecars_own(Paths const& paths, Found const& found) {
    auto const& file = found.file ? found.file : found.directory;
    if (!file) return false;
    auto const real = real_path(file);
    for (auto const& directory : {paths.run_directory, paths.state_directory}) {
        std::error_code ignored;
        auto const own = std::filesystem::weakly_canonical(directory, ignored).string();
        if (!own.empty() && qmp::path_below(own, real)) return true;
    }
    return false;
}

/// Whether a program listens on the socket.
bool is_served(std::string const& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return false;  // nobody can listen there
    std::memcpy(address.sun_path, path.c_str(), path.size());
    core::Fd const client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    auto const* const generic = reinterpret_cast<sockaddr const*>(&address);
    return connect(client.get(), generic, sizeof address) == 0 || errno == EAGAIN;
}

/// The path resolves, and something is there already.
Result<> check_existing(FileUse const& use, core::Fd const& file) {
    struct stat entry{};
    if (fstat(file.get(), &entry) < 0) return fail_errno(errno, "cannot look at {}", use.path);
    bool const is_file = S_ISREG(entry.st_mode);
    bool const is_directory = S_ISDIR(entry.st_mode);
    switch (use.access) {
        case FileAccess::read:
            if (is_file || is_directory || S_ISBLK(entry.st_mode)) return {};
            return refused(use, "is not a file");
        case FileAccess::image:
            return {};  // whether it may exist depends on whose it is
        case FileAccess::create:
            if (is_directory) return {};  // -mem-path: the file in it has no name
            for (auto const* const ending : overwritten) {
                if (is_file && use.path.ends_with(ending)) return {};
            }
            return refused(use,
                           "exists on the destination, and would be overwritten: only a file that "
                           "ends in .log or .pid may be");
        case FileAccess::listen:
            if (!S_ISSOCK(entry.st_mode)) {
                return refused(use, "exists on the destination, and is not a socket");
            }
            if (!is_served(use.path)) return {};
            return refused(use, "is the socket of a program that runs on the destination");
    }
    return {};
}

Result<> check_use(Paths const& paths, qmp::LaunchPolicy const& policy, FileUse const& use,
                   std::size_t layer);

/// QEMU opens what an image names as its backing file, with its own rights.
Result<> check_header(Paths const& paths, qmp::LaunchPolicy const& policy, FileUse const& use,
                      core::Fd const& file, std::size_t layer) {
    TRY(auto const header, read_image_header(file, use.format));
    if (header.names_other_files) {
        return refused(use, "is an image of a format that names other files: convert it to qcow2");
    }
    if (header.backing_file.empty()) return {};
    if (layer >= limits::layers_max) return refused(use, "has too many backing files");
    auto name = header.backing_file;
    if (name.starts_with("file:")) name.erase(0, 5);
    auto const end = name.find_first_of(":/");
    if (end != std::string::npos && name[end] == ':')
        return refused(use, "has the backing file " + name + ", which is not a path");
    if (!name.starts_with('/')) {
        name = (std::filesystem::path(use.path).parent_path() / name).string();
    }
    FileUse const backing{use.option, name, FileAccess::read, qmp::ImageFormat::probed};
    return check_use(paths, policy, backing, layer + 1);
}

/// The path resolves.
Result<> check_found(Paths const& paths, qmp::LaunchPolicy const& policy, FileUse const& use,
                     Found const& found, std::size_t layer) {
    if (is_sidecars_own(paths, found)) return refused(use, "belongs to sidecar itself");
    if (!found.file) return {};
    TRY_VOID(check_existing(use, found.file));
    return check_header(paths, policy, use, found.file, layer);
}

/// A name in an allowed directory that leads to a block device, as those of LVM and ZFS do
/// (/dev/VG/LV): who names devices there decides what the device is. Only for images, which are
/// named by the operator.
bool leads_to_device(FileUse const& use) {
    if (use.access != FileAccess::image) return false;
    core::Fd const file(open(use.path.c_str(), O_PATH | O_CLOEXEC));
    struct stat entry{};
    return file && fstat(file.get(), &entry) == 0 && S_ISBLK(entry.st_mode) &&
           qmp::path_below("/dev", real_path(file));
}

Result<> check_use(Paths const& paths, qmp::LaunchPolicy const& policy, FileUse const& use,
                   std::size_t layer) {
    auto directories = policy.directories;
    if (use.access == FileAccess::read) {
        directories.insert(directories.end(), policy.public_directories.begin(),
                           policy.public_directories.end());
    }
    std::string left;
    for (auto const& directory : directories) {
        auto const below = qmp::path_below(directory, use.path);
        if (!below) continue;
        TRY(auto const found, find_below(directory, *below));
        if (found.leads_out && leads_to_device(use)) return {};
        if (found.leads_out) {
            left = directory;
            continue;
        }
        return check_found(paths, policy, use, found, layer);
    }
    if (!left.empty()) {
        return refused(use, fmt::format("leads out of {} on the destination, by a symbolic link or "
                                        "`..`: name the directory to which it leads with `serve "
                                        "--map-path` or `--allow-path`",
                                        left));
    }
    return refused(use,
                   "is not in a directory that guests may use on the destination (`serve "
                   "--allow-path DIR`)");
}

}  // namespace

Result<> check_file_use(Paths const& paths, qmp::LaunchPolicy const& policy, FileUse const& use) {
    return check_use(paths, policy, use, 0);
}

}  // namespace sidecar
