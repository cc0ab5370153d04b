#include "storage/recovery_point.hpp"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "qmp/block.hpp"
#include "qmp/vm.hpp"
#include "storage/image.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

// Node names of ours, one of each for a disk: at most 31 characters.
std::string top_node(std::size_t disk) { return fmt::format("sidecar-top-{}", disk); }
std::string filter_node(std::size_t disk) { return fmt::format("sidecar-filter-{}", disk); }
std::string fleecing_node(std::size_t disk) { return fmt::format("sidecar-fleecing-{}", disk); }

// What stands directly under the device. `discard`: without, QEMU would swallow what the guest
// discards.
Json top_options(std::size_t disk, std::string const& file) {
    return Json::object(
        {{"driver", "raw"}, {"node-name", top_node(disk)}, {"file", file}, {"discard", "unmap"}});
}

Task<Result<>> set_drive(qmp::Client& client, std::string qdev, std::string node,
                         Deadline deadline) {
    return qmp::qom_set(client, qmp::device_path(qdev), "drive", Json(std::move(node)),
                        std::move(deadline));
}

}  // namespace

RecoveryPoint::RecoveryPoint(core::Loop& loop, qmp::Client& client, std::vector<PointDisk> disks,
                             std::string directory)
    : loop_(loop), client_(client), disks_(std::move(disks)), directory_(std::move(directory)) {}

std::string RecoveryPoint::node(std::size_t disk) { return fmt::format("sidecar-point-{}", disk); }

Task<Result<>> RecoveryPoint::prepare(std::size_t disk, Deadline deadline) {
    auto const& one = disks_[disk];
    if (one.qdev.empty()) {
        co_return fail(Errc::refused, "no device of the guest uses {}: it cannot be mirrored",
                       one.node);
    }
    auto const image = fmt::format("{}/fleecing-{}", directory_, disk);
    (void)unlink(image.c_str());  // of a process that died here
    CO_TRY_VOID(co_await create_image(loop_, image, "qcow2", one.virtual_bytes, {}, deadline));
    auto const file = Json::object({{"driver", "file"}, {"filename", image}});
    auto const added = co_await qmp::blockdev_add(client_,
                                                  Json::object({{"driver", "qcow2"},
                                                                {"node-name", fleecing_node(disk)},
                                                                {"discard", "unmap"},
                                                                {"file", file}}),
                                                  deadline);
    (void)unlink(image.c_str());
    CO_TRY_VOID(added);
    CO_TRY_VOID(co_await qmp::blockdev_add(client_, top_options(disk, one.node), deadline));
    CO_TRY_VOID(co_await qmp::blockdev_add(client_,
                                           Json::object({{"driver", "copy-before-write"},
                                                         {"node-name", filter_node(disk)},
                                                         {"file", one.node},
                                                         {"target", fleecing_node(disk)},
                                                         {"discard", "unmap"},
                                                         {"on-cbw-error", "break-snapshot"}}),
                                           deadline));
    co_return co_await set_drive(client_, one.qdev, top_node(disk), deadline);
}

/// The instant.
Task<Result<>> RecoveryPoint::switch_over(std::vector<Json> tops, Quiescence* quiescence,
                                          Deadline deadline) {
    if (quiescence != nullptr) {
        co_await quiescence->hold(deadline);
        deadline = deadline.sooner(limits::quiescence_max);
    }
    auto switched = co_await qmp::blockdev_reopen(client_, std::move(tops), deadline);
    taken_at_ = core::Clock::now();
    if (quiescence != nullptr) co_await quiescence->release();
    co_return switched;
}

Task<Result<>> RecoveryPoint::take(Quiescence* quiescence, Deadline deadline) {
    std::vector<Json> tops;
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        CO_TRY_VOID(co_await prepare(i, deadline));
        tops.push_back(top_options(i, filter_node(i)));
    }
    CO_TRY_VOID(co_await switch_over(std::move(tops), quiescence, deadline));
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        CO_TRY_VOID(co_await qmp::blockdev_add(
            client_,
            Json::object(
                {{"driver", "snapshot-access"}, {"node-name", node(i)}, {"file", filter_node(i)}}),
            deadline));
    }
    co_return Result<>{};
}

Task<Result<>> RecoveryPoint::release(Deadline deadline) {
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(client_, deadline));
    std::set<std::string> present;
    for (auto const& one : nodes) present.insert(one.node_name);
    CO_TRY(auto const devices, co_await qmp::query_block(client_, deadline));
    Result<> first;
    auto const note = [&](Result<> done) {
        if (!done && first) first = std::move(done);
    };
    std::vector<Json> tops;
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        if (present.contains(node(i))) {
            note(co_await qmp::blockdev_del(client_, node(i), deadline));
        }
        if (present.contains(top_node(i))) tops.push_back(top_options(i, disks_[i].node));
    }
    if (!tops.empty()) {
        note(co_await qmp::blockdev_reopen(client_, std::move(tops), deadline));
    }
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        bool const on_top = std::ranges::any_of(
            devices, [&](auto const& device) { return device.node_name == top_node(i); });
        if (on_top) note(co_await set_drive(client_, disks_[i].qdev, disks_[i].node, deadline));
        for (auto const& name : {top_node(i), filter_node(i), fleecing_node(i)}) {
            if (present.contains(name)) {
                note(co_await qmp::blockdev_del(client_, name, deadline));
            }
        }
    }
    if (!first) first.error().while_doing("taking the point in time off the disks");
    co_return first;
}

}  // namespace storage
