// CRC32C with tables of eight bytes (it needs no CPU feature: the guest runs under emulation), and
// the latency histogram.
#include "base.hpp"

#include <bit>
#include <cstring>

namespace witness {
namespace {

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    constexpr std::uint32_t polynomial_reflected = 0x82f63b78U;
    Tables tables{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ ((crc & 1U) * polynomial_reflected);
        tables[0][i] = crc;
    }
    for (std::size_t t = 1; t < tables.size(); ++t)
        for (std::size_t i = 0; i < 256; ++i)
            tables[t][i] = (tables[t - 1][i] >> 8U) ^ tables[0][tables[t - 1][i] & 0xffU];
    return tables;
}

constexpr Tables tables = make_tables();

} // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc) {
    static_assert(std::endian::native == std::endian::little);
    crc = ~crc;
    while (bytes.size() >= 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof word);
        word ^= crc;
        crc = 0;
        for (std::size_t i = 0; i < 8; ++i) crc ^= tables[7 - i][(word >> (8 * i)) & 0xffU];
        bytes = bytes.subspan(8);
    }
    for (const std::byte b : bytes)
        crc = (crc >> 8U) ^ tables[0][(crc ^ static_cast<std::uint32_t>(b)) & 0xffU];
    return ~crc;
}

std::size_t Histogram::bucket_of(std::uint64_t us) {
    if (us < per_octave) return us;
    const auto octave = static_cast<std::size_t>(std::bit_width(us)) - octave_bits - 1;
    const std::size_t bucket = (octave + 1) * per_octave + ((us >> octave) & (per_octave - 1));
    return bucket < buckets ? bucket : buckets - 1;
}

std::uint64_t Histogram::upper_edge(std::size_t bucket) {
    if (bucket < per_octave) return bucket;
    const std::size_t octave = bucket / per_octave - 1;
    return ((per_octave + bucket % per_octave + 1) << octave) - 1;
}

void Histogram::add(std::uint64_t us) {
    counts_[bucket_of(us)].fetch_add(1, std::memory_order_relaxed);
    count_.fetch_add(1, std::memory_order_relaxed);
    std::uint64_t seen = max_us_.load(std::memory_order_relaxed);
    while (seen < us && !max_us_.compare_exchange_weak(seen, us)) {
    }
}

void Histogram::reset() {
    for (auto& count : counts_) count = 0;
    count_ = 0;
    max_us_ = 0;
}

std::uint64_t Histogram::quantile_us(std::uint64_t per_mille) const {
    const std::uint64_t total = count_;
    const std::uint64_t wanted = (total * per_mille + 999) / 1000;
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < buckets && total > 0; ++bucket) {
        seen += counts_[bucket];
        if (seen >= wanted)
            return upper_edge(bucket) < max_us_ ? upper_edge(bucket) : max_us_.load();
    }
    return max_us_;
}

} // namespace witness
