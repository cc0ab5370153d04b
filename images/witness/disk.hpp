// One virtual disk under test: writers that keep rewriting random blocks of a span, and checks that
// the disk holds exactly what was written last. Used by main (workers), control (verify, freeze
// ...). Invariant: only one thread at a time touches a block: worker k of n owns the blocks whose
// number is k modulo n, and everything else happens while the workers are frozen.
#pragma once

#include "base.hpp"
#include "settings.hpp"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace witness {

inline constexpr std::size_t block_bytes = 4096;

/// Memory for O_DIRECT: aligned, of a fixed size, freed with the object.
class DirectBuffer {
public:
    explicit DirectBuffer(std::size_t bytes);
    ~DirectBuffer();
    DirectBuffer(const DirectBuffer&) = delete;
    DirectBuffer& operator=(const DirectBuffer&) = delete;
    std::span<std::byte> bytes() const { return {data_, size_}; }
    std::span<std::byte> block(std::size_t index) const {
        return {data_ + index * block_bytes, block_bytes};
    }

private:
    std::byte* data_;
    std::size_t size_;
};

class Disk {
public:
    explicit Disk(DiskSettings settings);
    ~Disk();
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;

    /// Opens /dev/NAME, waiting a bounded time for it to appear. False (and a setup error) if it
    /// does not.
    bool open();

    /// Worker `index` of depth(): writes and checks at the rate, and never returns.
    [[noreturn]] void run(std::size_t index);

    struct Verified {
        std::uint64_t blocks = 0;  // looked at
        std::uint64_t written = 0;  // of these, blocks of ours
        std::uint64_t wrong = 0;
    };
    /// Reads the whole span and checks it, while the writers are frozen.
    Verified verify();

    /// Returns when no request is in flight; writers wait until thaw() was called as often.
    void freeze();
    void thaw();

    /// Overwrites bytes [offset, offset + length) with content that follows from `seed`; 0: zeroes.
    /// Both in whole blocks. Returns an empty string, or what failed.
    std::string fill(std::uint64_t offset, std::uint64_t length, std::uint64_t seed);

    /// Tells the disk that bytes [offset, offset + length) are not needed. Otherwise as fill().
    std::string discard(std::uint64_t offset, std::uint64_t length);

    const std::string& name() const { return settings_.name; }
    std::size_t depth() const { return settings_.depth; }
    std::uint64_t bytes() const { return disk_bytes_; }
    std::uint64_t span_blocks() const { return blocks_.size(); }

    std::atomic<std::uint64_t> rate;
    std::atomic<std::uint64_t> read_rate;
    std::atomic<std::uint64_t> writes = 0;
    std::atomic<std::uint64_t> flushes = 0;
    std::atomic<std::uint64_t> reads_checked = 0;
    Histogram write_latency;
    Histogram flush_latency;

private:
    /// What the guest remembers of a block. sequence 0: another program wrote it; only its checksum
    /// is known.
    struct Version {
        std::uint32_t sequence = 0;
        std::uint32_t crc = 0;
        bool operator==(const Version&) const = default;
    };
    struct Block {
        Version now;
        Version before;
        bool known = false;  // false: whatever is read next is learnt
        bool before_known = false;
    };

    Version version_of(std::span<const std::byte> block, std::uint64_t number,
                       bool& misplaced) const;
    bool check(std::span<const std::byte> block, std::uint64_t number);
    void accuse(std::span<const std::byte> block, std::uint64_t number, Version found,
                bool misplaced);
    bool looks_torn(std::span<const std::byte> block, std::uint64_t number) const;
    void write_one(std::size_t worker, std::uint64_t random, std::span<std::byte> buffer);
    void read_one(std::size_t worker, std::uint64_t random, std::span<std::byte> buffer);
    void flush();
    void compose(std::span<std::byte> block, std::uint64_t number, std::uint32_t sequence) const;
    std::uint64_t pick(std::size_t worker, std::uint64_t random, bool hot) const;
    void forget(std::uint64_t offset, std::uint64_t length);
    std::string refuse_range(std::uint64_t offset, std::uint64_t length) const;
    void enter();
    void leave();
    void io_error(const char* doing, std::uint64_t number, long result) const;

    DiskSettings settings_;
    int fd_ = -1;
    std::uint64_t disk_bytes_ = 0;
    std::uint64_t identity_ = 0;  // from the serial number, so that swapped disks are seen
    std::vector<Block> blocks_;
    std::atomic<std::uint32_t> sequence_ = 0;

    std::mutex gate_;
    std::condition_variable gate_changed_;
    std::size_t frozen_ = 0;
    std::size_t busy_ = 0;
};

}  // namespace witness
