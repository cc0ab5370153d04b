// DestinationDisks: the guest's disks on the host to which it comes: their images, and the exports
// of the waiting QEMU into which the source copies. DestinationMigration calls it, mostly one
// function for one action of the machine or one request of the source.
//
//   name_images, create_images, publish_images   the record is written between them; a disk may go
//                     on a block device, which is there already and is overwritten
//   open_exports      QEMU was started; reopen_exports after the source's connections were cut
//   seal              no more writes from the source
//   stop_server, remove_stale_images   the guest runs here
//   forget_exports, remove_images      the guest stays at the source
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "sidecar/migration/destination_hasher.hpp"
#include "sidecar/migration/incoming_record.hpp"
#include "storage/destination_image.hpp"
#include "storage/target.hpp"

namespace sidecar {

class DestinationDisks {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit DestinationDisks(DestinationContext context) : context_(context), hasher_(context) {}

    /// The images that create_images() will create, and the devices that it will take. `left_in`:
    /// the migration in which this guest left this host before; may be empty. Fails with io.
    core::Result<> name_images(std::string left_in);
    /// Creates them under other names, in the order of storage/owned_file.hpp: a file that exists
    /// already is not touched. A device becomes writable, and reads as zeroes as far as it can at
    /// once. Fails with the error of one of these.
    Outcome<> create_images();
    /// Gives them their names. Their identity must be recorded before. Fails with io.
    [[nodiscard]] core::Result<> publish_images() const;
    /// Exports the disks of the waiting QEMU, on nbd_port(). Fails with refused if QEMU does not
    /// have them, or with its error.
    Outcome<> open_exports();
    /// The same after the source's connections were cut; also in the QEMU of an earlier sidecar.
    Outcome<> reopen_exports();
    /// After a restart of the sidecar: closes the exports that the QEMU has.
    Outcome<> close_found_exports();
    /// Flushes the disks and deletes the exports, within `limit`. Idempotent.
    Outcome<> seal(core::Clock::duration limit);
    /// The hash of ranges of a disk. `may_read`: fails while the disks are not to be read. Fails
    /// with its error, with refused without exports, or with that of reading.
    Outcome<protocol::HashAnswer> hash(protocol::Hash request,
                                       std::function<core::Result<>()> may_read);
    /// After seal(): no process connects to this QEMU's disks any more.
    Outcome<> stop_server(core::Deadline deadline);
    /// Removes the old images of a guest that is back on a host which it had left: only those of
    /// the migration in which it left. Others may belong to another guest. The log has the
    /// failures.
    void remove_stale_images() const;
    /// QEMU has ended, and its exports with it. open_exports() may follow.
    core::Task<void> forget_exports();
    /// The guest runs here: its devices are not stale any more, and are held by its QEMU alone.
    void leave_devices_to_guest();
    /// Removes the images that this migration created, and no other file. A device stays as it is.
    /// Fails with io.
    [[nodiscard]] core::Result<> remove_images();
    /// Closes the connections of hash(). Call before destruction.
    core::Task<void> end() { return hasher_.close(); }

    /// For the record of this migration.
    void add_to(IncomingRecord& record) const;
    /// As an earlier sidecar recorded them.
    void restore(IncomingRecord const& record);
    [[nodiscard]] int nbd_port() const { return nbd_port_; }
    /// As name_images() got it.
    [[nodiscard]] std::string const& left_in() const { return left_in_; }
    [[nodiscard]] std::vector<std::string> export_names() const;
    /// One for each disk: up to here it reads as zeroes where nothing was copied to it. Empty: not
    /// known.
    [[nodiscard]] std::vector<std::uint64_t> const& zero_bytes() const { return zero_bytes_; }

private:
    Outcome<> find_target();
    Outcome<> create_file(MovedDisk const& disk, storage::DestinationImage& image);
    Outcome<std::uint64_t> take_device(MovedDisk const& disk,
                                       storage::DestinationImage const& image,
                                       core::Deadline zeroing);

    DestinationContext context_;
    std::vector<storage::DestinationImage> images_;  ///< Recorded before they are created.
    std::vector<core::Fd> claims_;  ///< Of devices, until the guest runs here or has been given up.
    std::vector<std::uint64_t> zero_bytes_;
    std::string left_in_;
    std::unique_ptr<storage::Target> target_;
    std::vector<storage::TargetDisk> exported_;
    int nbd_port_ = 0;
    DestinationHasher hasher_;
};

}  // namespace sidecar
