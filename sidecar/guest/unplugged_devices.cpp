#include "sidecar/guest/unplugged_devices.hpp"

#include <algorithm>
#include <array>

namespace sidecar {

using core::Result;

namespace {

/// How a drive, a node or a netdev is named by those that use it; empty: it is none, or has no
/// name.
std::string backend_name(qmp::Option const& option) {
    auto const kind = option.kind();
    if (kind == "blockdev") return option.settings_or_empty().get_or("node-name", "");
    bool const drive = kind == "drive" && option.settings_or_empty().get_or("if", "") == "none";
    return drive || kind == "netdev" ? option.settings_or_empty().get_or("id", "") : "";
}

/// The backends that an option names: -device its drive and netdev, -blockdev the nodes below.
std::set<std::string> names_in(qmp::Option const& option) {
    constexpr auto keys =
        std::to_array<std::string_view>({"drive", "driveA", "driveB", "netdev", "file", "backing",
                                         "data-file", "pflash0", "pflash1"});
    std::set<std::string> names;
    constexpr auto kinds = std::to_array<std::string_view>({"device", "blockdev", "machine"});
    if (std::ranges::find(kinds, option.kind()) == kinds.end()) return names;
    for (auto const& [key, value] : option.settings_or_empty().all()) {
        auto const leaf = key.substr(key.rfind('.') + 1);
        if (std::ranges::find(keys, leaf) != keys.end()) names.insert(value);
    }
    return names;
}

}  // namespace

std::string StartedDevice::path() const {
    return id.empty() ? fmt::format("/machine/peripheral-anon/device[{}]", number)
                      : "/machine/peripheral/" + id;
}

Result<std::vector<StartedDevice>> started_devices(qmp::CommandLine const& line) {
    // QEMU makes them in this order.
    std::vector<StartedDevice> plain;
    std::vector<StartedDevice> drives;
    std::vector<StartedDevice> json;
    auto const& options = line.options();
    for (std::size_t place = 0; place < options.size(); ++place) {
        auto const& option = options[place];
        if (option.kind() != "device" && option.kind() != "drive") continue;
        TRY(auto const settings, option.settings());
        bool const device = option.kind() == "device";
        if (!device && settings.get_or("if", "") != "virtio") continue;
        bool const is_json = option.value.value_or("").starts_with('{');
        auto& turn = !device ? drives : is_json ? json : plain;
        turn.push_back({place, device ? settings.get_or("id", "") : ""});
    }
    auto devices = std::move(plain);
    devices.insert(devices.end(), drives.begin(), drives.end());
    devices.insert(devices.end(), json.begin(), json.end());
    int number = 0;
    for (auto& device : devices) {
        if (device.id.empty()) device.number = number++;
    }
    return devices;
}

std::set<std::size_t> makers_of(qmp::CommandLine const& line, std::set<std::string> const& names) {
    std::set<std::size_t> makers;
    auto const& options = line.options();
    for (std::size_t place = 0; place < options.size(); ++place) {
        auto const name = backend_name(options[place]);
        if (!name.empty() && names.contains(name)) makers.insert(place);
    }
    return makers;
}

std::set<std::size_t> only_used_by(qmp::CommandLine const& line, std::set<std::size_t> const& gone,
                                   std::set<std::string> const& kept) {
    auto const& options = line.options();
    auto all = gone;
    // Down the graph: what is under a node that is dropped is dropped too. Each turn drops one more
    // at least.
    for (std::size_t before = 0; before != all.size();) {
        before = all.size();
        std::set<std::string> used = kept;
        std::set<std::string> unused;
        for (std::size_t place = 0; place < options.size(); ++place) {
            (all.contains(place) ? unused : used).merge(names_in(options[place]));
        }
        for (auto const& name : used) unused.erase(name);
        all.merge(makers_of(line, unused));
    }
    for (auto const place : gone) all.erase(place);
    return all;
}

}  // namespace sidecar
