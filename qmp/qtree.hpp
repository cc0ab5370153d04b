// The devices of a QEMU on their buses, all in one answer: HMP's info qtree. QMP's query-pci leaves
// out what is behind a bridge whose bus has no number yet, as no bus has in a QEMU that waits for a
// migration.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

/// A device that is on a bus.
struct BusDevice {
    std::string kind;  ///< "virtio-blk-pci"
    std::string id;  ///< Empty: none.
    int parent = -1;  ///< Whose bus it is on: its place in the list. -1: QEMU's root bus.
    std::string bus;  ///< "pci.0", "scsi0.0"
    std::string bus_kind;  ///< "PCI", "SCSI"
    unsigned bus_number = 0;  ///< Among its parent's buses of that kind, as QEMU lists them.
    /// Without quotes and units: "04.0", "true", "512".
    std::map<std::string, std::string> properties = {};
    std::string pci_ids = {};  ///< "1af4:1001"; empty: it is no PCI function.
    std::string pci_subsystem = {};  ///< The same. A bridge has other things there.
    std::string pci_class = {};  ///< "SCSI controller"
    std::string usb_port = {};  ///< "1.2"
};

/// Parents come before the devices on their buses.
Task<Result<std::vector<BusDevice>>> info_qtree(Client& client, Deadline deadline);
namespace detail {
std::vector<BusDevice> parse_info_qtree(std::string const& text);
}  // namespace detail

}  // namespace qmp
