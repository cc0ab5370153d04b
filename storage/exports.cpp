#include "storage/exports.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "storage/limits.hpp"
#include "storage/mirror.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

constexpr std::string_view event_deleted = "BLOCK_EXPORT_DELETED";

// Which of `ids` QEMU still has.
Task<Result<std::vector<std::string>>> present_exports(qmp::Client& client,
                                                       std::vector<std::string> ids,
                                                       Deadline deadline) {
    CO_TRY(auto const exports, co_await qmp::query_block_exports(client, deadline));
    std::erase_if(ids, [&](std::string const& id) {
        return std::ranges::none_of(exports, [&](auto const& one) { return one.id == id; });
    });
    co_return ids;
}

Task<Result<>> delete_export(qmp::Client& client, std::string id, Deadline deadline) {
    auto deleted = co_await qmp::block_export_del(client, id, qmp::ExportRemoval::hard, deadline);
    // Already on its way out (an earlier try, a stopped server): its event is what counts.
    if (!deleted && deleted.error().code == Errc::qemu_refused) co_return Result<>{};
    co_return deleted;
}

}  // namespace

Task<Result<>> delete_exports(core::Loop& loop, qmp::Client& client, std::vector<std::string> ids,
                              Deadline deadline) {
    if (ids.empty()) co_return Result<>{};
    deadline = deadline.sooner(limits::qmp_command);
    auto events = client.subscribe({std::string(event_deleted)});
    CO_TRY(auto waiting, co_await present_exports(client, std::move(ids), deadline));
    std::vector<Task<Result<>>> tasks;
    for (auto const& id : waiting) tasks.push_back(delete_export(client, id, deadline));
    CO_TRY_VOID(co_await when_all(loop, std::move(tasks)));
    while (!waiting.empty()) {
        CO_TRY(auto const event, co_await events.next(deadline));
        std::erase(waiting, event.data["id"].text_or(""));
    }
    co_return Result<>{};
}

Task<Result<std::vector<std::string>>> own_exports(qmp::Client& client, Deadline deadline) {
    CO_TRY(auto const exports, co_await qmp::query_block_exports(client, deadline));
    std::vector<std::string> ids;
    for (auto const& one : exports) {
        if (one.id.starts_with(name_prefix)) ids.push_back(one.id);
    }
    co_return ids;
}

Task<Result<std::vector<OwnBitmap>>> own_bitmaps(qmp::Client& client, Deadline deadline) {
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(client, deadline));
    std::vector<OwnBitmap> bitmaps;
    for (auto const& node : nodes) {
        for (auto const& bitmap : node.bitmaps) {
            if (bitmap.name.starts_with(name_prefix)) {
                bitmaps.push_back({node.node_name, bitmap.name});
            }
        }
    }
    co_return bitmaps;
}

Task<Result<std::vector<std::string>>> leftovers(qmp::Client& client, Deadline deadline) {
    std::vector<std::string> found;
    CO_TRY(auto const exports, co_await own_exports(client, deadline));
    for (auto const& id : exports) found.push_back("export " + id);
    CO_TRY(auto const bitmaps, co_await own_bitmaps(client, deadline));
    for (auto const& one : bitmaps) {
        found.push_back(fmt::format("bitmap {} of {}", one.name, one.node));
    }
    co_return found;
}

SourceExports::SourceExports(core::Loop& loop, qmp::Client& client, std::string directory,
                             std::string migration_id)
    : loop_(loop),
      client_(client),
      socket_path_(std::move(directory) + "/nbd.sock"),
      migration_id_(std::move(migration_id)) {}

std::string SourceExports::bitmap_name(unsigned round) const {
    return fmt::format("{}{}-b{}", name_prefix, migration_id_, round);
}

std::string SourceExports::export_id(std::string_view what, std::size_t disk) const {
    return fmt::format("{}{}-{}-{}", name_prefix, migration_id_, what, disk);
}

Task<Result<>> SourceExports::refuse_foreign_exports(Deadline deadline) {
    CO_TRY(auto const exports, co_await qmp::query_block_exports(client_, deadline));
    for (auto const& one : exports) {
        if (one.type == "nbd" && !one.id.starts_with(name_prefix)) {
            co_return fail(
                Errc::refused,
                "QEMU's NBD server is in use: export {} of {} is not ours; QEMU has only one, "
                "so end that first (a backup?)",
                one.id, one.node_name);
        }
    }
    co_return Result<>{};
}

Task<Result<std::optional<unsigned>>> SourceExports::adopt(std::vector<std::string> nodes,
                                                           unsigned round, Deadline deadline) {
    CO_TRY_VOID(co_await refuse_foreign_exports(deadline));
    CO_TRY(auto const found, co_await own_bitmaps(client_, deadline));
    auto const prefix = fmt::format("{}{}-b", name_prefix, migration_id_);
    std::map<unsigned, std::size_t> on_nodes;
    for (auto const& one : found) {
        bool const ours =
            one.name.starts_with(prefix) && std::ranges::find(nodes, one.node) != nodes.end();
        unsigned number = 0;
        auto const* const end = one.name.data() + one.name.size();
        if (ours && std::from_chars(one.name.data() + prefix.size(), end, number).ptr == end) {
            ++on_nodes[number];
        }
    }
    bool const whole = !on_nodes.empty() && on_nodes.begin()->first == round &&
                       on_nodes.begin()->second == nodes.size();
    if (!whole) co_return std::optional<unsigned>();
    CO_TRY(auto ids, co_await own_exports(client_, deadline));
    CO_TRY_VOID(co_await delete_exports(loop_, client_, std::move(ids), deadline));
    for (auto const& one : found) {
        if (one.name == bitmap_name(round)) continue;
        CO_TRY_VOID(co_await qmp::block_dirty_bitmap_remove(client_, one.node, one.name, deadline));
    }
    co_return std::optional<unsigned>(round);
}

Task<Result<std::vector<std::string>>> SourceExports::clear_leftovers(Deadline deadline) {
    CO_TRY_VOID(co_await refuse_foreign_exports(deadline));
    CO_TRY(auto const found, co_await leftovers(client_, deadline));
    if (found.empty()) co_return found;
    CO_TRY(auto ids, co_await own_exports(client_, deadline));
    CO_TRY_VOID(co_await delete_exports(loop_, client_, std::move(ids), deadline));
    CO_TRY(auto const bitmaps, co_await own_bitmaps(client_, deadline));
    for (auto const& one : bitmaps) {
        CO_TRY_VOID(co_await qmp::block_dirty_bitmap_remove(client_, one.node, one.name, deadline));
    }
    for (auto const& one : found) core::log::warning("storage: removed leftover {}", one);
    co_return found;
}

// QEMU does not report where its server listens. It is ours when the socket in our directory
// answers: only we can make one there.
Task<Result<>> SourceExports::take_over_server(Deadline deadline) {
    bool ours = false;
    {
        auto const answered =
            co_await core::connect_unix(loop_, socket_path_, deadline.sooner(limits::connect));
        ours = answered.has_value();
    }
    if (!ours) {
        co_return fail(
            Errc::refused,
            "QEMU's NBD server runs already and is not ours; QEMU has only one, so stop it "
            "first (QMP nbd-server-stop)");
    }
    core::log::warning("storage: stopped the NBD server that an earlier try left running");
    co_return co_await qmp::nbd_server_stop(client_, deadline);
}

Task<Result<>> SourceExports::stop_left_server(Deadline deadline) {
    {
        auto const answered =
            co_await core::connect_unix(loop_, socket_path_, deadline.sooner(limits::connect));
        if (!answered) co_return Result<>{};
    }  // closed first: 7.2 stands still in nbd-server-stop while a client has not negotiated
    co_return co_await qmp::nbd_server_stop(client_, deadline);
}

Task<Result<>> clear_leftovers(core::Loop& loop, qmp::Client& client, std::string directory,
                               Deadline deadline) {
    SourceExports exports(loop, client, std::move(directory), "");
    CO_TRY_VOID(co_await exports.clear_leftovers(deadline));
    co_return co_await exports.stop_left_server(deadline);
}

Task<Result<>> SourceExports::start_server(std::uint32_t connections_max, Deadline deadline) {
    qmp::NbdServer const server{qmp::unix_address(socket_path_), "", connections_max};
    auto started = co_await qmp::nbd_server_start(client_, server, deadline);
    if (!started && started.error().code == Errc::qemu_refused &&
        started.error().what.find("already running") != std::string::npos) {
        CO_TRY_VOID(co_await take_over_server(deadline));
        started = co_await qmp::nbd_server_start(client_, server, deadline);
    }
    if (started) server_started_ = true;
    co_return started;
}

Task<Result<>> SourceExports::add_bitmaps(std::vector<std::string> nodes, unsigned round,
                                          Deadline deadline) {
    std::vector<core::Json> actions;
    for (auto const& node : nodes) {
        actions.push_back(qmp::action::block_dirty_bitmap_add(
            {node, bitmap_name(round), limits::bitmap_granularity_bytes, false, false}));
    }
    co_return co_await qmp::transaction(client_, std::move(actions), deadline);
}

Task<Result<>> SourceExports::remove_bitmaps(std::vector<std::string> nodes, unsigned round,
                                             Deadline deadline) {
    std::vector<Task<Result<>>> tasks;
    for (auto const& node : nodes) {
        tasks.push_back(
            qmp::block_dirty_bitmap_remove(client_, node, bitmap_name(round), deadline));
    }
    co_return co_await when_all(loop_, std::move(tasks));
}

Task<Result<>> SourceExports::add_export(std::string id, std::string node, std::string bitmap,
                                         Deadline deadline, bool depth) {
    qmp::NbdExport nbd_export;
    nbd_export.allocation_depth = depth;
    nbd_export.id = id;
    nbd_export.name = id;
    nbd_export.node = node;
    // By node and name: the plain form refuses a bitmap that is enabled.
    if (!bitmap.empty()) nbd_export.bitmaps.push_back({node, std::move(bitmap)});
    co_return co_await qmp::block_export_add(client_, std::move(nbd_export), deadline);
}

Task<Result<>> SourceExports::remove_exports(std::vector<std::string> ids, Deadline deadline) {
    return delete_exports(loop_, client_, std::move(ids), std::move(deadline));
}

Task<Result<>> SourceExports::remove_all(Deadline deadline) {
    CO_TRY(auto ids, co_await own_exports(client_, deadline));
    CO_TRY_VOID(co_await delete_exports(loop_, client_, std::move(ids), deadline));
    CO_TRY(auto const bitmaps, co_await own_bitmaps(client_, deadline));
    for (auto const& one : bitmaps) {
        CO_TRY_VOID(co_await qmp::block_dirty_bitmap_remove(client_, one.node, one.name, deadline));
    }
    co_return co_await stop_server(deadline);
}

Task<Result<>> SourceExports::stop_server(Deadline deadline) {
    if (!server_started_) co_return Result<>{};
    auto const stopped = co_await qmp::nbd_server_stop(client_, deadline);
    if (!stopped && stopped.error().code != Errc::qemu_refused) co_return stopped;
    server_started_ = false;
    (void)unlink(socket_path_.c_str());  // QEMU removes it; not when it was killed
    co_return Result<>{};
}

}  // namespace storage
