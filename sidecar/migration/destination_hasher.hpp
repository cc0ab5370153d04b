// DestinationHasher: the destination's half of `migrate --verify`: the content of a disk of the
// waiting QEMU, for the source to compare with what it sent. It changes nothing and does not
// involve the machine. Used by DestinationDisks.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "storage/hasher.hpp"
#include "storage/target.hpp"

namespace sidecar {

class DestinationHasher {
public:
    explicit DestinationHasher(DestinationContext context)
        : context_(context), turn_(context.loop, 1) {}

    /// The hash of ranges of a disk. `disks`: the exported disks, on `port` of this host;
    /// `exported`: fails while they may not be read. Fails with its error or with that of reading.
    core::Task<core::Result<protocol::HashAnswer>> hash(
        protocol::Hash request, std::vector<storage::TargetDisk> const& disks, int const& port,
        std::function<core::Result<>()> exported);
    /// Closes the connections to the exports; the next hash() opens them again. Call before
    /// destruction, and after the exports were deleted or cut.
    core::Task<void> close();

private:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    Outcome<> open(std::vector<storage::TargetDisk> const& disks, int port,
                   core::Deadline deadline);

    DestinationContext context_;
    std::shared_ptr<storage::Hasher> hasher_;  ///< Opened by the first request.
    core::Semaphore turn_;  ///< Only one task at a time opens or closes it.
};

}  // namespace sidecar
