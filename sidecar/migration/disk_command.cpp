#include "sidecar/migration/disk_command.hpp"

#include <algorithm>
#include <climits>

#include "core/log.hpp"
#include "core/process.hpp"
#include "qmp/launch_policy.hpp"
#include "qmp/reviewer.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// The name of a disk comes from the source, and becomes a word of a command.
Result<> check_name(std::string const& disk) {
    bool const good = !disk.empty() && disk.size() <= limits::disk_name_bytes_max &&
                      disk.front() != '-' && disk.front() != '.' && qmp::is_word(disk);
    if (good) return {};
    return fail(Errc::refused,
                "disk `{}` has no name that the destination's --disk-command could use: give its "
                "device an id of letters, digits, `-` and `_`",
                disk);
}

Task<Result<std::string>> run_disk_command(DestinationContext context, std::string verb,
                                           MadeDisk disk) {
    auto const& program = context.options.disk_command;
    auto const said = co_await core::output_of(
        context.loop, {program, verb, context.name, disk.name, std::to_string(disk.bytes)},
        limits::disk_command_bytes_max, Deadline::after(limits::disk_command_timeout));
    if (said) co_return said->substr(0, said->find('\n'));
    co_return fail(Errc::refused, "the destination's disk command did not {} disk {}: {}", verb,
                   disk.name, said.error().sentence());
}

Result<> check_place(std::string const& disk, std::string const& place) {
    bool const control = std::ranges::any_of(
        place, [](char byte) { return static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f; });
    if (place.starts_with('/') && place.size() < PATH_MAX && !control) return {};
    return fail(Errc::refused,
                "the destination's disk command printed no absolute path for disk {}, but `{}`",
                disk, control ? "control characters" : place);
}

}  // namespace

Task<Result<>> DiskCommand::ask(Description& description) const {
    if (!is_set()) co_return Result<>{};
    for (auto& disk : description.disks) {
        if (!disk.target.empty()) continue;
        CO_TRY_VOID(check_name(disk.name));
        CO_TRY(disk.target,
               co_await run_disk_command(context_, "check", {disk.name, disk.virtual_bytes}));
        CO_TRY_VOID(check_place(disk.name, disk.target));
        disk.made_here = true;
    }
    co_return Result<>{};
}

Task<Result<>> DiskCommand::create(std::function<Result<>()> record) {
    if (!is_set()) co_return Result<>{};
    auto& disks = context_.description.disks;
    for (auto const& disk : disks) {
        if (!disk.target.empty()) continue;
        CO_TRY_VOID(check_name(disk.name));
        made_.push_back({disk.name, disk.virtual_bytes});
    }
    CO_TRY_VOID(record());
    for (auto& disk : disks) {
        if (!disk.target.empty()) continue;
        CO_TRY(auto const place,
               co_await run_disk_command(context_, "create", {disk.name, disk.virtual_bytes}));
        CO_TRY_VOID(check_place(disk.name, place));
        core::log::info("guest={} migration_id={} disk={} gets {} of the disk command",
                        context_.name, context_.migration_id, disk.name, place);
        disk.target = place;
    }
    co_return Result<>{};
}

Task<void> DiskCommand::remove() {
    auto const made = std::exchange(made_, {});
    co_await remove_made_disks(context_, made);
}

Task<void> remove_made_disks(DestinationContext context, std::vector<MadeDisk> disks) {
    for (auto const& disk : disks) {
        if (context.options.disk_command.empty() || !check_name(disk.name)) {
            core::log::warning(
                "guest={} disk={} `serve` has no disk command now: what it made stays",
                context.name, disk.name);
            continue;
        }
        auto const removed = co_await run_disk_command(context, "remove", disk);
        if (!removed) core::log::warning("guest={} {}", context.name, removed.error().sentence());
    }
}

}  // namespace sidecar
