#include "sidecar/migration/shared_disks.hpp"

#include <algorithm>

#include "core/tls.hpp"
#include "qmp/block.hpp"
#include "storage/block_device.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Bytes of a secret: too many to guess one while a check runs.
constexpr std::size_t secret_bytes = 16;

/// A device has no directory of its own that could be marked, and counts as this host's. A disk
/// with a target is copied there.
bool may_be_shared(MovedDisk const& disk) {
    return disk.target.empty() && !storage::is_block_device(disk.path);
}

std::vector<std::string> paths_of(std::vector<MovedDisk> const& disks) {
    std::vector<std::string> paths;
    for (auto const& disk : disks) {
        if (may_be_shared(disk)) paths.push_back(disk.path);
    }
    return paths;
}

/// What belongs to a copy only.
MovedDisk left_in_place(MovedDisk disk, std::string inode) {
    disk.shared_inode = std::move(inode);
    disk.bases.clear();
    disk.layers_above_base = 0;
    return disk;
}

}  // namespace

Task<Result<storage::DirectoryMarks>> SharedDisks::find() {
    auto& description = context_.description;
    description.shared_secret = core::random_hex(secret_bytes);
    storage::DirectoryMarks marks(paths_of(description.disks), description.migration_id,
                                  description.shared_secret);
    CO_TRY(auto const found, co_await ask());
    std::vector<MovedDisk> copied;
    std::size_t asked = 0;
    for (auto& disk : description.disks) {
        bool const may_be = may_be_shared(disk);
        auto const index = may_be ? asked++ : found.shared.size();
        if (index < found.shared.size() && found.shared[index]) {
            CO_TRY(auto inode, storage::inode_of(disk.path));
            description.shared.push_back(left_in_place(std::move(disk), std::move(inode)));
        } else {
            copied.push_back(std::move(disk));
        }
    }
    description.disks = std::move(copied);
    if (!context_.options.with_storage && !description.disks.empty()) {
        auto const& disk = description.disks.front();
        co_return fail(Errc::refused,
                       "{} does not see the image of disk {} ({}), or does not let guests use it: "
                       "copy it with --with-storage",
                       context_.options.destination, disk.name, disk.path);
    }
    CO_TRY_VOID(check_nothing_left_behind(description));
    CO_TRY_VOID(co_await check_caches());
    co_return std::move(marks);
}

storage::DirectoryMarks SharedDisks::mark() const {
    auto const& description = context_.description;
    return {paths_of(description.shared), description.migration_id, description.shared_secret};
}

Task<Result<protocol::FindSharedAnswer>> SharedDisks::ask() {
    auto const& description = context_.description;
    // An earlier release would refuse such a disk, because a file is in the way.
    bool const can_tell = context_.peer.offers(protocol::Feature::shared_storage);
    bool const any = std::ranges::any_of(description.disks, may_be_shared);
    if (!any || !can_tell) co_return protocol::FindSharedAnswer{};
    protocol::FindShared request{description.shared_secret, {}};
    for (auto const& disk : description.disks) {
        if (!may_be_shared(disk)) continue;
        CO_TRY(auto inode, storage::inode_of(disk.path));
        request.images.push_back({disk.path, std::move(inode)});
    }
    co_return co_await context_.peer.request(std::move(request),
                                             context_.within(limits::check_timeout));
}

/// What one host has in its cache and has not written, the other does not see: QEMU must bypass the
/// cache of a network file system.
Task<Result<>> SharedDisks::check_caches() {
    auto const& shared = context_.description.shared;
    if (shared.empty()) co_return Result<>{};
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(
                                 *context_.guest.client, context_.within(limits::qmp_timeout)));
    for (auto const& disk : shared) {
        CO_TRY(bool const per_host, storage::is_cached_per_host(disk.path));
        auto const node = std::ranges::find(nodes, disk.node, &qmp::BlockNode::node_name);
        if (!per_host || (node != nodes.end() && node->cache_direct)) continue;
        co_return fail(Errc::refused,
                       "disk {} ({}) is on a network file system, and each host would have a cache "
                       "of its own: start the guest with cache=none for it (cache.direct=on)",
                       disk.name, disk.path);
    }
    co_return Result<>{};
}

}  // namespace sidecar
