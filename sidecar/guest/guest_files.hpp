// GuestFile: a file that a guest only reads: the image of a CD or of a read-only disk, a kernel.
// The destination needs one with the same content at its place. Where there is none, a copy is
// made. Used by the description and by the checks of the destination. Invariant: what is at a
// file's place is never overwritten. Firmware is none of these (roms.hpp), nor are the bases of
// disks (bases.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/host/settings.hpp"
#include "storage/destination_image.hpp"
#include "storage/file_access.hpp"
#include "storage/file_hash.hpp"

namespace sidecar {

struct Description;

struct GuestFile {
    enum class Kind : std::uint8_t {
        image,  ///< The guest reads it while it runs.
        loaded,  ///< QEMU has given it to the guest at its start, and will after a reset.
    };
    Kind kind = Kind::image;
    std::string what;  ///< For people: "the read-only image of cd0".
    std::string path;  ///< At the source, absolute.
    std::uint64_t bytes = 0;
    std::uint64_t allocated_bytes = 0;
    /// In `check`: it is copied where it is missing. In `prepare`: it is copied.
    bool copied = false;
    std::string not_copied = {};  ///< If it may not be copied: why, the end of a sentence.
    std::string sha256 = {};  ///< Of one that both hosts have, once it is compared.
    storage::FileAccess access = {};
    storage::FileIdentity identity = {};  ///< At the source. Not sent.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<GuestFile> from_json(core::Json const& json);
};

/// Those of a guest that this host has; others are left to the destination's checks. Fails if the
/// line cannot be read, or with io.
core::Result<std::vector<GuestFile>> guest_files_of(Description const& description,
                                                    MigrateOptions const& options);

/// At the destination: whether there is nothing at the place of a file but what will be removed.
/// `leftovers`: images of an earlier migration of this guest.
bool is_missing(HostMaps const& maps, GuestFile const& file,
                std::vector<storage::DestinationImage> const& leftovers);

/// At the destination. Fails with refused, naming the file: one is missing and is not copied, or
/// another one is at its place. Contents are compared later.
core::Result<> check_guest_files(HostMaps const& maps, Description const& description,
                                 std::vector<storage::DestinationImage> const& leftovers);

}  // namespace sidecar
