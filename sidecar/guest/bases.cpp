#include "sidecar/guest/bases.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "qmp/block.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

using Chain = std::vector<qmp::ImageLayer>;

bool is_path(std::string const& name) {
    auto const end = name.find_first_of(":/");
    return !name.empty() && (end == std::string::npos || name[end] == '/');
}

/// The chain, with the name of each image as an absolute path.
Task<Result<Chain>> chain_of(qmp::Client& client, std::string node, std::string working_directory,
                             Deadline deadline) {
    CO_TRY(auto chain, co_await qmp::query_backing_chain(client, node, deadline));
    for (auto& layer : chain) {
        if (is_path(layer.file_name))
            layer.file_name = absolute(layer.file_name, working_directory);
    }
    co_return chain;
}

/// The index in `wanted` of that image; none if it is not listed.
std::optional<std::size_t> named(std::vector<std::string> const& wanted, std::string const& image) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (same_file(wanted[i], image)) return i;
    }
    return {};
}

Result<Base> base_of(qmp::ImageLayer const& layer, std::string const& disk) {
    if (layer.format != "raw" && layer.format != "qcow2") {
        return fail(Errc::refused,
                    "the base {} of disk {} has format {}: only raw and qcow2 can be",
                    layer.file_name, disk, layer.format);
    }
    auto const identity = storage::identity_of(layer.file_name);
    if (!identity) {
        return fail(Errc::refused, "the base {} of disk {} cannot be used: {}", layer.file_name,
                    disk, identity.error().what);
    }
    return Base{layer.file_name, layer.format, identity->bytes, "", *identity};
}

/// Fills in the bases of one disk from its chain; `used` marks which of `wanted` are among them.
Result<> take_bases(MovedDisk& disk, Chain const& chain, std::vector<std::string> const& wanted,
                    std::vector<bool>& used) {
    for (std::size_t depth = 0; depth < chain.size(); ++depth) {
        auto const& layer = chain[depth];
        auto const which = named(wanted, layer.file_name);
        if (which && depth == 0) {
            return fail(Errc::refused, "disk {1} writes to {0}, so it is not a base: omit --base",
                        layer.file_name, disk.name);
        }
        if (!which && !disk.bases.empty()) {
            return fail(
                Errc::refused,
                "the base {} of disk {} has the backing file {}: name both with --base, or neither",
                disk.bases.back().path, disk.name, layer.file_name);
        }
        if (!which) continue;
        used[*which] = true;
        if (disk.bases.empty()) disk.layers_above_base = static_cast<unsigned>(depth);
        TRY(auto base, base_of(layer, disk.name));
        disk.bases.push_back(std::move(base));
    }
    for (std::size_t depth = 0; depth < disk.layers_above_base; ++depth) {
        if (chain[depth].format == "qcow2") continue;
        return fail(Errc::refused,
                    "disk {} has a layer of format {} above its base: only qcow2 can be", disk.name,
                    chain[depth].format);
    }
    return {};
}

/// A node over the first base. If there are several, any of them will do.
Task<Result<std::string>> node_over(qmp::Client& client, Base base, std::string working_directory,
                                    Deadline deadline) {
    CO_TRY(auto const nodes, co_await qmp::query_named_block_nodes(client, deadline));
    for (auto const& node : nodes) {
        if (node.driver == base.format && is_path(node.file_name) &&
            absolute(node.file_name, working_directory) == base.path) {
            co_return node.node_name;
        }
    }
    co_return fail(Errc::refused, "QEMU has no node over the base {}", base.path);
}

/// Whether the image right above the base names it by a relative path.
Task<Result<bool>> names_relatively(core::Loop& loop, qmp::ImageLayer above, std::string disk,
                                    Deadline deadline) {
    CO_TRY(auto const info,
           co_await storage::image_info(loop, above.file_name, above.format, deadline));
    if (!info.backing_file.empty() && !is_path(info.backing_file)) {
        co_return fail(Errc::refused, "disk {} names its base as {}, which is not a file name",
                       disk, info.backing_file);
    }
    co_return !info.backing_file.empty() && info.backing_file.front() != '/';
}

Task<Result<>> look_at_chain(Guest& guest, std::vector<std::string> const& wanted,
                             std::vector<bool>& used, MovedDisk& disk, Deadline deadline) {
    auto& client = *guest.client;
    CO_TRY(auto const chain,
           co_await chain_of(client, disk.node, guest.working_directory, deadline));
    if (chain.empty()) co_return fail(Errc::refused, "QEMU reports no image of disk {}", disk.name);
    auto const& top = chain.front();
    disk.layout = {top.cluster_bytes, top.compat,      top.refcount_bits,
                   top.compression,   top.extended_l2, top.lazy_refcounts};
    CO_TRY_VOID(take_bases(disk, chain, wanted, used));
    auto const own = disk.bases.empty() ? chain.size() : disk.layers_above_base;
    CO_TRY(disk.allocated_bytes, storage::allocated_bytes(disk.path));
    for (std::size_t depth = 1; depth < own; ++depth) {
        // Backing files that are not files of this host are not counted, but QEMU reads them.
        auto const bytes = storage::allocated_bytes(chain[depth].file_name);
        if (bytes) disk.allocated_bytes += *bytes;
    }
    if (disk.bases.empty()) co_return Result<>{};
    for (auto const& layer : chain) disk.chain.push_back(layer.file_name);
    CO_TRY(disk.base_node,
           co_await node_over(client, disk.bases.front(), guest.working_directory, deadline));
    CO_TRY(disk.base_is_relative,
           co_await names_relatively(guest.loop, chain[disk.layers_above_base - 1], disk.name,
                                     deadline));
    co_return Result<>{};
}

}  // namespace

Json Base::to_json() const {
    return Json::object({{"path", path},
                         {"format", format},
                         {"bytes", bytes},
                         {"sha256", sha256},
                         {"identity", identity.to_json()}});
}

Result<Base> Base::from_json(Json const& json) {
    Base base;
    TRY(base.path, json.text("path"));
    TRY(base.format, json.text("format"));
    TRY(base.sha256, json.text("sha256"));
    TRY(auto const bytes, json.integer("bytes"));
    TRY(base.identity, storage::FileIdentity::from_json(json["identity"]));
    if (base.path.empty() || base.path.front() != '/')
        return fail(Errc::protocol, "base path {} is not absolute", base.path);
    if (base.format != "raw" && base.format != "qcow2")
        return fail(Errc::protocol, "base format {} is not supported", base.format);
    if (bytes < 0) return fail(Errc::protocol, "the base {} has {} bytes", base.path, bytes);
    base.bytes = static_cast<std::uint64_t>(bytes);
    return base;
}

Task<Result<>> find_bases(Guest& guest, std::vector<std::string> wanted, Description& description,
                          Deadline deadline) {
    std::vector<bool> used(wanted.size());
    for (auto& disk : description.disks) {
        CO_TRY_VOID(co_await look_at_chain(guest, wanted, used, disk, deadline));
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        if (used[i]) continue;
        co_return fail(Errc::refused,
                       "--base {} is not in a backing chain of the guest's disks{}: name a backing "
                       "file as this host has it",
                       wanted[i],
                       storage::identity_of(wanted[i]) ? "" : ", and is not a file here");
    }
    co_return Result<>{};
}

Task<Result<>> check_same_chain(qmp::Client& client, MovedDisk disk, std::string working_directory,
                                Deadline deadline) {
    CO_TRY(auto const chain, co_await chain_of(client, disk.node, working_directory, deadline));
    if (!std::ranges::equal(chain, disk.chain, {}, &qmp::ImageLayer::file_name)) {
        co_return fail(Errc::refused,
                       "the backing chain of disk {} is not what it was when the copy began (was "
                       "it committed or streamed?): migrate again",
                       disk.name);
    }
    for (auto const& base : disk.bases) {
        auto const now = storage::identity_of(base.path);
        if (now && *now == base.identity) continue;
        co_return fail(Errc::refused,
                       "the base {} of disk {} was changed since it was compared: migrate again",
                       base.path, disk.name);
    }
    co_return Result<>{};
}

Result<> check_bases(HostMaps const& maps, Description const& description) {
    for (auto const& disk : description.disks) {
        for (auto const& base : disk.bases) {
            auto const path = map_path(maps, base.path);
            auto const here = storage::identity_of(path);
            if (!here) {
                return fail(Errc::refused,
                            "the base {} of disk {} is missing on the destination ({}): copy it, "
                            "map it with `serve --map-path`, or omit --base",
                            path, disk.name, here.error().what);
            }
            if (here->bytes == base.bytes) continue;
            return fail(Errc::refused,
                        "the base {} of disk {} has {} bytes on the destination and {} on the "
                        "source: copy it again, or omit --base",
                        path, disk.name, here->bytes, base.bytes);
        }
    }
    return {};
}

Task<Result<>> check_opened_over(qmp::Client& client, std::string node, HostMaps maps,
                                 MovedDisk disk, Deadline deadline) {
    CO_TRY(auto const chain, co_await qmp::query_backing_chain(client, node, deadline));
    bool same = chain.size() == disk.bases.size() + 1;
    for (std::size_t i = 0; same && i < disk.bases.size(); ++i) {
        auto const& layer = chain[i + 1];
        same = layer.format == disk.bases[i].format &&
               same_file(layer.file_name, map_path(maps, disk.bases[i].path));
    }
    if (same) co_return Result<>{};
    std::string found;
    for (auto const& layer : chain) found += " " + layer.file_name;
    co_return fail(Errc::refused,
                   "QEMU's command line does not open disk {} over its base on the destination, "
                   "but as{}: omit --base",
                   disk.name, found);
}

std::string backing_name(std::string const& base, std::string const& image, bool relative) {
    if (!relative) return base;
    auto const directory = std::filesystem::path(image).parent_path();
    auto name = std::filesystem::path(base).lexically_relative(directory).string();
    // QEMU would take "a:b" for a protocol.
    return is_path(name) ? name : "./" + name;
}

}  // namespace sidecar
