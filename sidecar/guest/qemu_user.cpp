#include "sidecar/guest/qemu_user.hpp"

#include <algorithm>
#include <filesystem>

#include "qmp/command_line.hpp"
#include "sidecar/host/process_user.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;

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

Task<Result<qmp::CommandLine>> fit_user_option(core::Loop& loop, qmp::CommandLine line,
                                               core::Deadline deadline) {
    constexpr std::size_t help_of_options_bytes_max = 1 << 20;  // QEMU 10.0 prints 60 KiB
    if (line.user().empty()) co_return line;
    CO_TRY(auto const help, co_await core::output_of(loop, {line.program(), "-help"},
                                                     help_of_options_bytes_max, deadline));
    bool const has_runas = help.contains("\n-runas ");
    bool const has_run_with = help.contains("[,user=") || help.contains("user=username");
    bool const is_runas = std::ranges::any_of(
        line.options(), [](qmp::Option const& option) { return option.kind() == "runas"; });
    if (is_runas && !has_runas && has_run_with) line.name_user_by("run-with");
    if (!is_runas && !has_run_with && has_runas) line.name_user_by("runas");
    co_return line;
}

}  // namespace sidecar
