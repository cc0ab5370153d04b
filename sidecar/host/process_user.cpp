#include "sidecar/host/process_user.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <sstream>

#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

using core::fail_errno;
using core::Result;

Result<storage::UserIds> user_of(pid_t process) {
    // Not the owner of /proc/PID: that is root for a process that was root.
    TRY(auto const status,
        read_file(fmt::format("/proc/{}/status", process), limits::manifest_bytes_max));
    storage::UserIds user;
    std::istringstream lines(status);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string name;
        unsigned real = 0;
        words >> name >> real;
        if (name == "Uid:") words >> user.uid;
        if (name == "Gid:") words >> user.gid;
    }
    return user;
}

bool is_other_user(storage::UserIds const& user) { return user.uid != 0 && user.uid != geteuid(); }

Result<> let_pass(std::string const& directory) {
    struct stat status{};
    if (stat(directory.c_str(), &status) < 0)
        return fail_errno(errno, "cannot look at {}", directory);
    if ((status.st_mode & S_IXOTH) != 0) return {};
    if (chmod(directory.c_str(), (status.st_mode & 07777) | S_IXGRP | S_IXOTH) == 0) return {};
    return fail_errno(errno, "cannot open {} to QEMU's user", directory);
}

Result<std::string> socket_directory(std::string const& guest_run_directory, pid_t qemu) {
    TRY(auto const user, user_of(qemu));
    if (!is_other_user(user)) return guest_run_directory;
    auto const directory = guest_run_directory + "/nbd";
    struct stat entry{};
    // Of an earlier sidecar of the same QEMU.
    bool const is_theirs =
        lstat(directory.c_str(), &entry) == 0 && S_ISDIR(entry.st_mode) && entry.st_uid == user.uid;
    if (!is_theirs) TRY_VOID(make_directory(directory));
    if (lchown(directory.c_str(), user.uid, user.gid) < 0)
        return fail_errno(errno, "cannot give {} to QEMU's user", directory);
    TRY_VOID(let_pass(guest_run_directory));
    TRY_VOID(let_pass(std::filesystem::path(guest_run_directory).parent_path().string()));
    return directory;
}

}  // namespace sidecar
