// Description: what the destination must know of a guest to receive it. Made at the source from
// QEMU itself, with every check that needs only the source; sent with `check` and `prepare`;
// trusted by nobody: from_json() holds every member against its limits.
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "netmove/mover.hpp"
#include "sidecar/guest/bases.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// One disk that travels.
struct MovedDisk {
    std::string name;    ///< For people: the device's id, else QEMU's name of the drive.
    std::string device;  ///< As query-block tells; with qdev the way to find it at the destination.
    std::string qdev;
    std::string node;  ///< At the source.
    std::string path;  ///< Of the image at the source, absolute.
    std::string format;
    std::uint64_t virtual_bytes = 0;
    std::uint64_t allocated_bytes = 0;  ///< Of what travels: all its images but the bases.
    storage::Qcow2Layout layout = {};
    std::vector<Base> bases = {};  ///< The rest of its chain, from above; empty: all of it travels.
    unsigned layers_above_base = 0;  ///< Images that are made one at the destination; 0: no base.
    bool base_is_relative = false;  ///< Named from the image's own directory.
    std::string base_node = {};  ///< At the source: a node over the first base. Does not travel.
    std::vector<std::string> chain =
        {};  ///< At the source, with a base: the names of all its images.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<MovedDisk> from_json(core::Json const& json);
};

struct Description {
    std::string guest;
    std::string migration_id;
    std::vector<std::string> argv;  ///< QEMU's, at the source.
    std::string working_directory;
    std::string machine_type;  ///< Full, versioned.
    std::string qemu_version;  ///< For messages.
    std::uint64_t ram_bytes = 0;
    std::vector<MovedDisk> disks;
    std::vector<std::string> devices;  ///< See changes.hpp.
    std::vector<netmove::GuestInterface> interfaces;

    [[nodiscard]] core::Json to_json() const;
    static core::Result<Description> from_json(core::Json const& json);
};

/// A fresh name for a migration: 16 hex digits.
std::string new_migration_id();

/// Which guests are looked at.
enum class RunStatePolicy {
    running,
    running_or_off,  ///< Also one that its operator keeps stopped: see is_stopped().
};
/// Whether QEMU's RunState is one of a guest that its operator never started (-S), stopped, or shut
/// down (-no-shutdown), so that it writes to no disk until he continues it.
bool is_stopped(std::string const& run_state);
/// ... and has nothing in its memory that would be lost.
bool is_off(std::string const& run_state);

/// Looks at a guest; `bases`: MigrateOptions::bases. Fails with refused, in a sentence that says
/// what to do, when it cannot be moved: not running, a migration or block job under way, a feature
/// missing, a disk of a kind that is not supported, a base that is none.
core::Task<core::Result<Description>> describe(Guest& guest, std::string migration_id,
                                               std::vector<std::string> bases,
                                               RunStatePolicy standing, core::Deadline deadline);

}  // namespace sidecar
