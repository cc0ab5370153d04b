#include "sidecar/host/mac_moves.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "sidecar/host/limits.hpp"

namespace sidecar {

namespace {
constexpr std::int64_t window_ms = std::chrono::milliseconds(limits::mac_moves_window).count();
}

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

std::string why_too_soon(std::vector<std::int64_t> moves, std::int64_t now_ms) {
    forget_old_moves(moves, now_ms);
    if (moves.size() < limits::mac_moves_max) return {};
    auto const wait_ms = *std::ranges::min_element(moves) + window_ms - now_ms;
    return fmt::format(
        "the guest's addresses have moved {} times within {} s: an EVPN fabric may take one more "
        "for a duplicate and freeze them; there, wait {} s",
        moves.size(), limits::mac_moves_window.count(), wait_ms / 1000 + 1);
}

}  // namespace sidecar
