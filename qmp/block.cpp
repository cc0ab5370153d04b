#include "qmp/block.hpp"

#include <algorithm>

#include "qmp/block_graph.hpp"
#include "qmp/command.hpp"
#include "qmp/vm.hpp"

namespace qmp {

namespace {

std::vector<DirtyBitmap> bitmaps_of(Json const& list) {
    std::vector<DirtyBitmap> bitmaps;
    for (auto const& entry : list.elements()) {
        bitmaps.push_back({entry["name"].text_or(""), count_of(entry["granularity"]),
                           count_of(entry["count"]), entry["recording"].boolean_or(false),
                           entry["busy"].boolean_or(false), entry["persistent"].boolean_or(false),
                           entry["inconsistent"].boolean_or(false)});
    }
    return bitmaps;
}

// QEMU writes options that have no short form as "json:{...}". Where one local file is at the
// bottom, its name is what we want; else the text stays as it is.
std::string plain_file_name(std::string const& name) {
    if (!name.starts_with("json:")) return name;
    auto const parsed = Json::parse(std::string_view(name).substr(5));
    if (!parsed) return name;
    Json at = *parsed;
    for (int depth = 0; depth < Json::depth_max && at["file"].is_object(); ++depth) at = at["file"];
    auto const driver = at["driver"].text_or("");
    bool const local = driver == "file" || driver == "host_device";
    return local ? at["filename"].text_or(name) : name;
}

// Limits that block_set_io_throttle wants named, and 0 for none.
constexpr char const* plain_limits[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};

bool is_throttled(Json const& inserted) {
    return std::ranges::any_of(plain_limits,
                               [&](auto key) { return inserted[key].integer_or(0) != 0; });
}

Json limits_of(Json const& inserted) {
    auto limits = Json::object();
    for (std::string const key : plain_limits) {
        limits.set(key, inserted[key].integer_or(0));
        for (auto const& burst : {key + "_max", key + "_max_length"}) {
            if (inserted.has(burst)) limits.set(burst, inserted[burst]);
        }
    }
    for (auto const key : {"iops_size", "group"}) {
        if (inserted.has(key)) limits.set(key, inserted[key]);
    }
    return limits;
}

/// What a BlockDeviceInfo says of an image.
void take_image(BlockDevice& disk, Json const& inserted) {
    disk.node_name = inserted["node-name"].text_or("");
    disk.file_name = plain_file_name(inserted["file"].text_or(""));
    disk.format = inserted["drv"].text_or("");
    disk.virtual_bytes = count_of(inserted["image"]["virtual-size"]);
    disk.read_only = inserted["ro"].boolean_or(false);
    disk.backing_depth = inserted["backing_file_depth"].integer_or(0);
    disk.backing_file = inserted["backing_file"].text_or("");
    disk.cluster_bytes = count_of(inserted["image"]["cluster-size"]);
    disk.encrypted = inserted["encrypted"].boolean_or(false);
    disk.bitmaps = bitmaps_of(inserted["dirty-bitmaps"]);
    disk.snapshots = inserted["image"]["snapshots"].size();
}

BlockDevice device_of(Json const& entry) {
    BlockDevice disk;
    disk.device = entry["device"].text_or("");
    disk.qdev = entry["qdev"].text_or("");
    disk.removable = entry["removable"].boolean_or(false);
    auto const inserted = entry["inserted"];
    disk.inserted = inserted.is_object();
    if (!disk.inserted) return disk;
    disk.writeback = inserted["cache"]["writeback"].boolean_or(true);
    take_image(disk, inserted);
    disk.top_node = disk.node_name;
    disk.throttled = is_throttled(inserted);
    disk.limits = limits_of(inserted);
    return disk;
}

/// Nodes that pass every request on and keep no data of their own.
bool is_filter(std::string const& driver) {
    constexpr std::string_view filters[] = {"throttle", "copy-on-read", "compress", "preallocate"};
    return std::ranges::find(filters, driver) != std::end(filters);
}

/// More than anyone puts over one image.
constexpr int filters_max = 16;

/// Replaces what is said of a filter by what is said of the image below it.
Task<Result<>> look_through_filters(Client& client, std::vector<BlockDevice>& disks,
                                    Deadline deadline) {
    CO_TRY(auto const graph, co_await query_block_graph(client, deadline));
    CO_TRY(auto const reply, co_await client.execute("query-named-block-nodes",
                                                     Json::object({{"flat", true}}), deadline));
    auto const nodes = reply.elements();
    for (auto& disk : disks) {
        for (int step = 0; step < filters_max && is_filter(disk.format); ++step) {
            auto const below =
                std::ranges::find(nodes, graph.child(disk.node_name, "file"),
                                  [](Json const& entry) { return entry["node-name"].text_or(""); });
            if (below == nodes.end()) break;
            bool const read_only = disk.read_only;
            take_image(disk, *below);
            disk.read_only |= read_only;
        }
    }
    co_return Result<>{};
}

Json names(std::string const& node, std::string const& name) {
    return Json::object({{"node", node}, {"name", name}});
}

Json bitmap_list(std::vector<BitmapName> const& bitmaps) {
    auto list = Json::array();
    for (auto const& bitmap : bitmaps) {
        list.add(bitmap.node.empty() ? Json(bitmap.name) : names(bitmap.node, bitmap.name));
    }
    return list;
}

Json add_arguments(BitmapAdd const& bitmap) {
    auto arguments = names(bitmap.node, bitmap.name);
    if (bitmap.granularity_bytes != 0) arguments.set("granularity", bitmap.granularity_bytes);
    if (bitmap.disabled) arguments.set("disabled", true);
    if (bitmap.persistent) arguments.set("persistent", true);
    return arguments;
}

Json merge_arguments(std::string const& node, std::string const& target,
                     std::vector<BitmapName> const& sources) {
    return Json::object({{"node", node}, {"target", target}, {"bitmaps", bitmap_list(sources)}});
}

Json an_action(char const* type, Json arguments) {
    return Json::object({{"type", type}, {"data", std::move(arguments)}});
}

std::string parent_of(std::string const& path) { return path.substr(0, path.rfind('/')); }

}  // namespace

Task<Result<std::vector<BlockDevice>>> query_block(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-block", {}, deadline));
    std::vector<BlockDevice> disks;
    for (auto const& entry : reply.elements()) disks.push_back(device_of(entry));
    if (std::ranges::any_of(disks, is_filter, &BlockDevice::format)) {
        CO_TRY_VOID(co_await look_through_filters(client, disks, deadline));
    }
    co_return disks;
}

std::string device_path(std::string const& qdev) {
    return qdev.starts_with('/') ? qdev : "/machine/peripheral/" + qdev;
}

Task<Result<std::string>> iothread_of(Client& client, BlockDevice disk, Deadline deadline) {
    if (disk.qdev.empty()) co_return std::string();
    auto path = device_path(disk.qdev);
    // virtio-blk has the property itself; a SCSI disk hangs on its controller's bus: one level up
    // and again.
    constexpr int levels_max = 4;
    for (int level = 0; level < levels_max && path.size() > 1; ++level) {
        auto properties = co_await qom_list(client, path, deadline);
        if (!properties && properties.error().code != Errc::qemu_refused) {
            co_return std::unexpected(std::move(properties.error()));
        }
        if (!properties) co_return std::string();
        auto const has = [&](std::string_view name) {
            return std::ranges::any_of(*properties, [&](auto const& p) { return p.name == name; });
        };
        if (has("iothread")) {
            CO_TRY(auto const value, co_await qom_get(client, path, "iothread", deadline));
            co_return value.text_or("");
        }
        if (!has("parent_bus")) co_return std::string();
        CO_TRY(auto const bus, co_await qom_get(client, path, "parent_bus", deadline));
        path = parent_of(bus.text_or(""));
    }
    co_return std::string();
}

Task<Result<std::vector<BlockNode>>> query_named_block_nodes(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-named-block-nodes",
                                                     Json::object({{"flat", true}}), deadline));
    std::vector<BlockNode> nodes;
    for (auto const& entry : reply.elements()) {
        BlockNode node{entry["node-name"].text_or(""),
                       entry["drv"].text_or(""),
                       plain_file_name(entry["file"].text_or("")),
                       entry["file"].text_or(""),
                       count_of(entry["image"]["virtual-size"]),
                       entry["ro"].boolean_or(false),
                       entry["cache"]["direct"].boolean_or(false),
                       std::nullopt,
                       bitmaps_of(entry["dirty-bitmaps"]),
                       entry["cache"]["no-flush"].boolean_or(false),
                       entry["detect_zeroes"].text_or("off")};
        if (entry["active"].is_boolean()) node.active = entry["active"].boolean_or(true);
        nodes.push_back(std::move(node));
    }
    co_return nodes;
}

Task<Result<std::vector<ImageLayer>>> query_backing_chain(Client& client, std::string node,
                                                          Deadline deadline) {
    // Not flat: the images below come with each node, filters too, other than in query-block.
    CO_TRY(auto const reply, co_await client.execute("query-named-block-nodes",
                                                     Json::object({{"flat", false}}), deadline));
    auto const nodes = reply.elements();
    auto const found = std::ranges::find_if(
        nodes, [&](Json const& entry) { return entry["node-name"].text_or("") == node; });
    if (found == nodes.end()) {
        co_return core::fail(Errc::refused, "QEMU has no node {}", node);
    }
    std::vector<ImageLayer> chain;
    for (Json image = (*found)["image"]; image.is_object(); image = image["backing-image"]) {
        auto const data = image["format-specific"]["data"];
        chain.push_back({plain_file_name(image["filename"].text_or("")),
                         image["format"].text_or(""), count_of(image["virtual-size"]),
                         count_of(image["cluster-size"]), data["compat"].text_or(""),
                         data["compression-type"].text_or(""), count_of(data["refcount-bits"]),
                         data["extended-l2"].boolean_or(false),
                         data["lazy-refcounts"].boolean_or(false)});
    }
    co_return chain;
}

Task<Result<>> blockdev_add(Client& client, Json options, Deadline deadline) {
    return run(client, "blockdev-add", std::move(options), std::move(deadline));
}
Task<Result<>> blockdev_del(Client& client, std::string node_name, Deadline deadline) {
    return run(client, "blockdev-del", Json::object({{"node-name", node_name}}),
               std::move(deadline));
}

Task<Result<>> blockdev_reopen(Client& client, std::vector<Json> options, Deadline deadline) {
    auto list = Json::array();
    for (auto& one : options) list.add(std::move(one));
    return run(client, "blockdev-reopen", Json::object({{"options", list}}), std::move(deadline));
}

Task<Result<>> block_dirty_bitmap_add(Client& client, BitmapAdd bitmap, Deadline deadline) {
    return run(client, "block-dirty-bitmap-add", add_arguments(bitmap), std::move(deadline));
}
Task<Result<>> block_dirty_bitmap_remove(Client& client, std::string node, std::string name,
                                         Deadline deadline) {
    return run(client, "block-dirty-bitmap-remove", names(node, name), std::move(deadline));
}
Task<Result<>> block_dirty_bitmap_clear(Client& client, std::string node, std::string name,
                                        Deadline deadline) {
    return run(client, "block-dirty-bitmap-clear", names(node, name), std::move(deadline));
}
Task<Result<>> block_dirty_bitmap_enable(Client& client, std::string node, std::string name,
                                         Deadline deadline) {
    return run(client, "block-dirty-bitmap-enable", names(node, name), std::move(deadline));
}
Task<Result<>> block_dirty_bitmap_disable(Client& client, std::string node, std::string name,
                                          Deadline deadline) {
    return run(client, "block-dirty-bitmap-disable", names(node, name), std::move(deadline));
}
Task<Result<>> block_dirty_bitmap_merge(Client& client, std::string node, std::string target,
                                        std::vector<BitmapName> sources, Deadline deadline) {
    return run(client, "block-dirty-bitmap-merge", merge_arguments(node, target, sources),
               std::move(deadline));
}

namespace action {

Json block_dirty_bitmap_add(BitmapAdd const& bitmap) {
    return an_action("block-dirty-bitmap-add", add_arguments(bitmap));
}
Json block_dirty_bitmap_remove(std::string const& node, std::string const& name) {
    return an_action("block-dirty-bitmap-remove", names(node, name));
}
Json block_dirty_bitmap_clear(std::string const& node, std::string const& name) {
    return an_action("block-dirty-bitmap-clear", names(node, name));
}
Json block_dirty_bitmap_enable(std::string const& node, std::string const& name) {
    return an_action("block-dirty-bitmap-enable", names(node, name));
}
Json block_dirty_bitmap_disable(std::string const& node, std::string const& name) {
    return an_action("block-dirty-bitmap-disable", names(node, name));
}
Json block_dirty_bitmap_merge(std::string const& node, std::string const& target,
                              std::vector<BitmapName> const& sources) {
    return an_action("block-dirty-bitmap-merge", merge_arguments(node, target, sources));
}

}  // namespace action

Task<Result<>> transaction(Client& client, std::vector<Json> actions, Deadline deadline) {
    auto list = Json::array();
    for (auto& one : actions) list.add(std::move(one));
    return run(client, "transaction", Json::object({{"actions", list}}), std::move(deadline));
}

Json unix_address(std::string const& path) {
    return Json::object({{"type", "unix"}, {"path", path}});
}
Json inet_address(std::string const& host, std::string const& port) {
    return Json::object({{"type", "inet"}, {"host", host}, {"port", port}});
}
Json fd_address(std::string const& name) { return Json::object({{"type", "fd"}, {"str", name}}); }

Json legacy_address(Json const& address) {
    auto data = Json::object();
    for (auto const& [key, value] : address.members()) {
        if (key != "type") data.set(key, value);
    }
    return Json::object({{"type", address["type"]}, {"data", data}});
}

Task<Result<>> nbd_server_start(Client& client, NbdServer server, Deadline deadline) {
    auto arguments = Json::object({{"addr", legacy_address(server.address)}});
    if (!server.tls_creds.empty()) arguments.set("tls-creds", server.tls_creds);
    if (server.connections_max != 0) arguments.set("max-connections", server.connections_max);
    return run(client, "nbd-server-start", std::move(arguments), std::move(deadline));
}
Task<Result<>> nbd_server_stop(Client& client, Deadline deadline) {
    return run(client, "nbd-server-stop", {}, std::move(deadline));
}

Task<Result<>> block_export_add(Client& client, NbdExport nbd_export, Deadline deadline) {
    auto arguments = Json::object({{"type", "nbd"},
                                   {"id", nbd_export.id},
                                   {"node-name", nbd_export.node},
                                   {"name", nbd_export.name},
                                   {"writable", nbd_export.writable}});
    if (!nbd_export.bitmaps.empty()) arguments.set("bitmaps", bitmap_list(nbd_export.bitmaps));
    if (nbd_export.allocation_depth) arguments.set("allocation-depth", true);
    if (!nbd_export.iothread.empty()) arguments.set("iothread", nbd_export.iothread);
    if (nbd_export.writethrough) arguments.set("writethrough", true);
    return run(client, "block-export-add", std::move(arguments), std::move(deadline));
}

Task<Result<>> block_export_del(Client& client, std::string id, ExportRemoval mode,
                                Deadline deadline) {
    char const* const word = mode == ExportRemoval::hard ? "hard" : "safe";
    return run(client, "block-export-del", Json::object({{"id", id}, {"mode", word}}),
               std::move(deadline));
}

Task<Result<std::vector<BlockExport>>> query_block_exports(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-block-exports", {}, deadline));
    std::vector<BlockExport> exports;
    for (auto const& entry : reply.elements()) {
        exports.push_back({entry["id"].text_or(""), entry["type"].text_or(""),
                           entry["node-name"].text_or(""),
                           entry["shutting-down"].boolean_or(false)});
    }
    co_return exports;
}

Task<Result<>> block_set_io_throttle(Client& client, std::string qdev, Json limits,
                                     Deadline deadline) {
    auto arguments = Json::object({{"id", qdev}});
    for (auto const key : plain_limits) arguments.set(key, 0);
    for (auto const& [key, value] : limits.members()) arguments.set(key, value);
    return run(client, "block_set_io_throttle", std::move(arguments), std::move(deadline));
}

Task<Result<std::vector<BlockStats>>> query_blockstats(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-blockstats", {}, deadline));
    std::vector<BlockStats> all;
    for (auto const& entry : reply.elements()) {
        all.push_back({entry["qdev"].text_or(""), count_of(entry["stats"]["wr_bytes"])});
    }
    co_return all;
}

}  // namespace qmp
