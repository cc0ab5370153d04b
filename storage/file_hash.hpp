// FileHash: the SHA-256 of a file that must not change, here the base of a disk, and the memory of
// it, so that a base of 100 GB is read once. Used by both sidecars before a `migrate --base`.
//
// Why a remembered hash may be trusted: it belongs to (device, inode, size, mtime, ctime). A
// process that writes to the file, maps it or replaces it changes one of these, and ctime cannot be
// set, not even by root, but by turning the clock. What has the time of the hash itself is not
// remembered: a later write might get the same time. A disk that rots under an unchanged file is
// not noticed;
// `--verify` reads the base itself, through QEMU, each time.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "core/json.hpp"
#include "core/loop.hpp"

namespace storage {

struct FileIdentity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t bytes = 0;
    std::int64_t mtime_ns = 0;  ///< Since 1970.
    std::int64_t ctime_ns = 0;

    friend bool operator==(FileIdentity const&, FileIdentity const&) = default;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<FileIdentity> from_json(core::Json const& json);
};

/// Symlinks are followed. Fails with io when it is not there, invalid when it is no regular file.
core::Result<FileIdentity> identity_of(std::string const& path);

struct FileHash {
    FileIdentity identity;
    std::string sha256;  ///< 64 hexadecimal digits: what sha256sum prints.
};

/// Reads all of it; `done` counts the bytes meanwhile. Fails with refused when the file changed
/// while it was read.
core::Task<core::Result<FileHash>> hash_file(core::Loop& loop, std::string path,
                                             std::uint64_t& done, core::Deadline deadline);

/// The SHA-256 of [offset, offset + length), or of what of it the file has.
core::Task<core::Result<std::string>> hash_part(core::Loop& loop, std::string path,
                                                std::uint64_t offset, std::uint64_t length,
                                                core::Deadline deadline);

/// One small file for each hash, in a directory that all sidecars of a host share. What cannot be
/// read or written there only costs reading the file again.
class HashMemory {
public:
    explicit HashMemory(std::string directory) : directory_(std::move(directory)) {}
    [[nodiscard]] std::optional<std::string> find(FileIdentity const& identity) const;
    /// `begun`: when the reading began, by the clock that files are stamped with. At most
    /// limits::hashes_remembered_max are kept.
    void remember(FileHash const& hash, std::chrono::system_clock::time_point begun) const;

private:
    [[nodiscard]] std::string path_of(FileIdentity const& identity) const;
    void forget_oldest() const;

    std::string directory_;
};

}  // namespace storage
