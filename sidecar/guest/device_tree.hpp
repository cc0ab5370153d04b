// DeviceTree: the machine that a QEMU has made: its PCI functions and what is on their buses, the
// other devices of -device and device_add, processors and memory. The source sends it with the
// description. The destination compares it with what its own QEMU has made of the guest's command
// line, before anything is copied: QEMU itself notices a difference when the guest is stopped, or
// not at all.
//
// Only what the command line determines is in it. What the guest or its firmware writes is not:
// numbers of buses, addresses of BARs, interrupts, links of network cards. Nor are names that QEMU
// counts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "qmp/client.hpp"
#include "qmp/qtree.hpp"

namespace sidecar {

/// A part of the machine, and what must be equal in it.
struct MachinePart {
    enum class Kind : std::uint8_t {
        machine,
        ram,
        memory_backend,  ///< An unused one may be missing: QEMU does not send it.
        memory_module,
        processor,
        device,
        off_bus_device,
    };
    Kind kind = Kind::device;
    std::string place;  ///< The same in every QEMU: "pcie.0/01.0/00.0". Unique in its kind.
    std::string name;   ///< For people: "v1 (virtio-blk-pci, 00.0 on rp1)"
    std::map<std::string, std::string> values = {};

    friend bool operator==(MachinePart const&, MachinePart const&) = default;
};

struct DeviceTree {
    std::string qemu_version;
    std::vector<MachinePart> parts;

    [[nodiscard]] core::Json to_json() const;
    /// From a peer: fails with protocol.
    static core::Result<DeviceTree> from_json(core::Json const& json);
};

/// What this QEMU has made. A kind of which it says nothing has no parts.
core::Task<core::Result<DeviceTree>> device_tree_of(qmp::Client& client, core::Deadline deadline);

/// What the destination's QEMU has otherwise than the source's, in a sentence for each. Pure.
std::vector<std::string> tree_differences(DeviceTree const& source, DeviceTree const& here);

/// At the destination. Fails with refused if the guest would have another machine here, naming what
/// differs. `source`: none, of an older release: nothing is compared.
core::Task<core::Result<>> check_device_tree(qmp::Client& client, std::string program,
                                             std::optional<DeviceTree> const& source,
                                             core::Deadline deadline);

namespace detail {
/// The PCI functions, and what is on the buses behind them.
std::vector<MachinePart> parts_of_buses(std::vector<qmp::BusDevice> const& devices);
}  // namespace detail

}  // namespace sidecar
