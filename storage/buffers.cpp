#include "storage/buffers.hpp"

#include <cassert>
#include <cstdlib>
#include <new>

#include "storage/limits.hpp"

namespace storage {

Buffers::Buffers(core::Loop& loop, std::size_t bytes_max, std::size_t count_max)
    : loop_(loop), freed_(loop), bytes_max_(bytes_max), count_max_(count_max) {
    assert(bytes_max_ >= limits::request_bytes_max && count_max_ > 0);
}

Buffers::~Buffers() {
    assert(count_taken_ == 0);
    for (auto const& memory : spare_) {
        loop_.forget_memory(memory.registered);
        std::free(memory.bytes);
    }
}

core::Task<core::Result<Buffer>> Buffers::take(std::size_t size, core::Deadline deadline) {
    assert(size > 0 && size <= limits::request_bytes_max);
    while (bytes_taken_ + size > bytes_max_ || count_taken_ >= count_max_) {
        freed_.reset();
        CO_TRY_VOID(co_await freed_.wait(deadline));
    }
    bytes_taken_ += size;
    bytes_taken_max_ = std::max(bytes_taken_max_, bytes_taken_);
    ++count_taken_;
    auto const memory = memory_for(size);
    co_return Buffer(
        std::shared_ptr<std::byte>(memory.bytes,
                                   [this, memory, size](std::byte*) { give_back(memory, size); }),
        size, memory.registered);
}

Buffers::Memory Buffers::memory_for(std::size_t size) {
    bool const whole = size == limits::request_bytes_max;
    if (whole && !spare_.empty()) {
        auto const memory = spare_.back();
        spare_.pop_back();
        return memory;
    }
    auto* const bytes =
        static_cast<std::byte*>(std::aligned_alloc(limits::buffer_alignment_bytes, room_of(size)));
    if (bytes == nullptr) throw std::bad_alloc();
    return {bytes, whole ? loop_.register_memory({bytes, size}) : -1};
}

std::size_t Buffers::room_of(std::size_t size) {
    constexpr auto block = limits::buffer_alignment_bytes;
    return (size + block - 1) / block * block;
}

std::span<std::byte> Buffer::room() const { return {memory_.get(), Buffers::room_of(size_)}; }

void Buffers::set_bytes_max(std::size_t bytes_max) {
    assert(bytes_max >= limits::request_bytes_max);
    bytes_max_ = bytes_max;
    freed_.set();
}

void Buffers::give_back(Memory memory, std::size_t size) {
    bytes_taken_ -= size;
    --count_taken_;
    if (size == limits::request_bytes_max) {
        spare_.push_back(memory);
    } else {
        std::free(memory.bytes);
    }
    freed_.set();
}

}  // namespace storage
