// What every part of the witness uses: the clock, pacing, a small generator, CRC32C, latencies.
// Invariant: nothing here keeps global state; all times are nanoseconds of CLOCK_MONOTONIC, which
// does not advance while the guest is stopped.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <span>

namespace witness {

inline constexpr std::uint64_t ns_per_s = 1'000'000'000;
inline constexpr std::uint64_t ns_per_ms = 1'000'000;

/// Nanoseconds since the guest booted.
inline std::uint64_t now_ns() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * ns_per_s + static_cast<std::uint64_t>(t.tv_nsec);
}

/// Sleeps until the clock reads `when_ns`; returns at once if that time has passed.
inline void sleep_until_ns(std::uint64_t when_ns) {
    const timespec t{static_cast<time_t>(when_ns / ns_per_s),
                     static_cast<long>(when_ns % ns_per_s)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) != 0) {
    }
}

/// One step of splitmix64: a well mixed word for each `state`.
inline std::uint64_t mix(std::uint64_t state) {
    std::uint64_t z = state + 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
}

/// Word `index` of the pseudo-random content that belongs to `seed`. Each word can be computed
/// alone.
inline std::uint64_t content_word(std::uint64_t seed, std::size_t index) {
    std::uint64_t x = seed + index * 0x9e3779b97f4a7c15U;
    x ^= x >> 29U;
    x *= 0xbf58476d1ce4e5b9U;
    return x ^ (x >> 32U);
}

/// Keeps a rate by the clock. After a pause it catches up on the work of at most `burst_ns`.
class Pace {
public:
    static constexpr std::uint64_t burst_ns = 50 * ns_per_ms;  // a pause is not followed by a flood
    static constexpr std::uint64_t idle_look_ns =
        20 * ns_per_ms;  // how soon a changed rate is seen

    /// Sleeps until something is due at `per_second`, but never longer than idle_look_ns.
    /// Returns how much is due now: 0 to `batch_max`.
    std::uint64_t wait(std::uint64_t per_second, std::uint64_t batch_max) {
        const std::uint64_t now = now_ns();
        if (per_second == 0) {
            due_ns_ = now + idle_look_ns;
            sleep_until_ns(due_ns_);
            return 0;
        }
        const std::uint64_t step = ns_per_s / per_second;
        if (due_ns_ + burst_ns < now) due_ns_ = now - burst_ns;
        if (due_ns_ > now) {
            const std::uint64_t until = due_ns_ - now > idle_look_ns ? now + idle_look_ns : due_ns_;
            sleep_until_ns(until);
            if (until != due_ns_) return 0;
        }
        std::uint64_t count = 0;
        const std::uint64_t woke = now_ns();
        while (count < batch_max && due_ns_ <= woke) {
            due_ns_ += step;
            ++count;
        }
        return count;
    }

private:
    std::uint64_t due_ns_ = 0;
};

/// CRC32C (Castagnoli, RFC 3720 B.4) of `bytes`, continued from `crc` (0 at the start).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);

/// Latencies in microseconds, in buckets a 64th of a power of two wide, so that each latency is
/// known to within 2 %. Any thread may add.
class Histogram {
public:
    void add(std::uint64_t us);
    void reset();
    std::uint64_t count() const { return count_; }
    std::uint64_t max_us() const { return max_us_; }

    /// The upper edge of the bucket that holds the `per_mille`-th of the samples; 0 without
    /// samples.
    std::uint64_t quantile_us(std::uint64_t per_mille) const;

private:
    static constexpr std::size_t octave_bits = 6;
    static constexpr std::size_t per_octave = 1U << octave_bits;
    static constexpr std::size_t buckets = 40 * per_octave;  // up to 2^45 us
    static std::size_t bucket_of(std::uint64_t us);
    static std::uint64_t upper_edge(std::size_t bucket);

    std::array<std::atomic<std::uint32_t>, buckets> counts_{};
    std::atomic<std::uint64_t> count_ = 0;
    std::atomic<std::uint64_t> max_us_ = 0;
};

}  // namespace witness
