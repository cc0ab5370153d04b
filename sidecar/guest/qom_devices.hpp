// The devices that -device and device_add have made, as QEMU's object model (QOM) has them now, and
// which of their properties differ from those of a new one. Used to write down the guest as it runs
// (running_line.hpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "qmp/devices.hpp"

namespace sidecar {

struct QomDevice {
    std::string path;  ///< "/machine/peripheral/disk1"
    std::string id;  ///< Empty: none.
    /// Of one without an id: its place in the order in which QEMU has made those. Else -1.
    int number = -1;
    std::string kind;  ///< "virtio-blk-pci"
    bool hotplugged = false;  ///< By device_add, after QEMU's start.
    std::string bus_path = {};  ///< Of one that was hot-plugged; empty: it is on no bus.

    [[nodiscard]] std::string name() const { return id.empty() ? path : id; }
    [[nodiscard]] std::string bus() const { return bus_path.substr(bus_path.rfind('/') + 1); }
};

/// All of them; a controller comes before the devices on its buses.
core::Task<core::Result<std::vector<QomDevice>>> qom_devices(qmp::Client& client,
                                                             core::Deadline deadline);

/// How a device is plugged in: what says where it is.
enum class Slot { none, pci, scsi, usb, serial_port };
/// Of a kind that can be plugged in while a guest runs, and that the destination starts with. None:
/// it is not such a kind.
std::optional<Slot> slot_of(std::string const& kind);
/// Whether devices of that kind have a `drive`.
bool is_disk_kind(std::string const& kind);

/// The value of a property; null if the object has none.
core::Task<core::Result<core::Json>> property_of(qmp::Client& client, std::string path,
                                                 std::string name, core::Deadline deadline);

/// {"mac": ..., "bootindex": 1, ...}: every property that makes a new device of that kind like this
/// one, besides its place and its drive. Fails with refused for one that cannot be given so.
core::Task<core::Result<core::Json>> given_properties(qmp::Client& client, QomDevice device,
                                                      core::Deadline deadline);

/// "04.0" of a PCI device; empty: it is none.
core::Task<core::Result<std::string>> pci_address_of(qmp::Client& client, std::string path,
                                                     core::Deadline deadline);

}  // namespace sidecar
