#include "sidecar/host/mac_moves.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "sidecar/host/limits.hpp"

namespace sidecar {

namespace {
constexpr std::int64_t window_ms = std::chrono::milliseconds(limits::mac_moves_window).count();
/// There, and back if it is undone.
constexpr std::ptrdiff_t moves_of_migration = 2;
}  // namespace

std::int64_t wall_ms() {
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

void forget_old_moves(std::vector<std::int64_t>& moves, std::int64_t now_ms) {
    // If the clock was set back, an entry must not count for ever.
    std::erase_if(moves, [now_ms](auto at) { return at <= now_ms - window_ms || at > now_ms; });
    if (moves.size() > limits::mac_moves_max) {
        moves.erase(moves.begin(), moves.end() - limits::mac_moves_max);
    }
}

std::vector<std::int64_t> ms_ago(std::vector<std::int64_t> moves, std::int64_t now_ms) {
    forget_old_moves(moves, now_ms);
    for (auto& at : moves) at = now_ms - at;
    return moves;
}

std::vector<std::int64_t> at_times(std::vector<std::int64_t> const& ago, std::int64_t now_ms) {
    std::vector<std::int64_t> moves;
    for (auto const one : ago) moves.push_back(now_ms - one);
    std::ranges::sort(moves);
    return moves;
}

std::string why_too_soon(std::vector<std::int64_t> moves, std::int64_t now_ms) {
    forget_old_moves(moves, now_ms);
    if (moves.size() < limits::mac_moves_max) return {};
    auto const wait_ms = *std::ranges::min_element(moves) + window_ms - now_ms;
    return fmt::format(
        "the guest's addresses have moved {} times within {} s: an EVPN fabric may take one more "
        "for a duplicate and freeze them; there, wait {} s",
        moves.size(), limits::mac_moves_window.count(), wait_ms / 1000 + 1);
}

std::string why_evpn_must_wait(std::vector<std::int64_t> moves, std::int64_t now_ms) {
    forget_old_moves(moves, now_ms);
    std::ranges::sort(moves);
    // Moves that may lie in the window when the migration begins.
    constexpr auto free = static_cast<std::size_t>(limits::mac_moves_max - 1 - moves_of_migration);
    if (moves.size() <= free) return {};
    auto const wait_ms = moves[moves.size() - free - 1] + window_ms - now_ms;
    return fmt::format(
        "it has moved {} times within {} s, and an EVPN fabric freezes an address that moves {} "
        "times; a migration may need {} moves: wait {} s",
        moves.size(), limits::mac_moves_window.count(), limits::mac_moves_max, moves_of_migration,
        wait_ms / 1000 + 1);
}

}  // namespace sidecar
