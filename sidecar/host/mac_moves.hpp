// How often a guest's MAC addresses may move. A fabric that learns them by EVPN takes a
// station that moves too often for a duplicate, and freezes it where it is (RFC 7432, 15.1: 5
// moves in 180 s).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sidecar {

/// Now, in milliseconds since 1970.
std::int64_t wall_ms();

/// Drops moves that no longer count, and the oldest of those that exceed the limit.
void forget_old_moves(std::vector<std::int64_t>& moves, std::int64_t now_ms);

/// Why a move now may be one too many, and when it no longer is; empty if it is not. Both times in
/// milliseconds since 1970.
std::string why_too_soon(std::vector<std::int64_t> moves, std::int64_t now_ms);

}  // namespace sidecar
