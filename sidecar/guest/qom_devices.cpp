#include "sidecar/guest/qom_devices.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "qmp/vm.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr std::string_view child_type = "child<";
constexpr std::string_view link_type = "link<";
constexpr std::string_view objects = "/objects/";

// After "virtio-" and before "-pci", "-pci-transitional" or "-pci-non-transitional".
constexpr auto virtio_kinds = std::to_array<std::string_view>(
    {"balloon", "blk", "keyboard", "mouse", "net", "rng", "scsi", "serial", "tablet"});
constexpr auto pci_kinds = std::to_array<std::string_view>(
    {"am53c974", "e1000", "e1000e", "igb", "lsi53c895a", "megasas", "mptsas1068", "nec-usb-xhci",
     "pcnet", "pvscsi", "qemu-xhci", "rtl8139", "vmxnet3"});
constexpr auto scsi_kinds = std::to_array<std::string_view>({"scsi-cd", "scsi-hd"});
constexpr std::string_view memory_kind = "pc-dimm";
constexpr std::string_view processor_suffix = "-cpu";  // "host-x86_64-cpu"
// Where a processor is: the rest is that of -cpu.
constexpr auto processor_keys = std::to_array<char const*>(
    {"socket-id", "die-id", "module-id", "core-id", "thread-id", "node-id"});
constexpr auto usb_kinds =
    std::to_array<std::string_view>({"usb-kbd", "usb-mouse", "usb-storage", "usb-tablet"});

bool is_in(auto const& list, std::string_view word) {
    return std::ranges::find(list, word) != list.end();
}

/// "blk" of "virtio-blk-pci"; empty: it is no virtio device on PCI.
std::string_view virtio_kind(std::string_view kind) {
    constexpr std::string_view prefix = "virtio-";
    if (!kind.starts_with(prefix)) return {};
    kind.remove_prefix(prefix.size());
    for (std::string_view const suffix : {"-pci-non-transitional", "-pci-transitional", "-pci"}) {
        if (kind.ends_with(suffix)) return kind.substr(0, kind.size() - suffix.size());
    }
    return {};
}

/// "device[12]" -> 12
int number_in(std::string const& name) {
    int number = -1;
    auto const begin = name.find('[');
    if (begin != std::string::npos)
        std::from_chars(name.data() + begin + 1, name.data() + name.size(), number);
    return number;
}

/// Those that others hang on first; else those with an id by name, then the others by number.
void sort_by_bus(std::vector<QomDevice>& devices) {
    std::ranges::sort(devices, {}, [](QomDevice const& device) {
        return std::tuple(device.id.empty(), device.number, device.id);
    });
    auto const is_below = [](QomDevice const& device, QomDevice const& other) {
        return device.bus_path.starts_with(other.path + "/");
    };
    std::vector<QomDevice> sorted;
    while (!devices.empty()) {
        auto const next = std::ranges::find_if(devices, [&](QomDevice const& device) {
            return std::ranges::none_of(
                devices, [&](QomDevice const& other) { return is_below(device, other); });
        });
        auto const at = next == devices.end() ? devices.begin() : next;
        sorted.push_back(std::move(*at));
        devices.erase(at);
    }
    devices = std::move(sorted);
}

/// ROMs of QEMU's own, which a network card has if none is named.
bool is_default_rom(std::string const& file) {
    return file.starts_with("efi-") && file.ends_with(".rom");
}

/// How `value` is given to a new device; null: it need not be given.
Json to_give(QomDevice const& device, qmp::DeviceProperty const& property, Json const& value) {
    // Its place, its drive, and the size of its ROM, which QEMU sets itself.
    constexpr auto elsewhere =
        std::to_array<std::string_view>({"addr", "bus", "drive", "port", "romsize"});
    bool const address = property.name == "addr" && device.kind == memory_kind;
    if (is_in(elsewhere, property.name) && !address) return {};
    auto const text = value.text_or("");
    if (property.name == "romfile") return is_default_rom(text) ? Json() : value;
    if (property.type.starts_with(link_type)) {
        // Others are objects that the device has made itself.
        return text.starts_with(objects) ? Json(text.substr(objects.size())) : Json();
    }
    if (!property.default_value.is_null())
        return value.dump() == property.default_value.dump() ? Json() : value;
    if (property.name == "bootindex") return value.integer_or(-1) < 0 ? Json() : value;
    // Other properties without a default are states of the running device.
    return property.type == "str" && !text.empty() ? value : Json();
}

}  // namespace

std::optional<Slot> slot_of(std::string const& kind) {
    if (is_in(virtio_kinds, virtio_kind(kind)) || is_in(pci_kinds, kind)) return Slot::pci;
    if (is_in(scsi_kinds, kind)) return Slot::scsi;
    if (is_in(usb_kinds, kind)) return Slot::usb;
    if (kind == "virtserialport") return Slot::serial_port;
    if (kind == memory_kind || kind.ends_with(processor_suffix)) return Slot::none;
    return std::nullopt;
}

bool is_disk_kind(std::string const& kind) {
    return virtio_kind(kind) == "blk" || is_in(scsi_kinds, kind) || kind == "usb-storage";
}

Task<Result<Json>> property_of(qmp::Client& client, std::string path, std::string name,
                               Deadline deadline) {
    auto value = co_await qmp::qom_get(client, std::move(path), std::move(name), deadline);
    if (!value && value.error().code == Errc::qemu_refused) co_return Json();
    co_return value;
}

Task<Result<std::vector<QomDevice>>> qom_devices(qmp::Client& client, Deadline deadline) {
    std::vector<QomDevice> devices;
    for (std::string const parent : {"/machine/peripheral", "/machine/peripheral-anon"}) {
        bool const named = parent == "/machine/peripheral";
        CO_TRY(auto const children, co_await qmp::qom_list(client, parent, deadline));
        for (auto const& child : children) {
            if (!child.type.starts_with(child_type)) continue;
            QomDevice device{
                parent + "/" + child.name, named ? child.name : "",
                named ? -1 : number_in(child.name),
                child.type.substr(child_type.size(), child.type.size() - child_type.size() - 1)};
            CO_TRY(auto const plugged,
                   co_await property_of(client, device.path, "hotplugged", deadline));
            device.hotplugged = plugged.boolean_or(false);
            if (device.hotplugged) {
                CO_TRY(auto const bus,
                       co_await property_of(client, device.path, "parent_bus", deadline));
                device.bus_path = bus.text_or("");
            }
            devices.push_back(std::move(device));
        }
    }
    sort_by_bus(devices);
    co_return devices;
}

namespace {

Task<Result<Json>> place_of_processor(qmp::Client& client, QomDevice device, Deadline deadline) {
    auto given = Json::object();
    for (auto const* const key : processor_keys) {
        CO_TRY(auto const value, co_await property_of(client, device.path, key, deadline));
        if (value.integer_or(-1) >= 0) given.set(key, value);
    }
    co_return given;
}

}  // namespace

Task<Result<Json>> given_properties(qmp::Client& client, QomDevice device, Deadline deadline) {
    if (device.kind.ends_with(processor_suffix))
        co_return co_await place_of_processor(client, std::move(device), deadline);
    CO_TRY(auto const properties,
           co_await qmp::device_list_properties(client, device.kind, deadline));
    auto given = Json::object();
    for (auto const& property : properties) {
        CO_TRY(auto const value,
               co_await property_of(client, device.path, property.name, deadline));
        if (value.is_null()) continue;
        bool const list = value.is_array() || value.is_object();
        if (list && property.default_value.is_null() && value.size() > 0 &&
            property.name == "iothread-vq-mapping") {
            co_return fail(Errc::refused,
                           "the device {} was plugged in after QEMU's start with `{}`, which the "
                           "destination cannot give it: unplug it first",
                           device.name(), property.name);
        }
        if (list) continue;
        auto const wanted = to_give(device, property, value);
        if (!wanted.is_null()) given.set(property.name, wanted);
    }
    co_return given;
}

Task<Result<std::string>> pci_address_of(qmp::Client& client, std::string path, Deadline deadline) {
    CO_TRY(auto const value, co_await property_of(client, std::move(path), "addr", deadline));
    if (value.is_string()) co_return value.text_or("");
    auto const devfn = value.integer_or(-1);
    constexpr std::int64_t functions = 8;
    if (devfn < 0) co_return std::string();
    co_return fmt::format("{:02x}.{}", devfn / functions, devfn % functions);
}

}  // namespace sidecar
