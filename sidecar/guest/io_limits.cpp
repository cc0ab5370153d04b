#include "sidecar/guest/io_limits.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// Keys of the limits of one device or group: six kinds, with a burst and its length each, and two.
constexpr std::size_t limit_keys_max = 20;
constexpr std::size_t group_name_bytes_max = 255;

/// Of a device without an id of its drive it is the device's QOM path.
bool is_group_name(std::string const& name) {
    return !name.empty() && name.size() <= group_name_bytes_max;
}
/// Its QOM path ends with it.
bool is_object_name(std::string const& name) {
    return is_group_name(name) && name.find('/') == std::string::npos;
}

bool is_limit_key(std::string const& key) {
    return !key.empty() && std::ranges::all_of(key, [](char const one) {
        return (one >= 'a' && one <= 'z') || one == '_' || one == '-';
    });
}

Result<Json> numbers_from(Json const& json, bool has_group) {
    bool good = json.is_object() && json.size() <= limit_keys_max;
    for (auto const& [key, value] : json.members()) {
        bool const group = has_group && key == "group" && is_group_name(value.text_or(""));
        good = good && (group || (is_limit_key(key) && value.integer_or(-1) >= 0));
    }
    if (!good) return fail(Errc::protocol, "the limits of a disk are not those of QEMU");
    return json;
}

/// Whether every member of `wanted` is in `now`.
bool includes(Json const& now, Json const& wanted) {
    return std::ranges::all_of(wanted.members(), [&](auto const& member) {
        return now[member.first].dump() == member.second.dump();
    });
}

Task<Result<>> set_group_limits(qmp::Client& client, ThrottleGroup group, Deadline deadline) {
    auto const path = "/objects/" + group.id;
    CO_TRY(auto const now, co_await qmp::qom_get(client, path, "limits", deadline));
    if (includes(now, group.limits)) co_return Result<>{};
    core::log::info("throttle group {} has the limits that it had at the source: {}", group.id,
                    group.limits.dump());
    co_return co_await qmp::qom_set(client, path, "limits", group.limits, deadline);
}

}  // namespace

Json throttle_groups_json(std::vector<ThrottleGroup> const& groups) {
    auto list = Json::array();
    for (auto const& group : groups) {
        list.add(Json::object({{"id", group.id}, {"limits", group.limits}}));
    }
    return list;
}

Result<std::vector<ThrottleGroup>> throttle_groups_from_json(Json const& json) {
    if (json.size() > limits::throttle_groups_max)
        return fail(Errc::protocol, "the guest has too many throttle groups");
    std::vector<ThrottleGroup> groups;
    for (auto const& entry : json.elements()) {
        ThrottleGroup group;
        TRY(group.id, entry.text("id"));
        if (!is_object_name(group.id))
            return fail(Errc::protocol, "{} is not the name of a throttle group", group.id);
        TRY(group.limits, numbers_from(entry["limits"], false));
        groups.push_back(std::move(group));
    }
    return groups;
}

Result<Json> limits_from_json(Json const& json) {
    if (json.is_null()) return json;  // an older release does not send them
    return numbers_from(json, true);
}

Task<Result<std::vector<ThrottleGroup>>> throttle_groups_of(qmp::Client& client,
                                                            Deadline deadline) {
    auto const objects = co_await qmp::qom_list(client, "/objects", deadline);
    std::vector<ThrottleGroup> groups;
    if (!objects && objects.error().code == Errc::qemu_refused) co_return groups;  // it has none
    if (!objects) co_return std::unexpected(objects.error());
    for (auto const& object : *objects) {
        if (object.type != "child<throttle-group>") continue;
        if (groups.size() == limits::throttle_groups_max) {
            co_return fail(Errc::refused, "the guest has more than {} throttle groups",
                           limits::throttle_groups_max);
        }
        CO_TRY(auto limits,
               co_await qmp::qom_get(client, "/objects/" + object.name, "limits", deadline));
        groups.push_back({object.name, std::move(limits)});
    }
    co_return groups;
}

Result<> check_groups_as_started(qmp::CommandLine const& line,
                                 std::vector<ThrottleGroup> const& groups) {
    std::vector<std::string> started;
    for (auto const& option : line.options()) {
        if (option.kind() != "object") continue;
        TRY(auto const settings, option.settings());
        started.push_back(settings.get_or("id", ""));
    }
    for (auto const& group : groups) {
        if (std::ranges::find(started, group.id) != started.end()) continue;
        return fail(Errc::refused,
                    "the throttle group {} was made after QEMU's start, and the destination starts "
                    "from the command line: remove it first (object-del)",
                    group.id);
    }
    return {};
}

Task<Result<>> set_io_limits(qmp::Client& client, Description const& description,
                             Deadline deadline) {
    for (auto const& group : description.throttle_groups) {
        CO_TRY_VOID(co_await set_group_limits(client, group, deadline));
    }
    CO_TRY(auto const devices, co_await qmp::query_block(client, deadline));
    for (auto const* const disks : {&description.disks, &description.shared}) {
        for (auto const& disk : *disks) {
            auto const* const here = find_drive(devices, disk);
            if (here == nullptr || here->qdev.empty() || disk.limits.is_null()) continue;
            if (includes(here->limits, disk.limits) && includes(disk.limits, here->limits)) {
                continue;
            }
            core::log::info("disk={} has the limits that it had at the source: {}", disk.name,
                            disk.limits.dump());
            CO_TRY_VOID(
                co_await qmp::block_set_io_throttle(client, here->qdev, disk.limits, deadline));
        }
    }
    co_return Result<>{};
}

}  // namespace sidecar
