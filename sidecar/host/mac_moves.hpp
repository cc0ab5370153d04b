// How often a guest's MAC addresses may move. A fabric that learns them by EVPN takes a station
// that moves too often for two, and freezes it where it is (RFC 7432, 15.1: 5 moves in 180 s).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sidecar {

/// Now, in milliseconds since 1970.
std::int64_t wall_ms();

/// Drops those that no longer count, and so many that the rest fits its place.
void forget_old_moves(std::vector<std::int64_t>& moves, std::int64_t now_ms);

/// Why a move now may be one too many, and when it is not; empty when it is not. Both in
/// milliseconds since 1970.
std::string why_too_soon(std::vector<std::int64_t> moves, std::int64_t now_ms);

}  // namespace sidecar
