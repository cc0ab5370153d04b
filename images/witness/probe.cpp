#include "probe.hpp"

#include <endian.h>
#include <algorithm>
#include <cstring>

namespace witness {
namespace {

constexpr std::size_t sessions_max = 16;  // of 8 KiB; the one that was silent longest makes room
constexpr std::size_t header_bytes = 96;
enum Kind : unsigned char { probe = 1, answer_to_probe = 2, ask = 3, told = 4 };
enum At : std::size_t {
    kind = 8,
    session = 16,
    number = 24,
    serial = 40,
    received = 48,
    seen = 56,
    duplicated = 64,
    reordered = 72,
    longest_gap = 80,
    overflow = 88
};

std::uint64_t get(std::span<const unsigned char> data, std::size_t at) {
    std::uint64_t value = 0;
    std::memcpy(&value, data.data() + at, sizeof value);
    return be64toh(value);
}

void put(std::span<unsigned char> data, std::size_t at, std::uint64_t value) {
    value = htobe64(value);
    std::memcpy(data.data() + at, &value, sizeof value);
}

}  // namespace

bool ProbeEcho::answer(std::span<unsigned char> datagram, std::uint64_t received_ns,
                       std::uint32_t overflowed) {
    if (datagram.size() < header_bytes || std::memcmp(datagram.data(), "SCPROBE1", 8) != 0)
        return false;
    const unsigned char asked = datagram[At::kind];
    if (asked != Kind::probe && asked != Kind::ask) return false;
    Session* one = find(get(datagram, At::session), asked == Kind::probe);
    if (one == nullptr) return false;
    one->used = ++turn_;
    if (asked == Kind::probe) {
        if (!take(*one, get(datagram, At::number), received_ns)) return false;
        put(datagram, At::serial, ++one->serial);
    }
    datagram[At::kind] = asked == Kind::probe ? Kind::answer_to_probe : Kind::told;
    put(datagram, At::received, received_ns);
    put(datagram, At::seen, one->seen);
    put(datagram, At::duplicated, one->duplicated);
    put(datagram, At::reordered, one->reordered);
    put(datagram, At::longest_gap, one->longest_gap_ns);
    put(datagram, At::overflow, std::uint64_t{overflowed} << 32U);  // and none that was not sent
    return true;
}

ProbeEcho::Session* ProbeEcho::find(std::uint64_t id, bool make) {
    const auto found = sessions_.find(id);
    if (found != sessions_.end()) return found->second.get();
    if (!make) return nullptr;
    if (sessions_.size() >= sessions_max)
        sessions_.erase(std::ranges::min_element(
            sessions_, {}, [](const auto& entry) { return entry.second->used; }));
    return (sessions_[id] = std::make_unique<Session>()).get();
}

// Counts a probe; false if it is so late that it is unknown whether it arrived before.
bool ProbeEcho::take(Session& to, std::uint64_t n, std::uint64_t at_ns) {
    const bool first = to.seen == 0;
    if (!first && n < to.highest && to.highest - n >= window) return false;
    const bool newest = first || n > to.highest;
    if (newest) {
        if (first || n - to.highest >= window)
            to.there.reset();
        else
            for (std::uint64_t i = to.highest + 1; i <= n; ++i) to.there.reset(i % window);
        to.highest = n;
    }
    if (to.there.test(n % window)) {
        ++to.duplicated;
        return true;
    }
    to.there.set(n % window);
    ++to.seen;
    if (!newest) ++to.reordered;
    if (!first && at_ns > to.last_ns)
        to.longest_gap_ns = std::max(to.longest_gap_ns, at_ns - to.last_ns);
    to.last_ns = std::max(to.last_ns, at_ns);
    return true;
}

}  // namespace witness
