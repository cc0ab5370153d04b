#include "sidecar/guest/device_tree.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "sidecar/guest/qom_devices.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

/// A PCI tree of 256 buses, and what is on the buses of the functions, do not have more.
constexpr std::size_t parts_max = 4096;
constexpr std::size_t values_max = 128;  ///< A virtio-net has fifty.
/// Places of a device below bridges below bridges; QEMU's names of nodes have 31 bytes, serial
/// numbers 36.
constexpr std::size_t part_text_bytes_max = 1024;

struct KindName {
    MachinePart::Kind kind;
    std::string_view wire;
    std::string_view words;  ///< For people.
};
constexpr auto kind_names = std::to_array<KindName>({
    {MachinePart::Kind::machine, "machine", "machine"},
    {MachinePart::Kind::ram, "ram", "RAM"},
    {MachinePart::Kind::memory_backend, "memory-backend", "memory backend"},
    {MachinePart::Kind::memory_module, "memory-module", "memory module"},
    {MachinePart::Kind::processor, "processor", "processor"},
    {MachinePart::Kind::device, "device", "device"},
    {MachinePart::Kind::off_bus_device, "off-bus-device", "device"},
});

KindName const& names_of(MachinePart::Kind kind) {
    return *std::ranges::find(kind_names, kind, &KindName::kind);
}

bool is_any_of(auto const& list, std::string_view word) {
    return std::ranges::find(list, word) != list.end();
}

/// Properties that the command line gives to a device and the guest sees, or that say what it is
/// connected to. Others are QEMU's own, are mapped to this host (romfile), or are changed by
/// firmware (smb_io_base).
constexpr auto compared_properties = std::to_array<std::string_view>(
    {"chardev", "chassis", "chassis_nr", "class", "drive", "mac", "max_ports", "multifunction",
     "name", "netdev", "num-queues", "num_queues", "serial", "slot", "vectors", "vgamem_mb",
     "logical_block_size", "physical_block_size"});

/// Devices that the machine makes itself as its options say. (Others are QEMU's way to divide a
/// chipset, which changes between versions.)
constexpr auto onboard_kinds =
    std::to_array<std::string_view>({"hpet", "isa-fdc", "isa-parallel", "isa-serial"});
/// Virtual functions, which the guest makes when it likes.
constexpr auto guest_made_kinds = std::to_array<std::string_view>({"igbvf"});
/// Buses inside a chipset.
constexpr auto inner_buses = std::to_array<std::string_view>({"ISA", "System", "i2c-bus"});

constexpr std::string_view pci_bridge_class = "PCI bridge";
constexpr std::string_view ids_key = "PCI ids";
constexpr std::string_view class_key = "PCI class";

/// QEMU has generated it, with a number that another QEMU counts differently.
bool is_generated_name(std::string_view value) {
    return value.empty() || value.front() == '#' || value.starts_with("hub");
}

bool is_compared(std::string const& key, std::string const& value) {
    if (key == "drive" || key == "netdev" || key == "chardev") return !is_generated_name(value);
    bool const unset = value.empty() || value == "0" || value == "<null>";
    return is_any_of(compared_properties, key) && !unset;
}

/// Where a device is on its bus; empty: its bus has no places.
std::string place_on_bus(qmp::BusDevice const& device) {
    struct BusPlaces {
        std::string_view bus_kind;
        std::vector<std::string> properties;
    };
    static std::vector<BusPlaces> const all{{"PCI", {"addr"}},
                                            {"PCIE", {"addr"}},
                                            {"SCSI", {"channel", "scsi-id", "lun"}},
                                            {"IDE", {"unit"}},
                                            {"virtio-serial-bus", {"nr"}},
                                            {"HDA", {"cad"}},
                                            {"ISA", {"iobase"}},
                                            {"floppy-bus", {"unit"}}};
    if (!device.usb_port.empty()) return "port " + device.usb_port;
    auto const found = std::ranges::find(all, device.bus_kind, &BusPlaces::bus_kind);
    if (found == all.end()) return {};
    std::string place;
    for (auto const& property : found->properties) {
        auto const value = device.properties.find(property);
        if (value == device.properties.end()) return {};
        place += (place.empty() ? "" : ":") + value->second;
    }
    return place;
}

/// Makes the parts of devices in QEMU's order: a device comes after its parent.
class BusParts {
public:
    explicit BusParts(std::vector<qmp::BusDevice> const& devices)
        : devices_(devices), parts_of_(devices.size(), none) {}

    std::vector<MachinePart> make() && {
        for (std::size_t index = 0; index < devices_.size(); ++index) take(index);
        return std::move(parts_);
    }

private:
    static constexpr int none = -1;

    void take(std::size_t index) {
        auto const& device = devices_[index];
        int const parent =
            device.parent < 0 ? none : parts_of_[static_cast<std::size_t>(device.parent)];
        if (is_any_of(guest_made_kinds, device.kind)) return;
        // "virtio-pci-bus": the device inside a function. It has most of the properties.
        if (parent != none && device.bus_kind.starts_with("virtio-") &&
            device.bus_kind != "virtio-serial-bus") {
            parts_of_[index] = parent;
            add_values(parts_[static_cast<std::size_t>(parent)], device, true);
            return;
        }
        bool const below = parent != none && !is_any_of(inner_buses, device.bus_kind);
        if (device.pci_ids.empty() && !below && !is_any_of(onboard_kinds, device.kind)) return;
        MachinePart part;
        part.place = free_place(device, parent);
        auto const at = place_on_bus(device);
        auto const on = fmt::format("{}{}{}", at, at.empty() ? "on " : " on ", device.bus);
        part.name = device.id.empty() ? fmt::format("{} ({})", device.kind, on)
                                      : fmt::format("{} ({}, {})", device.id, device.kind, on);
        add_values(part, device, false);
        parts_of_[index] = static_cast<int>(parts_.size());
        parts_.push_back(std::move(part));
    }

    /// Numbers of buses are the guest's, and names of buses may be counted: only those of the root
    /// are taken.
    std::string free_place(qmp::BusDevice const& device, int parent) {
        auto at = place_on_bus(device);
        if (at.empty()) at = device.kind;
        bool const root = parent == none || is_any_of(inner_buses, device.bus_kind);
        auto const above =
            root ? device.bus
                 : fmt::format("{}:{}", parts_[static_cast<std::size_t>(parent)].place,
                               device.bus_number);
        auto place = above + "/" + at;
        for (int count = 2; !places_.insert(place).second; ++count)
            place = fmt::format("{}/{} #{}", above, at, count);
        return place;
    }

    static void add_values(MachinePart& part, qmp::BusDevice const& device, bool inner) {
        auto& values = part.values;
        if (!device.pci_ids.empty()) {
            bool const bridge = device.pci_class == pci_bridge_class;
            values.emplace(ids_key, bridge ? device.pci_ids
                                           : fmt::format("{} (subsystem {})", device.pci_ids,
                                                         device.pci_subsystem));
            values.emplace(class_key, device.pci_class);
        } else if (!inner) {
            values.emplace("kind", device.kind);
        }
        for (auto const& [key, value] : device.properties) {
            // Features of virtio, which QEMU compares when it loads the device.
            bool const feature =
                inner && (value == "true" || value == "false") && !key.starts_with("x-");
            if (feature || is_compared(key, value)) values.emplace(key, value);
        }
    }

    std::vector<qmp::BusDevice> const& devices_;
    std::vector<int> parts_of_;  ///< Of each device: its part.
    std::vector<MachinePart> parts_;
    std::set<std::string> places_;
};

std::string sentence_of(MachinePart const& part, std::string const& key, std::string const& source,
                        std::string const& here) {
    auto const space = part.name.empty() ? "" : " ";
    return fmt::format("the {}{}{} has {} {} on the source and {} on the destination",
                       names_of(part.kind).words, space, qmp::quoted(part.name), key,
                       qmp::quoted(source), qmp::quoted(here));
}

MachinePart const* find_part(DeviceTree const& tree, MachinePart const& like) {
    auto const found = std::ranges::find_if(tree.parts, [&](MachinePart const& one) {
        return one.kind == like.kind && one.place == like.place;
    });
    return found == tree.parts.end() ? nullptr : &*found;
}

/// Whether the QEMU has said anything about parts of that kind.
bool tells_of(DeviceTree const& tree, MachinePart::Kind kind) {
    return kind == MachinePart::Kind::memory_module || kind == MachinePart::Kind::off_bus_device ||
           std::ranges::find(tree.parts, kind, &MachinePart::kind) != tree.parts.end();
}

Result<MachinePart> part_from(Json const& json) {
    MachinePart part;
    TRY(auto const kind, json.text("kind"));
    auto const known = std::ranges::find(kind_names, kind, &KindName::wire);
    if (known == kind_names.end())
        return fail(Errc::protocol, "{} is no kind of part of a machine", qmp::quoted(kind));
    part.kind = known->kind;
    TRY(part.place, json.text("place"));
    TRY(part.name, json.text("name"));
    bool good = part.place.size() <= part_text_bytes_max &&
                part.name.size() <= part_text_bytes_max && json["values"].size() <= values_max;
    for (auto const& [key, value] : json["values"].members()) {
        part.values[key] = value.text_or("");
        good = good && key.size() <= part_text_bytes_max &&
               part.values[key].size() <= part_text_bytes_max;
    }
    if (!good) return fail(Errc::protocol, "a part of the guest's machine is described too long");
    return part;
}

}  // namespace

namespace detail {

std::vector<MachinePart> parts_of_buses(std::vector<qmp::BusDevice> const& devices) {
    return BusParts(devices).make();
}

}  // namespace detail

std::vector<std::string> tree_differences(DeviceTree const& source, DeviceTree const& here) {
    std::vector<std::string> found;
    // Other versions may have other words for a class; the ids say what the function is.
    bool const same_words = source.qemu_version == here.qemu_version;
    for (auto const& part : source.parts) {
        bool const optional = part.kind == MachinePart::Kind::memory_backend;
        auto const* const other = find_part(here, part);
        if (other == nullptr) {
            if (!optional && tells_of(here, part.kind)) {
                found.push_back(fmt::format("it has no {} {}", names_of(part.kind).words,
                                            qmp::quoted(part.name)));
            }
            continue;
        }
        for (auto const& [key, value] : part.values) {
            auto const match = other->values.find(key);
            if (match == other->values.end() || match->second == value) continue;
            if (key == class_key && !same_words) continue;
            found.push_back(sentence_of(part, key, value, match->second));
        }
    }
    for (auto const& part : here.parts) {
        bool const optional = part.kind == MachinePart::Kind::memory_backend;
        if (optional || find_part(source, part) != nullptr || !tells_of(source, part.kind))
            continue;
        found.push_back(fmt::format("it has the {} {}, which the guest does not have",
                                    names_of(part.kind).words, qmp::quoted(part.name)));
    }
    return found;
}

Json DeviceTree::to_json() const {
    auto list = Json::array();
    for (auto const& part : parts) {
        auto values = Json::object();
        for (auto const& [key, value] : part.values) values.set(key, value);
        list.add(Json::object({{"kind", std::string(names_of(part.kind).wire)},
                               {"place", part.place},
                               {"name", part.name},
                               {"values", values}}));
    }
    return Json::object({{"qemu_version", qemu_version}, {"parts", list}});
}

Result<DeviceTree> DeviceTree::from_json(Json const& json) {
    DeviceTree tree;
    TRY(tree.qemu_version, json.text("qemu_version"));
    if (json["parts"].size() > parts_max)
        return fail(Errc::protocol, "the guest's machine has too many parts");
    for (auto const& one : json["parts"].elements()) {
        TRY(auto part, part_from(one));
        tree.parts.push_back(std::move(part));
    }
    return tree;
}

}  // namespace sidecar
