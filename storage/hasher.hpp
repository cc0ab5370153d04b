// Hasher: the destination's half of `migrate --verify`: reads disks of the QEMU that the sidecar
// stands beside and hashes them, as the source asks. Raw images are read as files, since QEMU's
// main loop is busy with RAM when it matters; others by QEMU's own NBD export. Invariant: it reads
// only, and no more than limits allow at once, whatever it is asked.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "storage/buffers.hpp"
#include "storage/nbd.hpp"
#include "storage/reader.hpp"

namespace storage {

struct HashedDisk {
    std::string export_name;
    std::optional<ImageFile> image;  ///< None: read by NBD.
};

class Hasher {
public:
    /// `server`: QEMU's NBD server, which offers the disks as long as this is open.
    Hasher(core::Loop& loop, NbdAddress server, std::vector<HashedDisk> disks);
    /// After close(); asserts it.
    ~Hasher();
    Hasher(Hasher const&) = delete;
    Hasher& operator=(Hasher const&) = delete;

    /// Connects to all disks. When it fails, close() must still follow.
    core::Task<core::Result<>> open(core::Deadline deadline);
    /// The combined hash of these ranges (see CombinedHash), which may come from anywhere. Fails
    /// with invalid when they are no ranges of that disk, with refused when too much is asked at
    /// once.
    core::Task<core::Result<std::string>> hash(std::size_t disk, std::vector<Extent> ranges,
                                               core::Deadline deadline);
    /// Ends what is under way, then closes the connections. To be called after the exports were
    /// deleted, or while nothing else depends on them: see Nbd::close.
    core::Task<void> close();

private:
    struct Open {
        Open(core::Loop& loop, HashedDisk disk_) : disk(std::move(disk_)), pool(loop) {}
        HashedDisk disk;
        NbdPool pool;
        std::unique_ptr<Reader> reader;
    };
    core::Task<core::Result<std::string>> read(Open& one, std::vector<Extent> ranges,
                                               core::Deadline deadline);

    core::Loop& loop_;
    NbdAddress server_;
    Buffers buffers_;
    std::vector<std::unique_ptr<Open>> disks_;
    std::size_t running_ = 0;
    bool closing_ = false;
    std::stop_source stop_;
    core::Event idle_;
};

}  // namespace storage
