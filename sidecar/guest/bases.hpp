// Bases: what `migrate --base` is about on both hosts. A base is a backing file of a disk that the
// destination has too: it is compared by its hash and does not travel. Found at the source in
// QEMU's chains, checked at the destination under the name that its maps give. Invariant: a disk's
// bases are the whole rest of its chain, and neither file changed since it was hashed.
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
    std::uint64_t bytes = 0;  ///< Of the file.
    std::string sha256;  ///< Of the file. Empty until the hosts have compared it.
    storage::FileIdentity identity;  ///< At the source.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<Base> from_json(core::Json const& json);
};

/// Fills in what a description says of the disks' chains and layouts; `wanted` are the images that
/// the operator named, absolute. Fails with refused when one is in no chain, when a chain goes on
/// below it with an image that was not named, or when QEMU reads it otherwise than as a file.
core::Task<core::Result<>> find_bases(Guest& guest, std::vector<std::string> wanted,
                                      Description& description, core::Deadline deadline);

/// That the chain of a disk with a base is what it was, and that nobody wrote to the base. At the
/// source; fails with refused.
core::Task<core::Result<>> check_same_chain(qmp::Client& client, MovedDisk disk,
                                            std::string working_directory, core::Deadline deadline);

/// That the bases are on this host, as far as a look tells. Fails with refused.
core::Result<> check_bases(HostMaps const& maps, Description const& description);

/// That QEMU here opened the disk over these very bases, and over nothing else.
core::Task<core::Result<>> check_opened_over(qmp::Client& client, std::string node, HostMaps maps,
                                             MovedDisk disk, core::Deadline deadline);

/// How the new image of a disk names its base: as the source's does, by the path from its own
/// directory or by an absolute one.
[[nodiscard]] std::string backing_name(std::string const& base, std::string const& image,
                                       bool relative);

}  // namespace sidecar
