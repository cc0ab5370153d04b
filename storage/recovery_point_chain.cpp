#include "storage/recovery_point_chain.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "storage/image.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr std::string_view point_mark = ".point-";

// As chain_node() for what lies below.
std::string lower_node(std::size_t index, std::size_t level) {
    return fmt::format("disk-{}-{}", index, level);
}

}  // namespace

std::string point_path(ChainDisk const& disk, unsigned number) {
    return fmt::format("{}{}{}-{}", disk.image, point_mark, disk.id, number);
}

std::string chain_node(std::size_t index) { return fmt::format("disk-{}", index); }

Task<Result<>> create_point(core::Loop& loop, ChainDisk disk, unsigned number, unsigned below,
                            Deadline deadline) {
    auto const path = point_path(disk, number);
    if (unlink(path.c_str()) < 0 && errno != ENOENT) {
        co_return fail_errno(errno, "cannot remove {}", path);
    }
    auto const backing = below == 0 ? disk.image : point_path(disk, below);
    std::vector<std::string> arguments{"create", "-q",
                                       "-f",     "qcow2",
                                       "-o",     "extended_l2=on",
                                       "-b",     backing,
                                       "-F",     below == 0 ? disk.format : "qcow2",
                                       path,     fmt::format("{}", disk.virtual_bytes)};
    CO_TRY_VOID(co_await run_qemu_img(loop, std::move(arguments), deadline));
    if (chmod(path.c_str(), 0600) < 0) co_return fail_errno(errno, "cannot protect {}", path);
    co_return Result<>{};
}

Task<Result<>> fold_point(core::Loop& loop, ChainDisk disk, unsigned number, unsigned above,
                          Deadline deadline) {
    auto const path = point_path(disk, number);
    // -d: the overlay is not emptied, it goes as a whole.
    CO_TRY_VOID(co_await run_qemu_img(
        loop, {"commit", "-q", "-d", "-f", "qcow2", "-b", disk.image, path}, deadline));
    if (above == 0) co_return Result<>{};
    co_return co_await run_qemu_img(loop,
                                    {"rebase", "-q", "-u", "-f", "qcow2", "-b", disk.image, "-F",
                                     disk.format, point_path(disk, above)},
                                    deadline);
}

Task<Result<>> sync_image(core::Loop& loop, std::string path, Deadline deadline) {
    core::Fd const file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) co_return fail_errno(errno, "cannot open {}", path);
    auto const synced = co_await loop.fdatasync(file.get(), deadline);
    if (!synced) co_return std::unexpected(synced.error());
    co_return sync_directory_of(path);
}

Result<> remove_points(ChainDisk const& disk, std::vector<unsigned> const& kept) {
    auto const whole = std::filesystem::path(disk.image);
    auto const prefix = fmt::format("{}{}{}-", whole.filename().string(), point_mark, disk.id);
    std::vector<std::string> wanted;
    for (auto const number : kept) wanted.push_back(point_path(disk, number));
    std::vector<std::string> doomed;
    std::error_code error;
    auto entry = std::filesystem::directory_iterator(whole.parent_path(), error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        auto const name = entry->path().string();
        auto const file = entry->path().filename().string();
        bool const ours = file.starts_with(prefix) && file.size() > prefix.size() &&
                          file.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
        if (!ours) continue;
        if (std::ranges::find(wanted, name) == wanted.end()) doomed.push_back(name);
    }
    if (error) return fail_errno(error.value(), "cannot list {}", whole.parent_path().string());
    for (auto const& name : doomed) {
        if (unlink(name.c_str()) < 0) return fail_errno(errno, "cannot remove {}", name);
    }
    return {};
}

std::vector<std::string> chain_options(ChainDisk const& disk, std::vector<unsigned> const& overlays,
                                       std::size_t index) {
    std::vector<std::string> options;
    for (std::size_t level = 0; level <= overlays.size(); ++level) {
        bool const top = level == overlays.size();
        auto const path = level == 0 ? disk.image : point_path(disk, overlays[level - 1]);
        auto const file =
            Json::object({{"driver", "file"}, {"filename", path}, {"discard", "unmap"}});
        auto node = Json::object({{"driver", level == 0 ? disk.format : "qcow2"},
                                  {"node-name", top ? chain_node(index) : lower_node(index, level)},
                                  {"read-only", !top},
                                  {"discard", "unmap"},
                                  {"file", file}});
        if (level > 0) node.set("backing", lower_node(index, level - 1));
        options.push_back(node.dump());
    }
    return options;
}

}  // namespace storage
