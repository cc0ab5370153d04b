// DestinationImage: where a disk of an arriving guest is kept on this host: a file that is created
// for it, or a block device that was here before. Used by the destination of a migration, which
// records them. Invariant: a device is never created and never removed.
#pragma once

#include <cstdint>
#include <string>

#include "core/json.hpp"
#include "core/result.hpp"
#include "storage/owned_file.hpp"

namespace storage {

struct DestinationImage {
    enum class Kind : std::uint8_t { file, device };
    Kind kind = Kind::file;
    OwnedFile file;  ///< Of a device only its path.
    bool was_read_only = false;  ///< A device from which a guest had left.

    [[nodiscard]] std::string const& path() const { return file.path; }
    [[nodiscard]] core::Json to_json() const;
    static core::Result<DestinationImage> from_json(core::Json const& json);
};

/// The image at `path`, as far as that exists: a device, or a file that is still to be created.
/// Fails with io.
core::Result<DestinationImage> destination_image(std::string path);

/// Undoes the arrival: removes a file as remove_owned() does. A device is left as it is,
/// incomplete; it becomes read-only again if it was. Returns whether something stays at its path.
core::Result<bool> give_up(DestinationImage const& image, std::string const& id);

}  // namespace storage
