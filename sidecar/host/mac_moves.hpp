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

/// How many milliseconds ago each move was that still counts; and the reverse, on another host.
std::vector<std::int64_t> ms_ago(std::vector<std::int64_t> moves, std::int64_t now_ms);
std::vector<std::int64_t> at_times(std::vector<std::int64_t> const& ago, std::int64_t now_ms);

/// Why a move now may be one too many, and when it no longer is; empty if it is not. Both times in
/// milliseconds since 1970.
std::string why_too_soon(std::vector<std::int64_t> moves, std::int64_t now_ms);

/// The same, where EVPN is known to move the guest: the migration is refused, because a frozen
/// address is unreachable until an operator acts. A migration counts as two moves, since it may be
/// undone. Never more than four lie within one window: FRR takes the fifth for a duplicate.
std::string why_evpn_must_wait(std::vector<std::int64_t> moves, std::int64_t now_ms);

}  // namespace sidecar
