// Reader: where a copier gets a disk's bytes from. NbdReader asks the NBD export of the source's
// QEMU; ImageReader reads the image itself through io_uring, which costs QEMU's one thread nothing
// and spares two copies of every byte. The mirror chooses one for each disk in prepare(); bitmaps,
// allocation and FLUSH are QEMU's business with either.
//
// Why the image may be read without QEMU, as long as bitmaps are read first and data after:
// - QEMU sets a block's dirty bit after the driver's write returned and before the guest hears of
//   it (bdrv_co_write_req_finish). So of every write whose bit we saw, the bytes are in the file.
// - What a read sees of a write that is under way (old, new or torn) does not matter: the write's
//   bit is set later, in a bitmap that is still to be copied. The last bitmap is read after the
//   guest has stopped and QEMU has drained its requests: then no write is under way.
// - Discards and writes of zeroes set bits as well, and so a hole that was data is read again.
// - "In the file" means: for a reader that reads the way QEMU writes. Buffered writes are in the
// page
//   cache, and a buffered read sees them there. With cache.direct=on QEMU bypasses the page cache,
//   and pages that are left in it may be older than the disk: then we read with O_DIRECT too.
//   (The other way round, O_DIRECT under a buffered QEMU, would be right but wait for writeback.)
// - The file must be the one that QEMU has open, not one that has since got its name: its inode (or
//   device number) must be among the descriptors of QEMU's process.
// - Nothing may lie between the node and the file that changes bytes or offsets: see ImageFile.
#pragma once

#include <memory>
#include <string>

#include "core/fd.hpp"
#include "qmp/block.hpp"
#include "storage/nbd.hpp"

namespace storage {

class Reader {
public:
    virtual ~Reader() = default;
    /// Fills the first `length` bytes of `buffer`.
    virtual core::Task<core::Result<>> read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                            core::Deadline deadline) = 0;
};

class NbdReader : public Reader {
public:
    explicit NbdReader(NbdPool& pool) : pool_(pool) {}
    core::Task<core::Result<>> read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                    core::Deadline deadline) override {
        return pool_.least_loaded().pread(std::move(buffer), length, offset, std::move(deadline));
    }

private:
    NbdPool& pool_;
};

/// The base of a disk, by its own export: what lies beyond its end reads as zeroes, as the disk
/// over it does.
class BaseReader : public Reader {
public:
    explicit BaseReader(NbdPool& pool) : pool_(pool) {}
    core::Task<core::Result<>> read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                    core::Deadline deadline) override;

private:
    NbdPool& pool_;
};

/// The image of a node, opened for reading the way QEMU has it open.
struct ImageFile {
    core::Fd file;
    std::string path;
    bool direct = false;  ///< O_DIRECT

    /// Only of a raw format node on a file or block device, or of the file node itself, from byte 0
    /// to its end, when QEMU (`qemu`, a pid) has the very same file open. Otherwise the error says
    /// what is in the way; NBD always works.
    static core::Result<ImageFile> open(qmp::BlockNode const& node, pid_t qemu);
};

/// A read under way is waited for, also past the deadline: the kernel writes into the buffer. A
/// disk that never answers holds the guest up as it holds us.
class ImageReader : public Reader {
public:
    /// `otherwise`: asked for what O_DIRECT cannot read, which is what starts within a block.
    ImageReader(core::Loop& loop, ImageFile image, NbdPool& otherwise)
        : loop_(loop), image_(std::move(image)), otherwise_(otherwise) {}
    /// Fails with io also when the image has become shorter than the disk.
    core::Task<core::Result<>> read(Buffer buffer, std::size_t length, std::uint64_t offset,
                                    core::Deadline deadline) override;

private:
    core::Task<core::Result<>> read_file(Buffer buffer, std::size_t length, std::uint64_t offset,
                                         core::Deadline deadline);

    core::Loop& loop_;
    ImageFile image_;
    NbdPool& otherwise_;
};

}  // namespace storage
