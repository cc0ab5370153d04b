#include "storage/extents.hpp"

#include <algorithm>
#include <cstring>

namespace storage {

void append(std::vector<Extent>& extents, Extent extent) {
    if (extent.length == 0) return;
    if (!extents.empty() && extents.back().end() == extent.offset &&
        extents.back().zero == extent.zero && extents.back().in_backing == extent.in_backing) {
        extents.back().length += extent.length;
    } else {
        extents.push_back(extent);
    }
}

std::uint64_t total_bytes(std::vector<Extent> const& extents) {
    std::uint64_t sum = 0;
    for (auto const& extent : extents) sum += extent.length;
    return sum;
}

void coarsen(std::vector<Extent>& extents, std::size_t count_max) {
    if (extents.size() <= count_max || count_max == 0) return;
    // The gap that has to be bridged so that enough of them disappear.
    std::vector<std::uint64_t> gaps;
    for (std::size_t i = 1; i < extents.size(); ++i) {
        gaps.push_back(extents[i].offset - extents[i - 1].end());
    }
    std::size_t const joins = extents.size() - count_max;
    auto const limit = gaps.begin() + static_cast<std::ptrdiff_t>(joins - 1);
    std::nth_element(gaps.begin(), limit, gaps.end());
    std::uint64_t const bridged = *limit;
    std::vector<Extent> joined;
    for (auto const& extent : extents) {
        if (!joined.empty() && extent.offset - joined.back().end() <= bridged) {
            joined.back().length = extent.end() - joined.back().offset;
            joined.back().zero = false;
        } else {
            joined.push_back(extent);
        }
    }
    extents = std::move(joined);
}

std::vector<Extent> in_whole_blocks(std::vector<Extent> const& extents, std::uint64_t block) {
    std::vector<Extent> whole;
    if (extents.empty()) return whole;
    std::uint64_t const end = extents.back().end();
    std::uint64_t at = extents.front().offset;
    for (auto const& extent : extents) {
        if (!extent.zero) continue;
        std::uint64_t const first =
            extent.offset == at ? at : (extent.offset + block - 1) / block * block;
        std::uint64_t const last = extent.end() == end ? end : extent.end() / block * block;
        if (first >= last) continue;
        append(whole, {at, first - at, false});
        append(whole, {first, last - first, true});
        at = last;
    }
    append(whole, {at, end - at, false});
    return whole;
}

std::vector<Extent> united(std::vector<Extent> const& one, std::vector<Extent> const& other) {
    std::vector<Extent> all;
    auto const add = [&](Extent const& extent) {
        if (all.empty() || all.back().end() < extent.offset) {
            all.push_back({extent.offset, extent.length, false});
        } else {
            all.back().length = std::max(all.back().end(), extent.end()) - all.back().offset;
        }
    };
    std::size_t left = 0;
    std::size_t right = 0;
    while (left < one.size() || right < other.size()) {
        bool const from_one =
            right == other.size() || (left < one.size() && one[left].offset <= other[right].offset);
        add(from_one ? one[left++] : other[right++]);
    }
    return all;
}

Divided divide(std::vector<Extent> const& extents, std::vector<Extent> const& by) {
    Divided result;
    auto cover = by.begin();
    for (auto const& extent : extents) {
        for (std::uint64_t at = extent.offset; at < extent.end();) {
            cover = std::find_if(cover, by.end(), [&](auto const& one) { return one.end() > at; });
            bool const covered = cover != by.end() && cover->offset <= at;
            std::uint64_t end = extent.end();
            if (cover != by.end()) end = std::min(end, covered ? cover->end() : cover->offset);
            append(covered ? result.inside : result.outside, {at, end - at, extent.zero});
            at = end;
        }
    }
    return result;
}

bool is_zero(std::span<std::byte const> bytes) {
    // The first word by hand, then the whole against itself shifted: memcmp is vectorised.
    constexpr std::size_t head = 16;
    for (std::size_t i = 0; i < std::min(head, bytes.size()); ++i) {
        if (bytes[i] != std::byte{0}) return false;
    }
    return bytes.size() <= head ||
           std::memcmp(bytes.data(), bytes.data() + head, bytes.size() - head) == 0;
}

std::vector<Extent> split_zeroes(std::span<std::byte const> bytes, std::size_t run_min) {
    std::vector<Extent> parts;
    for (std::size_t at = 0; at < bytes.size(); at += run_min) {
        std::size_t const length = std::min(run_min, bytes.size() - at);
        // A short rest counts as zero only with a zero run before it, or alone.
        bool zero = is_zero(bytes.subspan(at, length));
        if (length < run_min && !parts.empty() && !parts.back().zero) zero = false;
        append(parts, {at, length, zero});
    }
    return parts;
}

}  // namespace storage
