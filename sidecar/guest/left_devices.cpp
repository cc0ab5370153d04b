#include "sidecar/guest/left_devices.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/block_device.hpp"

namespace sidecar {

using core::Json;
using core::Result;

namespace {

Result<std::vector<LeftDevice>> read_left_devices(Paths const& paths, std::string const& guest) {
    std::vector<LeftDevice> devices;
    auto const path = left_devices_path(paths, guest);
    if (access(path.c_str(), F_OK) != 0) return devices;
    TRY(auto const text, read_file(path, limits::manifest_bytes_max));
    TRY(auto const json, Json::parse(text));
    for (auto const& one : json.elements()) {
        TRY(auto device, LeftDevice::from_json(one));
        devices.push_back(std::move(device));
    }
    return devices;
}

Result<> write_left_devices(Paths const& paths, std::string const& guest,
                            std::vector<LeftDevice> const& devices) {
    auto const path = left_devices_path(paths, guest);
    if (devices.empty()) {
        if (unlink(path.c_str()) < 0 && errno != ENOENT)
            return core::fail_errno(errno, "cannot remove {}", path);
        return {};
    }
    Json list = Json::array();
    for (auto const& device : devices) list.add(device.to_json());
    return write_durably(path, list.dump_pretty() + "\n");
}

/// Whether an entry is of the device at `path`.
auto is_entry_of(std::string const& path) {
    return [path, identity = storage::device_identity(path)](LeftDevice const& one) {
        return one.path == path || (!identity.empty() && one.identity == identity);
    };
}

/// The guests that have a state directory on this host.
std::vector<std::string> guests_with_state(Paths const& paths) {
    std::vector<std::string> guests;
    std::error_code error;
    for (auto const& entry : std::filesystem::directory_iterator(paths.state_directory, error)) {
        auto name = entry.path().filename().string();
        if (check_guest_name(name)) guests.push_back(std::move(name));
    }
    return guests;
}

}  // namespace

std::string left_devices_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/left-devices.json";
}

bool LeftDevice::is_at(std::string const& at) const {
    if (identity.empty() || storage::device_identity(at) != identity) return false;
    // After a reboot it was writable for a while: anybody may have used it.
    if (boot != storage::boot_identity()) return false;
    auto const status = storage::look_at_device(at);
    return status && status->read_only;
}

bool LeftDevice::may_be_at(std::string const& at) const {
    bool const known = identity.starts_with("dm ") || boot == storage::boot_identity();
    if (known && !identity.empty()) return storage::device_identity(at) == identity;
    return storage::is_same_device(path, at);
}

Json LeftDevice::to_json() const {
    return Json::object(
        {{"path", path}, {"identity", identity}, {"boot", boot}, {"migration_id", migration_id}});
}

Result<LeftDevice> LeftDevice::from_json(Json const& json) {
    LeftDevice device;
    TRY(device.path, json.text("path"));
    TRY(device.identity, json.text("identity"));
    TRY(device.boot, json.text("boot"));
    TRY(device.migration_id, json.text("migration_id"));
    return device;
}

Result<> record_left_devices(Paths const& paths, std::string const& guest,
                             std::string const& migration_id,
                             std::vector<std::string> const& images) {
    TRY(auto devices, read_left_devices(paths, guest));
    bool changed = false;
    for (auto const& path : images) {
        if (!storage::is_block_device(path)) continue;
        std::erase_if(devices, is_entry_of(path));
        devices.push_back(
            {path, storage::device_identity(path), storage::boot_identity(), migration_id});
        changed = true;
    }
    if (!changed) return {};
    return write_left_devices(paths, guest, devices);
}

std::vector<LeftDevice> left_devices(Paths const& paths, std::string const& guest) {
    auto devices = read_left_devices(paths, guest);
    if (devices) return std::move(*devices);
    core::log::warning("guest={} {}", guest, devices.error().sentence());
    return {};
}

bool has_left(Paths const& paths, std::string const& guest, std::string const& path) {
    auto const devices = left_devices(paths, guest);
    return std::ranges::any_of(devices, [&](LeftDevice const& one) { return one.is_at(path); });
}

std::optional<std::string> guest_that_left(Paths const& paths, std::string const& path) {
    if (!storage::is_block_device(path)) return {};
    for (auto& guest : guests_with_state(paths)) {
        auto const devices = left_devices(paths, guest);
        bool const left = std::ranges::any_of(
            devices, [&](LeftDevice const& one) { return one.may_be_at(path); });
        if (left) return std::move(guest);
    }
    return {};
}

Result<> forget_left_device(Paths const& paths, std::string const& path, std::string const& keep) {
    for (auto const& guest : guests_with_state(paths)) {
        if (guest == keep) continue;
        TRY(auto devices, read_left_devices(paths, guest));
        bool const any = std::erase_if(devices, is_entry_of(path)) > 0;
        if (any) TRY_VOID(write_left_devices(paths, guest, devices));
    }
    return {};
}

namespace {

/// Whether the entry stays.
Result<bool> keep_left_device(LeftDevice& device) {
    auto const boot = storage::boot_identity();
    bool const same = !device.identity.empty() && device.boot != boot &&
                      storage::device_identity(device.path) == device.identity;
    if (!same) return true;
    if (!storage::check_device_unused(device.path)) return false;
    TRY_VOID(storage::set_device_read_only(device.path, true));
    device.boot = boot;
    return true;
}

Result<> keep_left_devices_of(Paths const& paths, std::string const& guest) {
    TRY(auto const before, read_left_devices(paths, guest));
    std::vector<LeftDevice> after;
    for (auto device : before) {
        TRY(bool const stays, keep_left_device(device));
        if (stays) after.push_back(std::move(device));
    }
    if (after == before) return {};
    return write_left_devices(paths, guest, after);
}

}  // namespace

void keep_left_devices(Paths const& paths) {
    for (auto const& guest : guests_with_state(paths)) {
        auto const kept = keep_left_devices_of(paths, guest);
        if (!kept) core::log::warning("guest={} {}", guest, kept.error().sentence());
    }
}

}  // namespace sidecar
