#include "sidecar/guest/plugged_devices.hpp"

#include <algorithm>
#include <array>
#include <fstream>

#include "sidecar/guest/guest.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// Why it is refused, and what to do.
std::unexpected<core::Error> cannot_be_made(QomDevice const& device, std::string const& why) {
    return fail(Errc::refused,
                "the device {} ({}) was plugged in after QEMU's start, and the destination cannot "
                "start with it: {}; unplug it first",
                device.name(), device.kind, why);
}

bool is_generated(std::string const& node) { return node.starts_with('#'); }

/// The drive of that device: query-block may name a part of it.
qmp::BlockDevice const* drive_of(std::vector<qmp::BlockDevice> const& drives,
                                 QomDevice const& device) {
    auto const found = std::ranges::find_if(drives, [&](qmp::BlockDevice const& drive) {
        if (drive.qdev.empty()) return false;
        auto const path = qmp::device_path(drive.qdev);
        return path == device.path || path.starts_with(device.path + "/");
    });
    return found == drives.end() ? nullptr : &*found;
}

Json cache_options(qmp::BlockNode const& node) {
    return Json::object({{"direct", node.cache_direct}, {"no-flush", node.cache_no_flush}});
}

}  // namespace

Task<Result<Backends>> backends_of(qmp::Client& client, pid_t qemu, std::string working_directory,
                                   Deadline deadline) {
    Backends backends;
    backends.qemu = qemu;
    backends.working_directory = std::move(working_directory);
    CO_TRY(backends.drives, co_await qmp::query_block(client, deadline));
    CO_TRY(backends.graph, co_await qmp::query_block_graph(client, deadline));
    CO_TRY(backends.network, co_await qmp::info_network(client, deadline));
    co_return backends;
}

Result<std::string> tap_name(Backends const& backends, qmp::NetClient const& client) {
    if (!client.ifname.empty()) return client.ifname;
    std::ifstream info(fmt::format("/proc/{}/fdinfo/{}", backends.qemu, client.fd));
    for (std::string line; client.fd >= 0 && std::getline(info, line);) {
        constexpr std::string_view key = "iff:\t";
        if (line.starts_with(key)) return line.substr(key.size());
    }
    return fail(Errc::refused,
                "QEMU does not say which tap the netdev {} has: give it ifname=", client.name);
}

void PluggedDevices::add_option(std::string name, std::string value) {
    bool const have = std::ranges::any_of(options_, [&](qmp::Option const& option) {
        return option.name == name && option.value == value;
    });
    if (!have) options_.push_back({"-", std::move(name), std::move(value)});
}

bool PluggedDevices::line_has(std::string_view kind, std::string_view key,
                              std::string const& id) const {
    return std::ranges::any_of(line_.options(), [&](qmp::Option const& option) {
        return option.kind() == kind && option.settings_or_empty().get_or(key, "") == id;
    });
}

Task<Result<>> PluggedDevices::add(QomDevice device) {
    auto const slot = slot_of(device.kind);
    if (!slot) {
        co_return cannot_be_made(
            device, "that is done for disks, network cards, their controllers and a few others");
    }
    CO_TRY(auto const properties, co_await given_properties(client_, device, deadline_));
    auto given = Json::object({{"driver", device.kind}});
    if (!device.id.empty()) given.set("id", device.id);
    CO_TRY_VOID(co_await add_place(device, given));
    if (is_disk_kind(device.kind)) {
        CO_TRY(auto const drive, add_drive(device));
        if (!drive.empty()) given.set("drive", drive);
    }
    for (auto const& [key, value] : properties.members()) given.set(key, value);
    CO_TRY_VOID(co_await add_links(device, properties));
    add_option("device", given.dump());
    added_.push_back(std::move(device));
    co_return Result<>{};
}

Task<Result<>> PluggedDevices::add_place(QomDevice device, Json& given) {
    bool const on_unnamed = std::ranges::any_of(added_, [&](QomDevice const& other) {
        return other.id.empty() && device.bus_path.starts_with(other.path + "/");
    });
    if (on_unnamed) {
        co_return cannot_be_made(device, "its controller was plugged in without an id");
    }
    if (!device.bus_path.empty()) given.set("bus", device.bus());
    auto const slot = slot_of(device.kind);
    if (slot == Slot::pci) {
        CO_TRY(auto const address, co_await pci_address_of(client_, device.path, deadline_));
        given.set("addr", address);
    }
    if (slot == Slot::usb) {
        CO_TRY(auto const ports, co_await qmp::info_usb(client_, deadline_));
        CO_TRY(auto const set, co_await property_of(client_, device.path, "port", deadline_));
        auto const found = ports.find(device.id);
        bool const known = found != ports.end() && !device.id.empty();
        auto const port = known ? found->second : set.text_or("");
        if (port.empty()) {
            co_return cannot_be_made(device,
                                     "without an id, QEMU does not say in which port it is");
        }
        given.set("port", port);
    }
    co_return Result<>{};
}

Task<Result<>> PluggedDevices::add_links(QomDevice device, Json given) {
    if (given.has("netdev")) CO_TRY_VOID(add_netdev(device, given["netdev"].text_or("")));
    if (given.has("chardev"))
        CO_TRY_VOID(co_await add_chardev(device, given["chardev"].text_or("")));
    for (auto const key : {"iothread", "memdev", "rng"}) {
        if (given.has(key)) CO_TRY_VOID(co_await add_object(device, given[key].text_or("")));
    }
    co_return Result<>{};
}

std::string PluggedDevices::name_on_line(std::string const& node) const {
    if (!is_generated(node)) return node;
    // blockdev-change-medium makes nodes without a name of their own.
    for (unsigned number = 0;; ++number) {
        auto const name = fmt::format("medium{}", number);
        bool const taken = backends_.graph.find(name) != nullptr ||
                           line_has("blockdev", "node-name", name) || used_.contains(name);
        if (!taken) return name;
    }
}

Result<std::string> PluggedDevices::add_medium(QomDevice const& device) {
    auto const* const drive = drive_of(backends_.drives, device);
    bool const by_node = drive == nullptr || drive->device.empty();
    return by_node ? add_drive(device) : drive->device;  // of -drive: put_media_of_drives()
}

Result<std::string> PluggedDevices::add_drive(QomDevice const& device) {
    auto const* const drive = drive_of(backends_.drives, device);
    if (drive == nullptr || !drive->inserted) return std::string();  // an empty drive for CDs
    if (drive->top_node != drive->node_name) {
        return cannot_be_made(device, "its drive has a filter (throttle, copy-on-read)");
    }
    auto const name = drive->device.empty() ? name_on_line(drive->top_node) : drive->device;
    used_.insert(name);
    auto const here = absolute(drive->file_name, backends_.working_directory);
    for (auto const& image : line_.disks()) {
        if (image.id != name) continue;
        if (absolute(image.file_name, backends_.working_directory) == here) return name;
        replaced_.insert(name);
    }
    if (!drive->read_only) {
        warnings_.push_back(fmt::format(
            "disk {} was plugged in after QEMU's start: at the destination it has discard=unmap "
            "and aio=threads, because QEMU does not say what it has here",
            device.id.empty() ? name : device.id));
    }
    if (drive->device.empty()) {
        TRY_VOID(add_nodes(device, *drive, name));
    } else {
        add_drive_option(*drive);
    }
    return name;
}

void PluggedDevices::add_drive_option(qmp::BlockDevice const& drive) {
    qmp::Settings settings;
    settings.set("if", "none");
    settings.set("id", drive.device);
    settings.set("file", absolute(drive.file_name, backends_.working_directory));
    settings.set("format", drive.format);
    if (drive.read_only) settings.set_flag("readonly", true);
    if (auto const* const node = backends_.graph.find(drive.node_name)) {
        settings.set_flag("cache.direct", node->cache_direct);
        settings.set_flag("cache.no-flush", node->cache_no_flush);
        settings.set("detect-zeroes", node->detect_zeroes);
    }
    settings.set_flag("cache.writeback", drive.writeback);
    settings.set("discard", "unmap");
    add_option("drive", settings.print());
}

Result<Json> PluggedDevices::node_options(QomDevice const& device, std::string const& name,
                                          bool read_only) {
    constexpr auto formats = std::to_array<std::string_view>({"raw", "qcow2"});
    constexpr auto files = std::to_array<std::string_view>({"file", "host_device", "host_cdrom"});
    auto const* const node = backends_.graph.find(name);
    bool const is_file = node != nullptr && std::ranges::find(files, node->driver) != files.end();
    bool const is_format =
        node != nullptr && std::ranges::find(formats, node->driver) != formats.end();
    if (!is_file && !is_format) {
        return cannot_be_made(device, "its drive is neither raw nor qcow2 in a file or device");
    }
    auto options = Json::object({{"driver", node->driver},
                                 {"read-only", read_only},
                                 {"cache", cache_options(*node)},
                                 {"discard", "unmap"},
                                 {"detect-zeroes", node->detect_zeroes}});
    if (!is_generated(name)) options.set("node-name", name);
    if (is_file) {
        options.set("filename", absolute(node->file_name, backends_.working_directory));
        return options;
    }
    auto const file = backends_.graph.child(name, "file");
    TRY(auto below, node_options(device, file, read_only));
    bool const has_name = !is_generated(file);
    // One that has a name can be removed by it (blockdev-del), also later.
    if (has_name) add_option("blockdev", below.dump());
    options.set("file", has_name ? Json(file) : below);
    return options;
}

Result<> PluggedDevices::add_nodes(QomDevice const& device, qmp::BlockDevice const& drive,
                                   std::string const& name) {
    TRY(auto top, node_options(device, drive.top_node, drive.read_only));
    add_option("blockdev", top.set("node-name", name).dump());
    return {};
}

Result<> PluggedDevices::add_netdev(QomDevice const& device, std::string const& id) {
    used_.insert(id);
    auto const now = std::ranges::find(backends_.network, id, &qmp::NetClient::name);
    if (now == backends_.network.end() || now->type != "tap") {
        if (line_has("netdev", "id", id)) return {};
        return cannot_be_made(device, "its netdev " + id + " is no tap");
    }
    auto const taps = line_.taps();
    auto const started = std::ranges::find(taps, id, &qmp::TapOption::id);
    if (started != taps.end()) {
        bool const same = now->fd >= 0
                              ? std::ranges::find(started->fds, now->fd) != started->fds.end()
                              : started->ifname == now->ifname;
        if (same) return {};
        replaced_.insert(id);
    }
    TRY(auto const name, tap_name(backends_, *now));
    qmp::Settings settings;
    settings.set("type", "tap");
    settings.set("id", id);
    settings.set("ifname", name);
    settings.set("script", "no");
    settings.set("downscript", "no");
    if (now->queues > 1) settings.set_number("queues", now->queues);
    // QEMU does not say which tap has which.
    bool const vhost = vhost_queues_ + now->queues <= backends_.later_vhost_queues;
    settings.set_flag("vhost", vhost);
    if (vhost) vhost_queues_ += now->queues;
    add_option("netdev", settings.print());
    return {};
}

namespace {

/// The keys of an object of that kind that the destination gets; none: it cannot be made again.
std::optional<std::vector<char const*>> keys_of_object(std::string const& kind) {
    using Keys = std::vector<char const*>;
    if (kind == "rng-builtin") return Keys();
    if (kind == "rng-random") return Keys{"filename"};
    if (kind == "iothread") {
        return Keys{"poll-max-ns",   "poll-grow",       "poll-shrink",
                    "aio-max-batch", "thread-pool-min", "thread-pool-max"};
    }
    Keys const memory{"size", "share", "merge", "dump", "prealloc", "reserve"};
    if (kind == "memory-backend-ram" || kind == "memory-backend-memfd") return memory;
    return std::nullopt;
}

}  // namespace

Task<Result<>> PluggedDevices::add_object(QomDevice device, std::string id) {
    if (line_has("object", "id", id)) co_return Result<>{};
    auto const path = "/objects/" + id;
    CO_TRY(auto const type, co_await property_of(client_, path, "type", deadline_));
    auto const kind = type.text_or("");
    auto const keys = keys_of_object(kind);
    if (!keys) {
        co_return cannot_be_made(
            device, fmt::format("its object {} is of the kind {}, and not an iothread, a source of "
                                "random numbers or plain memory",
                                id, kind));
    }
    auto object = Json::object({{"qom-type", kind}, {"id", id}});
    for (auto const* const key : *keys) {
        CO_TRY(auto const value, co_await property_of(client_, path, key, deadline_));
        if (!value.is_null()) object.set(key, value);
    }
    add_option("object", object.dump());
    co_return Result<>{};
}

Task<Result<>> PluggedDevices::add_chardev(QomDevice device, std::string id) {
    if (line_has("chardev", "id", id)) co_return Result<>{};
    CO_TRY(auto const listed, co_await client_.execute("query-chardev", {}, deadline_));
    std::string text;
    for (auto const& one : listed.elements()) {
        if (one["label"].text_or("") == id) text = one["filename"].text_or("");
    }
    // "disconnected:unix:/run/agent.sock,server=on"
    auto const socket = text.find("unix:");
    auto const end = text.find(",server=on");
    qmp::Settings settings;
    if (text == "null" || text.starts_with("pty:")) {
        settings.set("backend", text.substr(0, text.find(':')));
        settings.set("id", id);
    } else if (socket != std::string::npos && end != std::string::npos) {
        auto const from = socket + std::string_view("unix:").size();
        settings.set("backend", "socket");
        settings.set("id", id);
        settings.set("path", absolute(text.substr(from, end - from), backends_.working_directory));
        settings.set_flag("server", true);
        settings.set_flag("wait", false);
    } else {
        co_return cannot_be_made(
            device, fmt::format("its character device {} is neither a Unix socket with server=on "
                                "nor null nor pty",
                                id));
    }
    add_option("chardev", settings.print());
    co_return Result<>{};
}

}  // namespace sidecar
