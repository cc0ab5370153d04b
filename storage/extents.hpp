// Extents: ranges of a disk, and the arithmetic on them. Pure code; used by the NBD client and the
// copier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace storage {

/// `length` bytes from `offset`. Lists of extents are in order, do not overlap and hold no empty
/// one.
struct Extent {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool zero = false;  ///< Reads as zeroes: nothing needs to travel.
    bool in_backing = false;  ///< The destination has it from another source: not sent either.

    [[nodiscard]] std::uint64_t end() const { return offset + length; }
    friend bool operator==(Extent const&, Extent const&) = default;
};

/// Appends, or lengthens the last one when it touches and is of the same kind.
void append(std::vector<Extent>& extents, Extent extent);

[[nodiscard]] std::uint64_t total_bytes(std::vector<Extent> const& extents);

/// Joins extents over the smallest gaps until at most `count_max` are left: more bytes, bounded
/// memory. A joined extent is data.
void coarsen(std::vector<Extent>& extents, std::size_t count_max);

/// The same with boundaries at multiples of `block` only, but for both ends of the whole. `extents`
/// has no gaps; a block that is zero in part is data.
[[nodiscard]] std::vector<Extent> in_whole_blocks(std::vector<Extent> const& extents,
                                                  std::uint64_t block);

/// Every byte that is in either list, as data.
[[nodiscard]] std::vector<Extent> united(std::vector<Extent> const& one,
                                         std::vector<Extent> const& other);

/// Cuts `extents` into what `by` covers and the rest; the pieces keep their kind.
struct Divided {
    std::vector<Extent> inside;
    std::vector<Extent> outside;
};
[[nodiscard]] Divided divide(std::vector<Extent> const& extents, std::vector<Extent> const& by);

/// True when every byte is zero. Stops at the first that is not.
[[nodiscard]] bool is_zero(std::span<std::byte const> bytes);

/// Splits data into runs that are zero (at least `run_min` bytes, cut at multiples of run_min) and
/// runs that are not. Offsets are relative to the start of `bytes`.
[[nodiscard]] std::vector<Extent> split_zeroes(std::span<std::byte const> bytes,
                                               std::size_t run_min);

}  // namespace storage
