#include "sidecar/guest/qemu_user.hpp"

#include <filesystem>

#include "qmp/command_line.hpp"
#include "sidecar/host/process_user.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

Result<> check_qemu_may_write(pid_t qemu, std::vector<MovedDisk> const& disks) {
    TRY(auto const user, user_of(qemu));
    if (!is_other_user(user)) return {};
    for (auto const& disk : disks) {
        if (storage::may_write(disk.path, user)) continue;
        return fail(Errc::refused,
                    "QEMU runs as user {}, who may not write {} (disk {}): it could not open it "
                    "again after a migration that fails, nor at the destination: give the image "
                    "to that user (chown)",
                    user.uid, disk.path, disk.name);
    }
    return {};
}

Result<> check_user_here(Description const& description, std::vector<std::string> const& paths) {
    TRY(auto const line, qmp::CommandLine::parse(description.argv));
    auto const name = line.user();
    if (name.empty() || name.contains(':')) return {};  // numbers: QEMU takes any
    auto const user = storage::ids_of_user(name);
    if (!user) {
        return fail(Errc::refused,
                    "QEMU runs as user {}: the destination has no user of that name in /etc/passwd",
                    name);
    }
    for (auto const& path : paths) {
        auto const directory = std::filesystem::path(path).parent_path().string();
        if (storage::may_pass(directory, *user)) continue;
        return fail(Errc::refused,
                    "QEMU runs as user {}, who may not pass the directory {} on the destination",
                    name, directory);
    }
    return {};
}

}  // namespace sidecar
