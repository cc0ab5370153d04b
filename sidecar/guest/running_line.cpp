#include "sidecar/guest/running_line.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/guest/media.hpp"
#include "sidecar/guest/plugged_devices.hpp"
#include "sidecar/guest/unplugged_devices.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

struct Changes {
    std::vector<QomDevice> plugged;
    std::vector<StartedDevice> there;  ///< Of the line.
    std::vector<StartedDevice> gone;
};

Result<Changes> changes_of(qmp::CommandLine const& line, std::vector<QomDevice> const& devices) {
    Changes changes;
    TRY(auto const started, started_devices(line));
    for (auto const& device : started) {
        bool const there = std::ranges::any_of(devices, [&](QomDevice const& one) {
            return !one.hotplugged && one.path == device.path();
        });
        (there ? changes.there : changes.gone).push_back(device);
    }
    std::ranges::copy_if(devices, std::back_inserter(changes.plugged), &QomDevice::hotplugged);
    return changes;
}

/// Properties that say where a device is on its bus. QEMU chooses those that the line does not
/// name, and would choose others if a device before is missing.
Task<Result<>> pin(qmp::Client& client, StartedDevice device, qmp::Settings& settings,
                   Deadline deadline) {
    auto const path = device.path();
    CO_TRY(auto const bus, co_await property_of(client, path, "parent_bus", deadline));
    auto const bus_path = bus.text_or("");
    bool const is_named = !bus_path.starts_with("/machine/peripheral-anon/");
    if (!settings.has("bus") && is_named && !bus_path.empty())
        settings.set("bus", bus_path.substr(bus_path.rfind('/') + 1));
    CO_TRY(auto const kind, co_await property_of(client, path, "type", deadline));
    auto const slot = slot_of(kind.text_or(""));
    if (!settings.has("addr") && slot != Slot::scsi && slot != Slot::usb) {
        CO_TRY(auto const address, co_await pci_address_of(client, path, deadline));
        bool const is_pci = !address.empty() && kind.text_or("").find("dimm") == std::string::npos;
        if (is_pci) settings.set("addr", address);
    }
    if (slot == Slot::scsi || slot == Slot::serial_port) {
        for (std::string const key : {"channel", "scsi-id", "lun", "nr"}) {
            CO_TRY(auto const value, co_await property_of(client, path, key, deadline));
            if (value.integer_or(-1) >= 0 && !settings.has(key))
                settings.set_number(key, static_cast<std::uint64_t>(value.integer_or(0)));
        }
    }
    if (settings.has("netdev") && !settings.has("mac")) {
        CO_TRY(auto const mac, co_await property_of(client, path, "mac", deadline));
        if (!mac.text_or("").empty()) settings.set("mac", mac.text_or(""));
    }
    if (slot == Slot::usb && !settings.has("port")) {
        CO_TRY(auto const ports, co_await qmp::info_usb(client, deadline));
        auto const port = ports.find(device.id);
        if (port != ports.end() && !device.id.empty()) settings.set("port", port->second);
    }
    co_return Result<>{};
}

/// Fixes the places of the devices that are still there.
Task<Result<>> pin_all(qmp::Client& client, std::vector<StartedDevice> devices,
                       std::vector<qmp::Option>& options, Deadline deadline) {
    for (auto const& device : devices) {
        auto& option = options[device.option];
        CO_TRY(auto settings, option.settings());
        if (option.kind() == "drive") {
            co_return fail(Errc::refused,
                           "a device of QEMU's command line was unplugged, and `{}` might be at "
                           "another place on the destination: plug it in again first, or write "
                           "such disks as `-drive if=none,id=ID` with `-device "
                           "virtio-blk-pci,drive=ID`",
                           option.print());
        }
        CO_TRY_VOID(co_await pin(client, device, settings, deadline));
        option.replace(settings);
    }
    co_return Result<>{};
}

/// Queues of vhost-net that no tap of the line has: those of taps that came later.
std::size_t later_vhost_queues(qmp::CommandLine const& line, Backends const& backends) {
    namespace fs = std::filesystem;
    std::size_t queues = 0;
    std::error_code error;
    fs::directory_iterator entry(fmt::format("/proc/{}/fd", backends.qemu), error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
        std::error_code gone;  // closed meanwhile
        if (fs::read_symlink(entry->path(), gone) == "/dev/vhost-net") ++queues;
    }
    for (auto const& tap : line.taps()) {
        auto const now = std::ranges::find(backends.network, tap.id, &qmp::NetClient::name);
        if (!tap.vhost || now == backends.network.end()) continue;
        queues -= std::min<std::size_t>(queues, now->queues);
    }
    return queues;
}

/// The same program with other options.
Result<qmp::CommandLine> with_options(qmp::CommandLine const& line,
                                      std::vector<qmp::Option> const& options) {
    auto words = line.wrapper();
    words.push_back(line.program());
    for (auto const& option : options) {
        if (!option.dashes.empty()) words.push_back(option.dashes + option.name);
        if (option.value) words.push_back(*option.value);
    }
    return qmp::CommandLine::parse(std::move(words));
}

std::map<std::string, std::string> taps_of(qmp::CommandLine const& line, Backends const& backends) {
    std::map<std::string, std::string> taps;
    for (auto const& tap : line.taps()) {
        auto const now = std::ranges::find(backends.network, tap.id, &qmp::NetClient::name);
        auto const name = now == backends.network.end() ? Result<std::string>(tap.ifname)
                                                        : tap_name(backends, *now);
        if (name && !name->empty()) taps[tap.id] = *name;
    }
    return taps;
}

/// What the devices that are gone used stays behind.
void warn_of_unused(qmp::CommandLine const& line, std::set<std::size_t> const& dropped,
                    Backends const& backends, std::vector<std::string>& warnings) {
    for (auto const place : dropped) {
        auto const settings = line.options()[place].settings_or_empty();
        auto const id = settings.get("node-name").value_or(settings.get_or("id", ""));
        bool const node = backends.graph.find(id) != nullptr;
        bool const net = std::ranges::find(backends.network, id, &qmp::NetClient::name) !=
                         backends.network.end();
        if (!node && !net) continue;
        warnings.push_back(fmt::format("{} {} stays behind: the device that used it was unplugged",
                                       node ? "the block node" : "the netdev", id));
    }
}

}  // namespace

Task<Result<RunningLine>> running_line(qmp::Client& client, pid_t qemu, qmp::CommandLine line,
                                       std::string working_directory, Deadline deadline) {
    CO_TRY(auto const devices, co_await qom_devices(client, deadline));
    CO_TRY(auto const changes, changes_of(line, devices));
    CO_TRY(auto const drives, co_await qmp::query_block(client, deadline));
    bool const same_media = check_media(line, drives, working_directory).has_value();
    if (changes.plugged.empty() && changes.gone.empty() && same_media)
        co_return RunningLine{std::move(line)};
    CO_TRY(auto backends,
           co_await backends_of(client, qemu, std::move(working_directory), deadline));
    backends.later_vhost_queues = later_vhost_queues(line, backends);
    PluggedDevices plugged(client, line, backends, deadline);
    for (auto const& device : changes.plugged) CO_TRY_VOID(co_await plugged.add(device));
    auto options = line.options();
    if (!changes.gone.empty())
        CO_TRY_VOID(co_await pin_all(client, changes.there, options, deadline));
    std::set<std::size_t> dropped;
    for (auto const& device : changes.gone) dropped.insert(device.option);
    if (!same_media) {
        put_media_of_drives(options, backends);
        CO_TRY(auto const out, put_media_of_nodes(options, changes.there, backends, plugged));
        dropped.merge(makers_of(line, out));
    }
    dropped.merge(makers_of(line, plugged.replaced()));
    CO_TRY(auto const as_used, with_options(line, options));
    auto unused = only_used_by(as_used, dropped, plugged.used());
    auto warnings = plugged.warnings();
    warn_of_unused(line, unused, backends, warnings);
    dropped.merge(unused);
    for (auto place = dropped.rbegin(); place != dropped.rend(); ++place)
        options.erase(options.begin() + static_cast<std::ptrdiff_t>(*place));
    options.insert(options.end(), plugged.options().begin(), plugged.options().end());
    CO_TRY(auto changed, with_options(line, options));
    auto taps = taps_of(changed, backends);
    co_return RunningLine{std::move(changed), std::move(taps), std::move(warnings)};
}

}  // namespace sidecar
