#include "sidecar/guest/roms.hpp"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <optional>
#include <sstream>

#include "core/process.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/qom_devices.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/file_hash.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

namespace fs = std::filesystem;

/// The number of a PCI device's ROM among its regions (PCI_ROM_SLOT of QEMU).
constexpr std::int64_t rom_region = 6;
/// `-L help` prints a few paths.
constexpr std::size_t directories_bytes_max = 64 * 1024;

/// A device as query-pci reports it.
struct PciDevice {
    std::string id;  ///< Empty: it has none.
    std::int64_t devfn = 0;  ///< Slot and function on its bus.
    std::uint64_t rom_bytes = 0;  ///< 0: it has no ROM.
};

void collect(Json const& devices, int depth, std::vector<PciDevice>& into) {
    for (auto const& entry : devices.elements()) {
        constexpr std::int64_t functions = 8;
        PciDevice device{entry["qdev_id"].text_or(""),
                         entry["slot"].integer_or(0) * functions + entry["function"].integer_or(0)};
        for (auto const& region : entry["regions"].elements()) {
            if (region["bar"].integer_or(0) == rom_region)
                device.rom_bytes = static_cast<std::uint64_t>(region["size"].integer_or(0));
        }
        into.push_back(std::move(device));
        if (depth > 0) collect(entry["pci_bridge"]["devices"], depth - 1, into);
    }
}

/// A device that QOM names by a number.
struct Unnamed {
    std::string path;
    std::int64_t devfn = 0;
};

/// The PCI devices without an id that have a ROM.
Task<Result<std::vector<Unnamed>>> unnamed_devices(qmp::Client& client, Deadline deadline) {
    std::vector<Unnamed> found;
    for (std::string const parent : {"/machine/peripheral-anon", "/machine/unattached"}) {
        auto const children = co_await qmp::qom_list(client, parent, deadline);
        if (!children && children.error().code == Errc::qemu_refused) continue;
        if (!children) co_return std::unexpected(children.error());
        for (auto const& child : *children) {
            if (!child.type.starts_with("child<") || !child.name.starts_with("device[")) continue;
            auto const path = parent + "/" + child.name;
            CO_TRY(auto const file, co_await property_of(client, path, "romfile", deadline));
            if (file.text_or("").empty()) continue;
            CO_TRY(auto const devfn, co_await property_of(client, path, "addr", deadline));
            found.push_back({path, devfn.integer_or(-1)});
        }
    }
    co_return found;
}

/// The QOM path of `device`; empty: it is not known which it is.
std::string path_of(PciDevice const& device, std::vector<PciDevice> const& all,
                    std::vector<Unnamed> const& unnamed) {
    if (!device.id.empty()) return "/machine/peripheral/" + device.id;
    auto const alike = [&](PciDevice const& other) {
        return other.id.empty() && other.rom_bytes > 0 && other.devfn == device.devfn;
    };
    auto const here = [&](Unnamed const& one) { return one.devfn == device.devfn; };
    // On buses behind bridges the same numbers occur again.
    if (std::ranges::count_if(all, alike) != 1 || std::ranges::count_if(unnamed, here) != 1)
        return {};
    return std::ranges::find_if(unnamed, here)->path;
}

std::string name_of(PciDevice const& device) {
    if (!device.id.empty()) return device.id;
    return fmt::format("the device at {:02x}.{}", device.devfn / 8, device.devfn % 8);
}

std::optional<std::uint64_t> bytes_of(std::string const& path) {
    std::error_code error;
    auto const size = fs::file_size(path, error);
    return error ? std::nullopt : std::optional<std::uint64_t>(size);
}

/// Empty: it is too large, or cannot be read in time.
Task<std::string> sha256_of(core::Loop& loop, std::string path, std::uint64_t bytes,
                            Deadline deadline) {
    if (bytes > limits::firmware_bytes_max) co_return std::string();
    auto const hash = co_await storage::hash_part(loop, std::move(path), 0, bytes, deadline);
    co_return hash.value_or("");
}

/// Where QEMU looks for a ROM that is named without a path, in its order.
Task<std::vector<std::string>> data_directories(core::Loop& loop, qmp::CommandLine line,
                                                Deadline deadline) {
    std::vector<std::string> directories;
    std::vector<std::string> ask{line.program()};
    for (auto const& option : line.options()) {
        if (option.kind() == "L") ask.insert(ask.end(), {"-L", option.value.value_or("")});
    }
    ask.insert(ask.end(), {"-L", "help"});
    auto const told =
        co_await core::output_of(loop, std::move(ask), directories_bytes_max, deadline);
    std::istringstream lines(told.value_or(""));
    for (std::string one; std::getline(lines, one);) {
        if (one.starts_with('/')) directories.push_back(one);
    }
    co_return directories;
}

/// The file of this host; empty: the line does not name it.
std::string named_file(HostMaps const& maps, qmp::AllowedLine const& line,
                       std::string const& file) {
    auto path = map_path(maps, file);
    return std::ranges::find(line.files, path, &qmp::FileUse::path) == line.files.end()
               ? std::string()
               : path;
}

/// Empty: it is not found, and QEMU says so when it starts, before anything is copied.
std::string find_rom(HostMaps const& maps, qmp::AllowedLine const& line, std::string const& file,
                     std::vector<std::string> const& directories) {
    if (file.find('/') != std::string::npos) return named_file(maps, line, file);
    for (auto const& directory : directories) {
        auto path = directory + "/" + file;
        if (bytes_of(path)) return path;
    }
    return {};
}

}  // namespace

Json option_roms_json(std::vector<OptionRom> const& roms) {
    auto list = Json::array();
    for (auto const& rom : roms) {
        list.add(Json::object({{"device", rom.device}, {"file", rom.file}, {"bytes", rom.bytes}}));
    }
    return list;
}

Json firmware_json(std::vector<Firmware> const& firmware) {
    auto list = Json::array();
    for (auto const& one : firmware) {
        list.add(Json::object({{"path", one.path}, {"bytes", one.bytes}, {"sha256", one.sha256}}));
    }
    return list;
}

Result<std::vector<OptionRom>> option_roms_from_json(Json const& json) {
    if (json.size() > limits::roms_max) return fail(Errc::protocol, "the guest has too many ROMs");
    std::vector<OptionRom> roms;
    for (auto const& entry : json.elements()) {
        TRY(auto device, entry.text("device"));
        TRY(auto file, entry.text("file"));
        TRY(auto const bytes, entry.integer("bytes"));
        if (bytes < 0 || file.find("..") != std::string::npos)
            return fail(Errc::protocol, "the ROM {} of {} cannot be", file, device);
        roms.push_back({std::move(device), std::move(file), static_cast<std::uint64_t>(bytes)});
    }
    return roms;
}

Result<std::vector<Firmware>> firmware_from_json(Json const& json) {
    if (json.size() > limits::roms_max)
        return fail(Errc::protocol, "the guest has too many files of firmware");
    std::vector<Firmware> firmware;
    for (auto const& entry : json.elements()) {
        TRY(auto path, entry.text("path"));
        TRY(auto const bytes, entry.integer("bytes"));
        TRY(auto sha256, entry.text("sha256"));
        if (bytes < 0 || !path.starts_with('/'))
            return fail(Errc::protocol, "the firmware {} cannot be", path);
        firmware.push_back({std::move(path), static_cast<std::uint64_t>(bytes), std::move(sha256)});
    }
    return firmware;
}

Task<Result<std::vector<OptionRom>>> option_roms_of(qmp::Client& client, Deadline deadline) {
    auto const buses = co_await client.execute("query-pci", {}, deadline);
    std::vector<OptionRom> roms;
    if (!buses && buses.error().code == Errc::qemu_refused) co_return roms;  // no PCI
    if (!buses) co_return std::unexpected(buses.error());
    std::vector<PciDevice> devices;
    constexpr int bridges_max = 16;  // one behind the other
    for (auto const& bus : buses->elements()) collect(bus["devices"], bridges_max, devices);
    CO_TRY(auto const unnamed, co_await unnamed_devices(client, deadline));
    for (auto const& device : devices) {
        auto const path = device.rom_bytes > 0 ? path_of(device, devices, unnamed) : "";
        if (path.empty() || roms.size() == limits::roms_max) continue;
        CO_TRY(auto const file, co_await property_of(client, path, "romfile", deadline));
        if (file.text_or("").empty()) continue;
        roms.push_back({name_of(device), file.text_or(""), device.rom_bytes});
    }
    co_return roms;
}

Task<std::vector<Firmware>> firmware_of(core::Loop& loop, qmp::CommandLine line,
                                        std::string working_directory, Deadline deadline) {
    std::vector<std::string> paths;
    for (auto const& option : line.options()) {
        // A name without a slash is in QEMU's own directories, where every version has its own.
        auto const value = option.value.value_or("");
        if (option.kind() == "bios" && value.find('/') != std::string::npos) paths.push_back(value);
    }
    for (auto const& disk : line.disks()) {
        if (disk.firmware && disk.read_only && disk.local) paths.push_back(disk.file_name);
    }
    std::vector<Firmware> firmware;
    for (auto const& path : paths) {
        auto const file = absolute(path, working_directory);
        auto const bytes = bytes_of(file);
        if (!bytes || firmware.size() == limits::roms_max) continue;
        firmware.push_back({file, *bytes, co_await sha256_of(loop, file, *bytes, deadline)});
    }
    co_return firmware;
}

Task<Result<>> check_roms(core::Loop& loop, HostMaps maps, qmp::AllowedLine line,
                          Description const& description, Deadline deadline) {
    for (auto const& one : description.firmware) {
        auto const path = named_file(maps, line, one.path);
        auto const bytes = bytes_of(path);
        if (!bytes || *bytes == one.bytes) continue;  // a missing one is found by check_files()
        co_return fail(Errc::refused,
                       "the firmware {} has {} bytes on the destination and {} on the source: QEMU "
                       "loads a guest only with firmware of the same size; copy it",
                       path, *bytes, one.bytes);
    }
    if (description.option_roms.empty()) co_return Result<>{};
    auto const directories = co_await data_directories(loop, line.line, deadline);
    for (auto const& rom : description.option_roms) {
        auto const path = find_rom(maps, line, rom.file, directories);
        auto const bytes = bytes_of(path);
        if (!bytes || std::bit_ceil(*bytes) == rom.bytes) continue;
        co_return fail(
            Errc::refused,
            "the option ROM {} of {} takes {} KiB on the destination ({}) and {} KiB in the guest: "
            "QEMU loads a guest only with ROMs of the same size; put the source's file there, or "
            "start the guest with `romfile=` (no ROM) for this device",
            rom.file, rom.device, std::bit_ceil(*bytes) >> 10, path, rom.bytes >> 10);
    }
    co_return Result<>{};
}

Task<std::vector<std::string>> firmware_warnings(core::Loop& loop, HostMaps maps,
                                                 qmp::AllowedLine line,
                                                 Description const& description,
                                                 Deadline deadline) {
    std::vector<std::string> lines;
    for (auto const& one : description.firmware) {
        auto const path = named_file(maps, line, one.path);
        if (one.sha256.empty() || bytes_of(path) != one.bytes) continue;
        auto const here = co_await sha256_of(loop, path, one.bytes, deadline);
        if (here.empty() || here == one.sha256) continue;
        lines.push_back(
            fmt::format("the firmware {} is another on the destination, of the same size: the "
                        "guest runs with it after its next reset or start",
                        path));
    }
    co_return lines;
}

}  // namespace sidecar
