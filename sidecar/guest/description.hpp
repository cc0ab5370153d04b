// Description: what the destination must know about a guest in order to receive it. The source
// makes it from QEMU itself, with every check that needs only the source, and sends it with
// `check` and `prepare`. The receiver does not trust it: from_json() checks every member
// against its limits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "netmove/mover.hpp"
#include "qmp/block.hpp"
#include "sidecar/guest/bases.hpp"
#include "sidecar/guest/device_tree.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/guest/guest_files.hpp"
#include "sidecar/guest/guest_state.hpp"
#include "sidecar/guest/io_limits.hpp"
#include "sidecar/guest/roms.hpp"
#include "sidecar/guest/tpm.hpp"
#include "sidecar/registry/entry.hpp"

namespace sidecar {

/// One disk of the guest: its data is copied, or it is on storage that both hosts see.
struct MovedDisk {
    std::string name;    ///< For people: the device's id, else QEMU's name of the drive.
    /// As query-block reports it; with qdev, the way to find the disk at the destination.
    std::string device;
    std::string qdev;
    std::string node;  ///< At the source: of the image, below any filter.
    std::string path;  ///< Of the image at the source, absolute.
    std::string format;
    std::uint64_t virtual_bytes = 0;
    std::uint64_t allocated_bytes = 0;  ///< Of all images that are sent: all but the bases.
    storage::Qcow2Layout layout = {};
    std::optional<storage::FileAccess> access = {};  ///< Of the image. None: of an older release.
    /// The rest of its chain, from the top; empty: the whole chain is sent.
    std::vector<Base> bases = {};
    /// Images that become one image at the destination; 0: no base.
    unsigned layers_above_base = 0;
    bool base_is_relative = false;  ///< Named by a path from the image's own directory.
    std::string base_node = {};  ///< At the source: a node over the first base. Not sent.
    std::vector<std::string> chain =
        {};  ///< At the source, with a base: the names of all its images.
    std::string shared_inode = {};  ///< Of the image, in decimal, if it stays where it is.
    /// What a copy of its data would lose: a sentence; empty: nothing. Not sent.
    std::string left_behind = {};
    std::string top_node = {};  ///< At the source: that the device uses. Not sent.
    core::Json limits = {};  ///< Of the device, as block_set_io_throttle() takes them.
    /// Of the image at the destination, absolute, if the operator named it: a file to be created,
    /// or a device to be overwritten. Empty: `path`, as the destination maps it.
    std::string target = {};
    /// In the destination's check: its own command would make the target. Not sent.
    bool made_here = false;

    [[nodiscard]] core::Json to_json() const;
    static core::Result<MovedDisk> from_json(core::Json const& json);
};

struct Description {
    std::string guest;
    std::string migration_id;
    std::vector<std::string> argv;  ///< Of the guest as it runs at the source: running_line.hpp.
    std::string working_directory;
    std::string machine_type;  ///< Full, versioned.
    std::string qemu_version;  ///< For messages.
    std::uint64_t ram_bytes = 0;
    /// It has the same at the destination. A recovery point is of a running guest.
    GuestState state = GuestState::running;
    std::vector<MovedDisk> disks;  ///< That are copied.
    /// On storage that both hosts see: not copied, and nothing of them is made or removed.
    std::vector<MovedDisk> shared = {};
    /// Of libvirt at the source; empty: the guest is none of its. libvirt/domain_xml.hpp
    std::string domain_xml = {};
    std::string shared_secret = {};  ///< Of the marks: storage/shared_storage.hpp.
    std::vector<std::string> devices;  ///< See guest_drift.hpp.
    /// None: the source's release does not send it, or the guest is only replicated.
    std::optional<DeviceTree> device_tree = {};
    /// Netdevs of cards whose link is down, if only we can tell: card_links.hpp.
    std::vector<std::string> links_down = {};
    std::vector<ThrottleGroup> throttle_groups = {};
    std::vector<OptionRom> option_roms = {};
    std::vector<Firmware> firmware = {};
    std::optional<Tpm> tpm = {};  ///< None: it has no TPM, or the source's release moves none.
    std::vector<GuestFile> files = {};  ///< That it only reads.
    std::vector<netmove::GuestInterface> interfaces;
    /// Who owns the guest, as the source knows it. None: its release does not say so.
    std::optional<registry::Entry> owner = {};
    /// What differs at the destination, in sentences. Not sent.
    std::vector<std::string> warnings = {};

    /// Of all interfaces, as many as a registry's entry has.
    [[nodiscard]] std::vector<std::string> addresses() const;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<Description> from_json(core::Json const& json);
};

/// The drive of this QEMU that is `disk` of another: by the drive's name, else by its device, or by
/// the name of its node. (The names are the same in every QEMU; the QOM path of a device without an
/// id has a number that is not.) Null: there is none.
qmp::BlockDevice const* find_drive(std::vector<qmp::BlockDevice> const& drives,
                                   MovedDisk const& disk);

/// A fresh name for a migration: 16 hex digits.
std::string new_migration_id();

/// The run states that are accepted.
enum class RunStatePolicy {
    movable,  ///< Those of GuestState.
    running_or_off,  ///< Also one that its operator keeps stopped: see is_stopped().
};
/// Whether QEMU's RunState is that of a guest that its operator did not start (-S), stopped, or
/// shut down (-no-shutdown), so that it writes to no disk until it is continued.
bool is_stopped(std::string const& run_state);
/// As is_stopped(), and nothing in the guest's memory would be lost.
bool is_off(std::string const& run_state);

/// Examines a guest; `bases`: MigrateOptions::bases. Fails with refused, in a sentence that says
/// what to do, if it cannot be moved: a run state that is not accepted, a migration or block job
/// under way, a feature missing, a disk of an unsupported kind, an image named as a base that is
/// not one.
core::Task<core::Result<Description>> describe(Guest& guest, std::string migration_id,
                                               std::vector<std::string> bases,
                                               RunStatePolicy standing, core::Deadline deadline);

/// Fails with refused, in a sentence that says what to do, if a copy of the guest's disks would
/// lose something that is in their images: internal snapshots, persistent bitmaps.
core::Result<> check_nothing_left_behind(Description const& description);

}  // namespace sidecar
