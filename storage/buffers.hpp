// Buffers: memory for data in flight, bounded for all disks together. A buffer is shared by
// the coroutine that copies and by libnbd, which may write into it long after the
// coroutine walked away.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "core/sync.hpp"

namespace storage {

class Buffers;

/// Counted memory; the last owner gives it back to its Buffers, which must outlive it.
class Buffer {
public:
    Buffer() = default;
    [[nodiscard]] std::span<std::byte> bytes() const { return {memory_.get(), size_}; }
    [[nodiscard]] std::size_t size() const { return size_; }
    /// bytes() and what follows up to limits::buffer_alignment_bytes: for O_DIRECT.
    [[nodiscard]] std::span<std::byte> room() const;
    /// Its number in the loop, for Loop::read_at(); -1: none.
    [[nodiscard]] int registered() const { return registered_; }
    explicit operator bool() const { return memory_ != nullptr; }

private:
    friend class Buffers;
    Buffer(std::shared_ptr<std::byte> memory, std::size_t size, int registered)
        : memory_(std::move(memory)), size_(size), registered_(registered) {}
    std::shared_ptr<std::byte> memory_;
    std::size_t size_ = 0;
    int registered_ = -1;
};

/// Hands out at most `bytes_max` bytes and `count_max` buffers at a time. Destroy it after the last
/// buffer.
class Buffers {
public:
    Buffers(core::Loop& loop, std::size_t bytes_max, std::size_t count_max);
    ~Buffers();
    Buffers(Buffers const&) = delete;
    Buffers& operator=(Buffers const&) = delete;

    /// Waits until `size` (1 .. limits::request_bytes_max) bytes are free. The memory is not
    /// initialised.
    core::Task<core::Result<Buffer>> take(std::size_t size, core::Deadline deadline);
    /// Takes effect for the next buffer. At least limits::request_bytes_max.
    void set_bytes_max(std::size_t bytes_max);
    [[nodiscard]] std::size_t bytes_taken() const { return bytes_taken_; }
    /// The most that was ever taken at once, for reports and tests.
    [[nodiscard]] std::size_t bytes_taken_max() const { return bytes_taken_max_; }

private:
    friend class Buffer;
    struct Memory {
        std::byte* bytes;
        int registered;
    };
    static std::size_t room_of(std::size_t size);
    Memory memory_for(std::size_t size);
    void give_back(Memory memory, std::size_t size);

    core::Loop& loop_;
    core::Event freed_;
    std::size_t bytes_max_;
    std::size_t count_max_;
    std::size_t bytes_taken_ = 0;
    std::size_t bytes_taken_max_ = 0;
    std::size_t count_taken_ = 0;
    /// Whole-size buffers kept for the next one: no page faults again, and they are registered.
    std::vector<Memory> spare_;
};

}  // namespace storage
