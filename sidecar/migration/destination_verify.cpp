// The verb `hash` of `migrate --verify`: the content of a disk of the waiting QEMU, for the source
// to compare with what it sent. It changes nothing and does not involve the machine. It is answered
// only while the disks are exported.
#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/migration/destination_migration.hpp"
#include "storage/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<protocol::HashAnswer>> DestinationMigration::on(protocol::Hash request) {
    auto const deadline = Deadline::after(storage::limits::hash_answer);
    CO_TRY(auto const hasher, co_await open_hasher(deadline));
    CO_TRY(auto const hash,
           co_await hasher->hash(request.disk, std::move(request.ranges), deadline));
    co_return protocol::HashAnswer{hash};
}

/// Opened once, by the first request; several requests may come at the same time.
Task<Result<std::shared_ptr<storage::Hasher>>> DestinationMigration::open_hasher(
    Deadline deadline) {
    CO_TRY_VOID(co_await hasher_turn_.acquire(deadline));
    Result<> opened;
    if (state_.phase != machine::destination::Phase::prepared || !target_) {
        opened = fail(Errc::refused, "the disks cannot be read now: {}",
                      machine::destination::name(state_.phase));
    } else if (!hasher_) {
        opened = co_await make_hasher(deadline);
    }
    auto const hasher = hasher_;
    hasher_turn_.release();
    if (!opened) co_return std::unexpected(std::move(opened.error()));
    co_return hasher;
}

Task<Result<>> DestinationMigration::make_hasher(Deadline deadline) {
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(*guest_->client, deadline));
    std::vector<storage::HashedDisk> disks;
    for (auto const& disk : target_disks_) {
        storage::HashedDisk hashed{disk.export_name, {}};
        auto const node = std::ranges::find(nodes, disk.node, &qmp::BlockNode::node_name);
        if (node != nodes.end()) {
            auto image = storage::ImageFile::open(*node, guest_->process.pid());
            if (image) hashed.image = std::move(*image);
            core::log::debug("guest={} disk={} is hashed by {}", name_, disk.export_name,
                             image ? "its image" : "NBD: " + image.error().sentence());
        }
        disks.push_back(std::move(hashed));
    }
    // The server listens on every address; its key is in a file for the duration of the migration.
    auto const key = key_file(key_directory());
    bool const encrypted = access(key.c_str(), F_OK) == 0;
    storage::NbdAddress const here{"", "127.0.0.1", std::to_string(nbd_port_),
                                   encrypted ? key_user : "", encrypted ? key : ""};
    auto made = std::make_shared<storage::Hasher>(loop_, here, std::move(disks));
    auto opened = co_await made->open(deadline);
    if (opened) hasher_ = std::move(made);
    if (!opened) co_await made->close();
    co_return opened;
}

Task<void> DestinationMigration::close_hasher() {
    (void)co_await hasher_turn_.acquire(Deadline::never());  // without a limit it always succeeds
    if (hasher_) co_await hasher_->close();
    hasher_.reset();
    hasher_turn_.release();
}

}  // namespace sidecar
