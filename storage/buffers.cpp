#include "storage/buffers.hpp"

#include <cassert>
#include <cstdlib>
#include <new>

#include "storage/limits.hpp"

namespace storage {

Buffers::Buffers(core::Loop& loop, std::size_t bytes_max, std::size_t count_max)
    : freed_(loop), bytes_max_(bytes_max), count_max_(count_max) {
    assert(bytes_max_ >= limits::request_bytes_max && count_max_ > 0);
}

Buffers::~Buffers() {
    assert(count_taken_ == 0);
    for (std::byte* memory : spare_) std::free(memory);
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
    std::byte* memory = nullptr;
    if (size == limits::request_bytes_max && !spare_.empty()) {
        memory = spare_.back();
        spare_.pop_back();
    } else {
        memory = static_cast<std::byte*>(
            std::aligned_alloc(limits::buffer_alignment_bytes, room_of(size)));
        if (memory == nullptr) throw std::bad_alloc();
    }
    co_return Buffer(
        std::shared_ptr<std::byte>(memory, [this, size](std::byte* old) { give_back(old, size); }),
        size);
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

void Buffers::give_back(std::byte* memory, std::size_t size) {
    bytes_taken_ -= size;
    --count_taken_;
    if (size == limits::request_bytes_max) {
        spare_.push_back(memory);
    } else {
        std::free(memory);
    }
    freed_.set();
}

}  // namespace storage
