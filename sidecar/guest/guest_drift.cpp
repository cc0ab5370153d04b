#include "sidecar/guest/guest_drift.hpp"

#include <algorithm>
#include <optional>

#include "qmp/block.hpp"
#include "qmp/vm.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

constexpr std::string_view anonymous = "(anonymous) ";

/// The first of `names` that is not in `others`.
std::optional<std::string> first_missing(std::vector<std::string> const& names,
                                         std::vector<std::string> const& others) {
    for (auto const& name : names) {
        if (std::ranges::find(others, name) == others.end()) return name;
    }
    return {};
}

Result<> check_devices(std::vector<std::string> const& before,
                       std::vector<std::string> const& now) {
    if (auto const plugged = first_missing(now, before)) {
        return fail(Errc::refused,
                    "the device {} was plugged in while the guest was copied, and the destination "
                    "does not have it: unplug it, and migrate again",
                    *plugged);
    }
    if (auto const taken = first_missing(before, now)) {
        return fail(Errc::refused,
                    "the device {} was unplugged while the guest was copied, and the destination "
                    "still has it: plug it in again, and migrate again",
                    *taken);
    }
    return {};
}

Result<> check_disk(MovedDisk const& disk, std::vector<qmp::BlockDevice> const& devices) {
    auto const now = std::ranges::find_if(devices, [&](qmp::BlockDevice const& device) {
        return device.device == disk.device && device.qdev == disk.qdev;
    });
    if (now == devices.end() || !now->inserted) {
        return fail(Errc::refused,
                    "disk {} was unplugged or ejected while the guest was copied: migrate again",
                    disk.name);
    }
    if (now->node_name != disk.node || (!disk.top_node.empty() && now->top_node != disk.top_node)) {
        return fail(Errc::refused,
                    "disk {} writes to {} now, which was not there when the copy began (a snapshot "
                    "was taken?): commit it, and migrate again",
                    disk.name, now->file_name);
    }
    if (now->virtual_bytes != disk.virtual_bytes) {
        return fail(Errc::refused,
                    "disk {} had {} bytes when the copy began and has {} now: migrate again",
                    disk.name, disk.virtual_bytes, now->virtual_bytes);
    }
    return {};
}

}  // namespace

Task<Result<std::vector<std::string>>> device_names(qmp::Client& client, Deadline deadline) {
    std::vector<std::string> names;
    for (bool const named : {true, false}) {
        std::string const path = named ? "/machine/peripheral" : "/machine/peripheral-anon";
        CO_TRY(auto const children, co_await qmp::qom_list(client, path, deadline));
        for (auto const& child : children) {
            if (!child.type.starts_with("child<")) continue;
            names.push_back(std::string(named ? "" : anonymous) + child.name);
        }
    }
    co_return names;
}

Result<> check_images(qmp::CommandLine const& line, Description const& description) {
    TRY_VOID(check_groups_as_started(line, description.throttle_groups));
    auto const images = line.disks();
    for (auto const& disk : description.disks) {
        bool const named = std::ranges::any_of(images, [&](qmp::DiskOption const& image) {
            return image.local && !image.backing &&
                   same_file(absolute(image.file_name, description.working_directory), disk.path);
        });
        if (named) continue;
        return fail(Errc::refused,
                    "disk {} writes to {}, which QEMU's command line does not name (a snapshot was "
                    "taken?), and the destination starts from the command line: commit it first",
                    disk.name, disk.path);
    }
    return {};
}

namespace {

/// Whether an option of the command line names the image that a drive has now.
bool names_image(qmp::DiskOption const& option, qmp::BlockDevice const& device,
                 std::string const& working_directory) {
    if (!option.local) return option.file_name == device.file_name;
    return same_file(absolute(option.file_name, working_directory),
                     absolute(device.file_name, working_directory));
}

}  // namespace

Result<> check_media(qmp::CommandLine const& line, std::vector<qmp::BlockDevice> const& devices,
                     std::string const& working_directory) {
    auto const images = line.disks();
    for (auto const& device : devices) {
        if (!device.removable || !device.inserted || !device.read_only) continue;
        bool const named = std::ranges::any_of(images, [&](qmp::DiskOption const& image) {
            return names_image(image, device, working_directory);
        });
        if (named) continue;
        return fail(Errc::refused,
                    "the medium in {} is {}, which QEMU's command line does not name, and the "
                    "destination starts from the command line: put the earlier one back first "
                    "(blockdev-change-medium)",
                    device.device.empty() ? device.qdev : device.device, device.file_name);
    }
    for (auto const& image : images) {
        if (!image.cdrom || !image.local || image.file_name.empty()) continue;
        bool const inserted = std::ranges::any_of(devices, [&](qmp::BlockDevice const& device) {
            return device.inserted && names_image(image, device, working_directory);
        });
        if (inserted) continue;
        return fail(Errc::refused,
                    "{}, which QEMU's command line names, was ejected, and the guest would have it "
                    "again on the destination, which starts from the command line: insert it first "
                    "(blockdev-change-medium)",
                    image.file_name);
    }
    return {};
}

Task<Result<>> check_same_disks(qmp::Client& client, Description const& description,
                                Deadline deadline) {
    CO_TRY(auto const devices, co_await qmp::query_block(client, deadline));
    for (auto const& disk : description.shared) CO_TRY_VOID(check_disk(disk, devices));
    for (auto const& disk : description.disks) {
        CO_TRY_VOID(check_disk(disk, devices));
        if (disk.bases.empty()) continue;
        CO_TRY_VOID(
            co_await check_same_chain(client, disk, description.working_directory, deadline));
    }
    co_return Result<>{};
}

Task<Result<>> check_same_parts(qmp::Client& client, Description const& description,
                                Deadline deadline) {
    CO_TRY(auto const devices, co_await device_names(client, deadline));
    CO_TRY_VOID(check_devices(description.devices, devices));
    co_return co_await check_same_disks(client, description, deadline);
}

Task<Result<>> check_same_guest(qmp::Client& client, Description const& description,
                                Deadline deadline) {
    CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
    if (status.status != name(description.state)) {
        co_return fail(Errc::refused,
                       "the guest was stopped or continued while it was copied (QEMU says {}, and "
                       "said {} when the copy began): migrate again",
                       status.status, name(description.state));
    }
    co_return co_await check_same_parts(client, description, deadline);
}

}  // namespace sidecar
