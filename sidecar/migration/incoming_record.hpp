// IncomingRecord: the file incoming.json in the guest's state directory. It says what an incoming
// migration has created on this host. Written by the destination's driver, read by a later sidecar
// that finds the migration unfinished. Invariant: a file is in the durable record before it is
// created.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/process.hpp"
#include "core/result.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/paths.hpp"
#include "storage/destination_image.hpp"

namespace sidecar {

/// A disk for which `serve --disk-command` makes a place.
struct MadeDisk {
    std::string name;
    std::uint64_t bytes = 0;
};

struct IncomingRecord {
    std::string migration_id;
    Description description;
    /// Empty once the guest is owned here: they must stay.
    std::vector<storage::DestinationImage> images;
    /// This migration makes the state of its TPM. False once the guest is owned here.
    bool tpm = false;
    std::vector<MadeDisk> made_disks = {};  ///< Empty as well once the guest is owned here.
    bool owned = false;  ///< The guest belongs to this host.
    int nbd_port = 0;
    int ram_port = 0;
    int tunnel_port = 0;  ///< UDP, of an anchor's tunnels; 0: none leads here.
    unsigned generation = 0;  ///< How often QEMU was started again.
    /// The migration in which this guest left this host before; may be empty.
    std::string left_in;
    std::string qmp_socket;
    std::optional<core::ProcessIdentity> qemu;  ///< None: not started, as far as is recorded.

    /// Writes it durably. Fails with io.
    [[nodiscard]] core::Result<> write(Paths const& paths, std::string const& guest) const;
    static core::Result<IncomingRecord> from_json(core::Json const& json);
    static core::Result<std::vector<storage::DestinationImage>> images_from_json(
        core::Json const& list);

    static std::vector<MadeDisk> made_disks_from_json(core::Json const& list);

    static bool exists(Paths const& paths, std::string const& guest);
    /// The whole record; null: there is none. Fails with io, or if it is not JSON.
    static core::Result<core::Json> read(Paths const& paths, std::string const& guest);
    /// Also ok if there is none. Fails with io.
    static core::Result<> remove(Paths const& paths, std::string const& guest);
};

}  // namespace sidecar
