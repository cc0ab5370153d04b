// The guest's end of `sidecar probe`: numbered datagrams are answered with a number of their own
// and what arrived so far, so that the prober can distinguish losses on the way there from losses
// on the way back. Independent of netmove/probe/echo.cpp; the format is that of
// netmove/probe/wire.hpp.
// Invariant: an answer is as long as its probe; memory is bounded.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

namespace witness {

class ProbeEcho {
public:
    /// Makes the answer in place; false: nothing is to be answered. `overflowed`: datagrams that
    /// found no room in the socket since it was made.
    bool answer(std::span<unsigned char> datagram, std::uint64_t received_ns,
                std::uint32_t overflowed);

private:
    static constexpr std::size_t window = 65536;  // numbers behind the highest that are remembered
    struct Session {
        std::bitset<window> there;
        std::uint64_t highest = 0;
        std::uint64_t serial = 0;  // answers made
        std::uint64_t seen = 0;
        std::uint64_t duplicated = 0;
        std::uint64_t reordered = 0;
        std::uint64_t last_ns = 0;
        std::uint64_t longest_gap_ns = 0;
        std::uint64_t used = 0;  // turn of its last datagram
    };
    Session* find(std::uint64_t id, bool make);
    static bool take(Session& session, std::uint64_t number, std::uint64_t at_ns);

    std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
    std::uint64_t turn_ = 0;
};

}  // namespace witness
