#include "sidecar/migration/destination_hasher.hpp"

#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "sidecar/host/keys.hpp"
#include "storage/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Result;
using core::Task;

Task<Result<protocol::HashAnswer>> DestinationHasher::hash(
    protocol::Hash request, std::vector<storage::TargetDisk> const& disks, int const& port,
    std::function<Result<>()> exported) {
    auto const deadline = Deadline::after(storage::limits::hash_answer);
    CO_TRY_VOID(co_await turn_.acquire(deadline));
    auto opened = exported();
    if (opened && !hasher_) opened = co_await open(disks, port, deadline);
    auto const hasher = hasher_;
    turn_.release();
    if (!opened) co_return std::unexpected(std::move(opened.error()));
    CO_TRY(auto const hash,
           co_await hasher->hash(request.disk, std::move(request.ranges), deadline));
    co_return protocol::HashAnswer{hash};
}

Task<Result<>> DestinationHasher::open(std::vector<storage::TargetDisk> const& disks, int port,
                                       Deadline deadline) {
    auto& guest = *context_.guest;
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(*guest.client, deadline));
    std::vector<storage::HashedDisk> read;
    for (auto const& disk : disks) {
        storage::HashedDisk hashed{disk.export_name, {}};
        auto const node = std::ranges::find(nodes, disk.node, &qmp::BlockNode::node_name);
        if (node != nodes.end()) {
            auto image = storage::ImageFile::open(*node, guest.process.pid());
            if (image) hashed.image = std::move(*image);
            core::log::debug("guest={} disk={} is hashed by {}", context_.name, disk.export_name,
                             image ? "its image" : "NBD: " + image.error().sentence());
        }
        read.push_back(std::move(hashed));
    }
    // The server listens on every address; its key is in a file for the duration of the migration.
    auto const key = key_file(context_.key_directory());
    bool const encrypted = access(key.c_str(), F_OK) == 0;
    storage::NbdAddress const here{"", "127.0.0.1", std::to_string(port), encrypted ? key_user : "",
                                   encrypted ? key : ""};
    auto made = std::make_shared<storage::Hasher>(context_.loop, here, std::move(read));
    auto opened = co_await made->open(deadline);
    if (opened) hasher_ = std::move(made);
    if (!opened) co_await made->close();
    co_return opened;
}

Task<void> DestinationHasher::close() {
    (void)co_await turn_.acquire(Deadline::never());  // without a limit it always succeeds
    if (hasher_) co_await hasher_->close();
    hasher_.reset();
    turn_.release();
}

}  // namespace sidecar
