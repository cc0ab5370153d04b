// Image files of a host: what they are, and making them at the destination. Used by both sides of a
// migration and by replication. The names of a source's stale images: stale_image.hpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/loop.hpp"
#include "storage/file_access.hpp"
#include "storage/owned_file.hpp"

namespace storage {

struct ImageInfo {
    std::string path;
    std::string format;  ///< QEMU's word: raw, qcow2, ...
    std::uint64_t virtual_bytes = 0;
    std::uint64_t allocated_bytes = 0;
    std::optional<std::uint64_t> cluster_bytes;
    std::string backing_file;  ///< Empty: none. As the image names it.
    std::string backing_format;
    bool encrypted = false;
    bool has_internal_snapshots = false;
};

/// Asks `qemu-img info -U`, which takes no lock, so the image may be in use. `format` empty:
/// probed. Fails with io when the file is missing or unreadable, invalid when it is no image of
/// that format.
core::Task<core::Result<ImageInfo>> image_info(core::Loop& loop, std::string path,
                                               std::string format, core::Deadline deadline);

/// How a qcow2 image is laid out; for raw all of it is left as it is here.
struct Qcow2Layout {
    std::uint64_t cluster_bytes = 0;  ///< 0: qemu-img's default; also for what follows.
    std::string compat = {};  ///< "0.10" or "1.1".
    std::uint64_t refcount_bits = 0;
    std::string compression = {};  ///< "zlib" or "zstd".
    bool extended_l2 = false;  ///< Subclusters.
    bool lazy_refcounts = false;
};

struct CreateOptions {
    Qcow2Layout layout = {};
    std::string backing_file = {};  ///< qcow2 only: as the image shall name it; empty: none. It
                                    ///< must be there.
    std::string backing_format = {};
    std::optional<FileAccess> access = {};  ///< Of the new file; none: this process's alone.
};

/// Creates a new, empty, sparse image, raw or qcow2. Fails with io, EEXIST, when the file exists,
/// and does not touch it. When it fails later, it removes the file that it created.
core::Task<core::Result<InodeIdentity>> create_image(core::Loop& loop, std::string path,
                                                     std::string format,
                                                     std::uint64_t virtual_bytes,
                                                     CreateOptions options,
                                                     core::Deadline deadline);

/// fsync of the directory the file is in.
core::Result<> sync_directory_of(std::string const& path);
/// Runs `qemu-img ARGUMENTS` to its end. Fails with io, quoting it.
core::Task<core::Result<>> run_qemu_img(core::Loop& loop, std::vector<std::string> arguments,
                                        core::Deadline deadline);

/// Bytes a file system still takes from us, without the reserve of root.
core::Result<std::uint64_t> free_bytes(std::string const& directory);
/// Bytes on the disk, not the apparent size. Of a block device its size: the kernel does not say
/// how much of it is used.
core::Result<std::uint64_t> allocated_bytes(std::string const& path);
/// Whether another process holds the image, as QEMU itself would find out: the OFD lock bytes QEMU
/// sets. Of files and block devices; others are reported as free.
core::Result<bool> in_use(std::string const& path);

}  // namespace storage
