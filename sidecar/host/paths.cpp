#include "sidecar/host/paths.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "core/fd.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

Paths Paths::defaults() {
    auto const variable = [](char const* name, char const* fallback) {
        char const* value = std::getenv(name);
        return std::string(value != nullptr && *value != '\0' ? value : fallback);
    };
    return {variable("SIDECAR_RUN_DIR", "/run/sidecar"),
            variable("SIDECAR_STATE_DIR", "/var/lib/sidecar"), variable("SIDECAR_REGISTRY", "")};
}

std::string own_program() {
    std::error_code error;
    auto const path = std::filesystem::read_symlink("/proc/self/exe", error);
    std::string name = error ? std::string("/proc/self/exe") : path.string();
    // After an upgrade our own file is deleted; the new file at its path is to be started.
    constexpr std::string_view gone = " (deleted)";
    if (name.ends_with(gone)) name.resize(name.size() - gone.size());
    return name;
}

Result<> sync_directory(std::string const& path) {
    core::Fd const directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || fsync(directory.get()) < 0) return fail_errno(errno, "cannot sync {}", path);
    return {};
}

namespace {

Result<> check_private(std::string const& path, struct stat const& directory) {
    if (directory.st_uid != 0 && directory.st_uid != geteuid()) {
        return fail(Errc::refused,
                    "the directory {} belongs to user {}: it must belong to root or to user {}, "
                    "who runs sidecar",
                    path, directory.st_uid, geteuid());
    }
    bool const by_group = (directory.st_mode & S_IWGRP) != 0 && directory.st_gid != 0 &&
                          directory.st_gid != getegid();
    bool const by_others = (directory.st_mode & S_IWOTH) != 0;
    if ((by_group || by_others) && (directory.st_mode & S_ISVTX) == 0) {
        return fail(Errc::refused, "other users may write in the directory {}: `chmod go-w {}`",
                    path, path);
    }
    return {};
}

}  // namespace

Result<> make_directory(std::string const& path) {
    auto const parent = std::filesystem::path(path).parent_path().string();
    struct stat existing{};
    if (stat(path.c_str(), &existing) == 0) {
        if (S_ISDIR(existing.st_mode)) return check_private(path, existing);
        return fail(Errc::invalid, "{} exists, and is not a directory", path);
    }
    if (!parent.empty() && parent != path) TRY_VOID(make_directory(parent));
    if (mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) {
        return fail_errno(errno, "cannot make the directory {}", path);
    }
    return sync_directory(parent.empty() ? "." : parent);
}

bool is_from_our_user(int socket) {
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

Result<> check_guest_name(std::string const& name) {
    constexpr std::size_t length_max =
        64;  // leaves room for the socket paths, which the kernel limits to 107
    constexpr std::string_view allowed =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (name.empty() || name.size() > length_max || name.front() == '.' || name.front() == '-' ||
        name.find_first_not_of(allowed) != std::string::npos) {
        return fail(
            Errc::invalid,
            "`{}` is not a guest name: use letters, digits, `-`, `_` and `.`, at most {} of them",
            name, length_max);
    }
    return {};
}

namespace {

Result<> write_new(std::string const& path, std::string const& text, unsigned mode, bool sync) {
    auto const temporary = path + ".new";
    // Anew, so that nothing is written through a link: QEMU's user owns some of these directories.
    if (unlink(temporary.c_str()) < 0 && errno != ENOENT)
        return fail_errno(errno, "cannot write {}", path);
    core::Fd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!file) return fail_errno(errno, "cannot write {}", path);
    std::size_t written = 0;
    while (written < text.size()) {
        auto const part = write(file.get(), text.data() + written, text.size() - written);
        if (part < 0) return fail_errno(errno, "cannot write {}", path);
        written += static_cast<std::size_t>(part);
    }
    if (sync && fsync(file.get()) < 0) return fail_errno(errno, "cannot write {}", path);
    if (rename(temporary.c_str(), path.c_str()) < 0)
        return fail_errno(errno, "cannot write {}", path);
    return {};
}

}  // namespace

Result<> write_replacing(std::string const& path, std::string const& text) {
    return write_new(path, text, 0600, false);
}

Result<> write_durably(std::string const& path, std::string const& text, unsigned mode) {
    TRY_VOID(write_new(path, text, mode, true));
    return sync_directory(std::filesystem::path(path).parent_path().string());
}

Result<std::string> read_file(std::string const& path, std::size_t bytes_max) {
    core::Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return fail_errno(errno, "cannot read {}", path);
    std::string text;
    char buffer[4096];
    for (;;) {
        auto const got = read(file.get(), buffer, sizeof buffer);
        if (got < 0) return fail_errno(errno, "cannot read {}", path);
        if (got == 0) return text;
        text.append(buffer, static_cast<std::size_t>(got));
        if (text.size() > bytes_max)
            return fail(Errc::invalid, "{} is longer than {} bytes", path, bytes_max);
    }
}

bool same_file(std::string const& one, std::string const& other) {
    struct stat a{};
    struct stat b{};
    return stat(one.c_str(), &a) == 0 && stat(other.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

}  // namespace sidecar
