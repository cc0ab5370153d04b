// One page: its number, its generation, then words that follow from the two; the checksum is the
// sum of them all, so that the first check is one pass over the page.
#include "ram.hpp"

#include "base.hpp"
#include "errors.hpp"

#include <sys/mman.h>
#include <cstdlib>
#include <cstring>
#include <string>

namespace witness {
namespace {

constexpr std::size_t page_bytes = 4096;
constexpr std::size_t page_words = page_bytes / sizeof(std::uint64_t);
constexpr std::size_t header_words = 3; // number, generation, checksum
constexpr std::uint64_t batch_max = 256;

std::uint64_t seed_of(std::size_t index, std::uint64_t generation) {
    return mix(index * 0x100000001U + generation);
}

} // namespace

Ram::Ram(std::uint64_t mib, std::uint64_t rate)
    : pages_per_s(rate), bytes_(mib << 20U), generations_(bytes_ / page_bytes) {
    if (bytes_ == 0) return;
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        errors().add(Kind::setup, "no memory for a RAM stripe of " + std::to_string(mib) + " MiB");
        generations_.clear();
        return;
    }
    stripe_ = static_cast<std::byte*>(at);
    for (std::size_t index = 0; index < generations_.size(); ++index) write(index);
}

Ram::~Ram() {
    if (stripe_ != nullptr) munmap(stripe_, bytes_);
}

std::byte* Ram::page(std::size_t index) const { return stripe_ + index * page_bytes; }

void Ram::write(std::size_t index) {
    auto* words = reinterpret_cast<std::uint64_t*>(page(index));
    const std::uint64_t generation = ++generations_[index];
    const std::uint64_t seed = seed_of(index, generation);
    std::uint64_t sum = index + generation;
    for (std::size_t i = header_words; i < page_words; ++i) {
        words[i] = content_word(seed, i);
        sum += words[i];
    }
    words[0] = index;
    words[1] = generation;
    words[2] = sum;
}

bool Ram::check(std::size_t index) {
    const auto* words = reinterpret_cast<const std::uint64_t*>(page(index));
    const std::uint64_t expected = generations_[index];
    const std::uint64_t seed = seed_of(words[0], words[1]);
    std::uint64_t sum = words[0] + words[1];
    bool whole = words[0] == index;
    for (std::size_t i = header_words; i < page_words; ++i) {
        sum += words[i];
        whole = whole && words[i] == content_word(seed, i);
    }
    whole = whole && words[2] == sum;
    ++pages_checked;
    if (whole && words[1] == expected) return true;
    std::string what = "RAM page " + std::to_string(index) + ": generation " +
                       std::to_string(words[1]) + " is there, " + std::to_string(expected) +
                       " was written";
    if (!whole) what += ", and its content is damaged";
    errors().add(whole ? Kind::ram_stale : Kind::ram_changed, std::move(what));
    return false;
}

void Ram::run() {
    Pace pace;
    std::size_t next = 0;
    while (true) {
        // One page is due each step; the pages of 10 ms are written together, which saves wake-ups.
        sleep_until_ns(now_ns() + 10 * ns_per_ms);
        const std::uint64_t due =
            pace.wait(generations_.empty() ? 0 : pages_per_s.load(), batch_max);
        for (std::uint64_t i = 0; i < due; ++i) {
            const std::scoped_lock lock(mutex_);
            (void)check(next);  // counted there; the page is rewritten whatever it held
            write(next);
            next = (next + 1) % generations_.size();
        }
    }
}

std::uint64_t Ram::verify() {
    std::uint64_t wrong = 0;
    for (std::size_t index = 0; index < generations_.size(); ++index) {
        const std::scoped_lock lock(mutex_);
        if (check(index)) continue;
        ++wrong;
        write(index);
    }
    return wrong;
}

}  // namespace witness
