// The images of a mirrored disk at the destination. Used by the replica there.
//
//   IMAGE              in the source's format: the point before, complete
//   IMAGE.point-ID-N   an overlay (qcow2) on it: the last point, complete
//   IMAGE.point-ID-N+1 the overlay that a round under way writes
//
// ID names the copy, so that its overlays are told from other files by their names.
//
// Only the newest overlay is ever written as a whole; then the oldest is folded into IMAGE. While
// that goes on IMAGE is neither point, but every block that changes in it is one that the overlay
// holds, with the content it is given: so the disk seen through the overlay, and through all above
// it, is the same before, during and after, and a fold that was interrupted is done once more. The
// caller keeps, durably, which overlays count; no file says that of itself.
#pragma once

#include <string>
#include <vector>

#include "core/loop.hpp"

namespace storage {

struct ChainDisk {
    std::string image;
    std::string format;  ///< Of IMAGE.
    std::string id;      ///< Of the copy: letters, digits, `-`, `_`, `.`.
    std::uint64_t virtual_bytes = 0;
};

/// IMAGE.point-ID-N
std::string point_path(ChainDisk const& disk, unsigned number);

/// Creates the overlay `number`, empty, on overlay `below` (0: on IMAGE), in the place of one that
/// an interrupted round left. Its subclusters are 2 KiB, so that no block of a round copies its
/// neighbours up.
core::Task<core::Result<>> create_point(core::Loop& loop, ChainDisk disk, unsigned number,
                                        unsigned below, core::Deadline deadline);
/// Writes overlay `number`, the oldest, into IMAGE, and makes `above` (0: none) an overlay on
/// IMAGE. The overlay stays: to be removed once it counts no more. No QEMU may have them open.
core::Task<core::Result<>> fold_point(core::Loop& loop, ChainDisk disk, unsigned number,
                                      unsigned above, core::Deadline deadline);
/// The image and its name are on the disk.
core::Task<core::Result<>> sync_image(core::Loop& loop, std::string path, core::Deadline deadline);
/// Removes the overlays of this copy that are not among `kept`, and no other file.
core::Result<> remove_points(ChainDisk const& disk, std::vector<unsigned> const& kept);

/// What `-blockdev` makes the chain of in a QEMU that serves it: IMAGE, then each overlay, oldest
/// first, as JSON texts. The last is writable and is called chain_node(disk).
std::vector<std::string> chain_options(ChainDisk const& disk, std::vector<unsigned> const& overlays,
                                       std::size_t index);
std::string chain_node(std::size_t index);

}  // namespace storage
