// The RAM stripe: pages that the guest keeps rewriting, each checked before it is rewritten.
// Invariant: what a page must hold is remembered outside the stripe, so that an old page (which was
// not transferred) is detected as well as a damaged one.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace witness {

class Ram {
public:
    /// Takes `mib` MiB of memory, touched and filled at once.
    Ram(std::uint64_t mib, std::uint64_t pages_per_s);
    ~Ram();
    Ram(const Ram&) = delete;
    Ram& operator=(const Ram&) = delete;

    /// Rewrites and checks at its rate, and never returns.
    [[noreturn]] void run();

    /// Checks every page now. Returns how many were wrong.
    std::uint64_t verify();

    std::atomic<std::uint64_t> pages_per_s;
    std::atomic<std::uint64_t> pages_checked = 0;
    std::uint64_t pages() const { return generations_.size(); }

private:
    std::byte* page(std::size_t index) const;
    void write(std::size_t index);
    bool check(std::size_t index);

    std::byte* stripe_ = nullptr;
    std::size_t bytes_ = 0;
    std::vector<std::uint64_t> generations_;
    std::mutex mutex_;
};

}  // namespace witness
