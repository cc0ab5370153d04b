// LeftDevices: the block devices on which a guest's stale disks lie, because it moved away from
// this host: left-devices.json in the guest's state directory. A device has no name that could say
// so, and its read-only flag does not outlive a reboot, nor LVM's deactivation of a volume. Written
// by the source when the guest has moved; read before any QEMU starts here, and when the guest
// returns. Invariant: a device is in the record before it counts as left.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

struct LeftDevice {
    std::string path;
    std::string identity;  ///< storage::device_identity()
    std::string boot;  ///< storage::boot_identity() when it became read-only.
    std::string migration_id;  ///< In which it left.

    /// Whether `at` is certainly this device, unused since: it is read-only.
    [[nodiscard]] bool is_at(std::string const& at) const;
    /// The same, and also a device that is writable again: a volume is when LVM has deactivated and
    /// activated it. After a reboot it is known by its UUID, or by its name if it has none.
    [[nodiscard]] bool may_be_at(std::string const& at) const;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<LeftDevice> from_json(core::Json const& json);
    friend bool operator==(LeftDevice const&, LeftDevice const&) = default;
};

/// Adds those of `images` that are block devices to the guest's record, durably. Fails with io.
core::Result<> record_left_devices(Paths const& paths, std::string const& guest,
                                   std::string const& migration_id,
                                   std::vector<std::string> const& images);
/// The devices that the guest left; none if the record cannot be read, which is logged.
std::vector<LeftDevice> left_devices(Paths const& paths, std::string const& guest);
/// Whether the guest certainly left the device at `path`.
bool has_left(Paths const& paths, std::string const& guest, std::string const& path);
/// The guest of this host that may have left the device at `path`.
std::optional<std::string> guest_that_left(Paths const& paths, std::string const& path);
/// Takes the device at `path` out of the records of all guests but `keep`: it is about to be
/// overwritten. Fails with io.
core::Result<> forget_left_device(Paths const& paths, std::string const& path,
                                  std::string const& keep);
/// After a boot: makes the devices that guests left read-only again, if they have a UUID. One that
/// is in use by now is not left any more. The log has the failures.
void keep_left_devices(Paths const& paths);
/// The path of the record, for messages.
std::string left_devices_path(Paths const& paths, std::string const& guest);

}  // namespace sidecar
