// fsync of a file or a directory on the loop. Used where names must be durable: fdatasync of a
// directory need not sync a rename.
#pragma once

#include "core/loop.hpp"

namespace core {

/// As Loop::fdatasync(), with all metadata; the loop takes a length for it.
inline Op fsync(Loop& loop, int fd, Deadline deadline) {
    return Op(loop, {.kind = Op::Kind::fdatasync, .fd = fd, .length = 1}, std::move(deadline));
}

}  // namespace core
