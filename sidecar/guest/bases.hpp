// Bases: the part of `migrate --base` for both hosts. A base is a backing file of a disk that the
// destination has too: it is compared by its hash and not sent. The source finds it in QEMU's
// chains; the destination checks it under the name that its maps give. Invariant: a disk's bases
// are the whole rest of its chain, and neither file changed since it was hashed.
#pragma once

#include <string>
#include <vector>

#include "storage/file_hash.hpp"
#include "storage/image.hpp"

namespace qmp {
class Client;
}

namespace sidecar {

class Guest;
struct Description;
struct HostMaps;
struct MovedDisk;

struct Base {
    std::string path;  ///< At the source, absolute, as the chain names it.
    std::string format;
    std::uint64_t bytes = 0;  ///< Size of the file.
    std::string sha256;  ///< Hash of the file. Empty until the hosts have compared it.
    storage::FileIdentity identity;  ///< At the source.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<Base> from_json(core::Json const& json);
};

/// Fills in what a description contains about the disks' chains and layouts; `wanted` are the
/// images that the operator named, absolute. Fails with refused if an image is in no chain, if
/// the chain continues below it with an image that was not named, or if QEMU does not read it
/// as a file.
core::Task<core::Result<>> find_bases(Guest& guest, std::vector<std::string> wanted,
                                      Description& description, core::Deadline deadline);

/// Checks that the chain of a disk with a base is unchanged, and that the base was not written to.
/// At the source; fails with refused.
core::Task<core::Result<>> check_same_chain(qmp::Client& client, MovedDisk disk,
                                            std::string working_directory, core::Deadline deadline);

/// Checks that the bases are on this host, without reading them. Fails with refused.
core::Result<> check_bases(HostMaps const& maps, Description const& description);

/// Checks that QEMU here opened the disk over exactly these bases.
core::Task<core::Result<>> check_opened_over(qmp::Client& client, std::string node, HostMaps maps,
                                             MovedDisk disk, core::Deadline deadline);

/// How the new image of a disk names its base: like the source's image, by the path from its own
/// directory or by an absolute path.
[[nodiscard]] std::string backing_name(std::string const& base, std::string const& image,
                                       bool relative);

}  // namespace sidecar
