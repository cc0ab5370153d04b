// Verify: what `migrate --verify` is made of on both hosts: a hash for each block of a disk, the
// table in which the source keeps those of what it sent, the plan of what is asked of the
// destination, and a pass that reads and hashes. Used by the copier, the mirror and the hasher.
// Invariant: both hosts compute the same number from the same bytes, and zeroes cost no reading.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "storage/buffers.hpp"
#include "storage/extents.hpp"
#include "storage/reader.hpp"
#include "storage/scan.hpp"

struct XXH3_state_s;

namespace storage {

/// Blocks that `bytes` touch; the last one of a disk may be short.
[[nodiscard]] std::size_t block_count(std::uint64_t bytes);

/// XXH3-64 of each block of limits::bitmap_granularity_bytes; 0 stands for a block of zeroes.
void hash_blocks(std::span<std::byte const> bytes, std::span<std::uint64_t> hashes);

/// XXH3-128 over the hashes of blocks.
class CombinedHash {
public:
    CombinedHash();
    void add(std::span<std::uint64_t const> hashes);
    [[nodiscard]] std::string text() const;  ///< 32 hexadecimal digits.

private:
    struct Free {
        void operator()(XXH3_state_s* state) const;
    };
    std::unique_ptr<XXH3_state_s, Free> state_;
};

/// The hashes of what was last written to the destination, for one disk: a file, mapped, so that it
/// costs page cache and no memory of ours, and outlives the process that writes it. All zeroes at
/// first, as is a new disk. Its space is taken when it is made: a disk that gets full later does
/// not hurt it.
class BlockTable {
public:
    /// Makes the file `path`, which must not be there, of 0.2 % of `disk_bytes`. Fails with refused
    /// when there is no room. Who makes it removes it.
    static core::Result<std::shared_ptr<BlockTable>> create(std::string const& path,
                                                            std::uint64_t disk_bytes);
    /// One that a process before this one made, for a disk of that size. A hash in it may be of
    /// what was about to be sent when that ended: the next process sends again what was not
    /// acknowledged, and so records it again.
    static core::Result<std::shared_ptr<BlockTable>> open(std::string const& path,
                                                          std::uint64_t disk_bytes);
    ~BlockTable();
    BlockTable(BlockTable const&) = delete;
    BlockTable& operator=(BlockTable const&) = delete;

    [[nodiscard]] std::uint64_t disk_bytes() const { return disk_bytes_; }
    /// `bytes` are sent to `offset`. Whole blocks, but for the last one of the disk.
    void record(std::uint64_t offset, std::span<std::byte const> bytes);
    void record_zeroes(std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] std::span<std::uint64_t const> blocks(Extent range) const;
    /// The combined hash of these ranges.
    [[nodiscard]] std::string combined(std::vector<Extent> const& ranges) const;
    /// That of the whole disk; lets others run in between.
    core::Task<core::Result<std::string>> digest(core::Loop& loop) const;

private:
    static core::Result<std::shared_ptr<BlockTable>> map(core::Fd file, std::uint64_t disk_bytes);
    BlockTable(core::Fd file, std::span<std::uint64_t> hashes, std::uint64_t disk_bytes)
        : file_(std::move(file)), hashes_(hashes), disk_bytes_(disk_bytes) {}
    [[nodiscard]] std::span<std::uint64_t> part(std::uint64_t offset, std::uint64_t length) const;

    core::Fd file_;
    std::span<std::uint64_t> hashes_;
    std::uint64_t disk_bytes_;
};

/// Cuts extents into what one request asks for: see limits::hash_request_bytes_max and
/// hash_request_ranges_max.
class HashPlan {
public:
    explicit HashPlan(std::vector<Extent> extents) : extents_(std::move(extents)) {}
    /// The ranges of the next request; none at the end.
    std::vector<Extent> next();

private:
    std::vector<Extent> extents_;
    std::size_t index_ = 0;
};

/// Whether a request may ask for these: whole blocks of the disk, in order, without overlap, and
/// not too much of them. They may come from anywhere.
core::Result<> check_ranges(std::vector<Extent> const& ranges, std::uint64_t disk_bytes);

/// Both halves of a request's blocks, to find the block in it that differs. A single block is
/// returned as the first half, and the second is empty.
struct Halves {
    std::vector<Extent> first;
    std::vector<Extent> second;
};
[[nodiscard]] Halves halves(std::vector<Extent> const& ranges);

/// Takes the hashes of a pass.
class HashSink {
public:
    virtual ~HashSink() = default;
    /// One hash for each block of `piece`. Pieces come in any order, and side by side.
    virtual core::Task<core::Result<>> take(Extent piece, std::vector<std::uint64_t> hashes) = 0;
};

/// Reads and hashes all pieces of `scan`, as many at once as `buffers` has room for. After an error
/// no further piece is begun.
core::Task<core::Result<>> hash_scan(core::Loop& loop, Scan& scan, Reader& reader, Buffers& buffers,
                                     HashSink& sink, core::Deadline deadline);

}  // namespace storage
