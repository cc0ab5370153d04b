#include "sidecar/migration/disk_targets.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "storage/block_device.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

Result<> take_disk_targets(SourceContext context) {
    auto& disks = context.description.disks;
    for (auto const& target : context.options.disks) {
        auto const disk = std::ranges::find(disks, target.disk, &MovedDisk::name);
        if (disk != disks.end()) {
            disk->target = target.path;
            continue;
        }
        std::vector<std::string> names;
        for (auto const& one : disks) names.push_back(one.name);
        return fail(Errc::refused, "--disk {}={}: the guest has no such disk that is written{}{}",
                    target.disk, target.path, names.empty() ? "" : "; it has ",
                    fmt::join(names, ", "));
    }
    return {};
}

Result<> check_targets_known(SourceContext context) {
    if (context.peer.offers(protocol::Feature::block_device)) return {};
    for (auto const& disk : context.description.disks) {
        if (!disk.target.empty()) {
            return fail(Errc::refused, "the sidecar of {} is too old for --disk {}={}",
                        context.options.destination, disk.name, disk.target);
        }
        if (storage::is_block_device(disk.path)) {
            return fail(Errc::refused,
                        "the sidecar of {} is too old for disk {}, which is the block device {}",
                        context.options.destination, disk.name, disk.path);
        }
    }
    return {};
}

}  // namespace sidecar
