// Thin volumes of device-mapper, as LVM makes them. They cannot punch holes (fallocate), but what
// is discarded of one takes no space and reads as zeroes: the kernel tells how much of the volume
// is mapped. Used by block_device.cpp. Invariant: a volume counts as empty only if the kernel says
// that nothing of it is mapped, and that nothing lies below it.
#pragma once

#include <string>

#include "core/loop.hpp"

namespace storage {

/// Discards the whole device, if it is a thin volume; returns whether all of it reads as zeroes
/// now. False for every other device, which is not touched. Fails with io.
core::Task<core::Result<bool>> empty_thin_volume(core::Loop& loop, std::string path,
                                                 core::Deadline deadline);

/// What device-mapper says of a thin volume: "<pool> <id>" of its table, and "<mapped sectors>
/// <highest>" of its status. Whether all of it reads as zeroes: nothing is mapped, and there is no
/// external origin. For tests.
bool is_empty_thin(std::string const& table, std::string const& status);

}  // namespace storage
