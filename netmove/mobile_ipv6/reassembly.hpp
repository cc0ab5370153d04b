// Reassembly: outer IPv6 packets from their fragments (RFC 8200 4.5). Used at both ends of a Mobile
// IPv6 tunnel, because a packet that fills a link does not fit into one outer packet. Pure: the
// time comes with each call. Over IPv4 nothing is fragmented: outer_ipv4_header() forbids it.
//
// Invariant: a packet is delivered once and whole, and only from fragments that agree. What
// incomplete packets take is bounded in bytes, number and age.
#pragma once

#include <compare>
#include <cstdint>
#include <list>
#include <map>
#include <optional>

#include "core/deadline.hpp"
#include "netmove/frame.hpp"

namespace netmove::mobile_ipv6 {

/// What incomplete packets may take at one end of tunnels.
struct ReassemblyLimits {
    std::size_t packets = 256;
    std::size_t bytes = 1'048'576;  ///< With what keeps them: 14 of the largest packets.
    /// Of one packet. 64 KiB are 54 fragments on links of the smallest MTU.
    std::size_t fragments = 64;
    /// Fragments of a packet arrive together. It is less than the RFC's 60 s, so that packets of
    /// which one fragment was lost do not take the room of others.
    core::milliseconds age{2'000};
};

class Reassembly {
public:
    explicit Reassembly(ReassemblyLimits limits = {}) : limits_(limits) {}

    /// Takes an IPv6 packet, from its header on. Gives the packet that its fragment completes,
    /// without the Fragment header. None: fragments are missing, or it is no fragment, or a
    /// malformed one, or one of a packet that was abandoned.
    ///
    /// A repeated fragment is ignored. Fragments that overlap or contradict each other abandon
    /// their packet, with all that follow of it (RFC 5722). A packet of one fragment is given at
    /// once (RFC 6946). The oldest packets make room for new ones. No ICMP error is ever sent.
    std::optional<Bytes> add(ByteView packet, core::Clock::time_point now);
    /// Drops packets that are too old. add() does that too.
    void expire(core::Clock::time_point now);

    [[nodiscard]] std::size_t packets() const { return partials_.size(); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    /// Packets that were dropped before they were complete.
    [[nodiscard]] std::uint64_t incomplete() const { return incomplete_; }

private:
    struct Key {
        Address source;
        Address destination;
        std::uint32_t identification = 0;
        auto operator<=>(Key const&) const = default;
    };
    struct Fragment;
    struct Partial {
        Key key;
        core::Clock::time_point since{};
        bool abandoned = false;
        bool congestion = false;  ///< A router has marked one of its fragments (RFC 3168 5.3).
        Bytes headers{};  ///< All before the Fragment header of the first fragment.
        std::map<std::size_t, Bytes> parts{};  ///< By offset. They do not overlap.
        std::size_t received = 0;  ///< Bytes in `parts`.
        std::optional<std::size_t> size{};  ///< What `received` will be. Known from the last part.
        std::size_t bytes = 0;  ///< What it counts in bytes_.
    };
    using Partials = std::list<Partial>;

    static std::optional<Fragment> read(ByteView bytes);
    static std::optional<Bytes> join(Partial const& partial);
    Partial& partial_for(Key const& key, core::Clock::time_point now);
    bool insert(Partial& into, Fragment const& fragment);
    bool charge(Partial& partial, std::size_t bytes);
    void abandon(Partial& partial);
    void drop(Partials::iterator which);
    void erase(Partials::iterator which);

    ReassemblyLimits limits_;
    Partials partials_;  ///< Oldest first.
    std::map<Key, Partials::iterator> by_key_;
    std::size_t bytes_ = 0;
    std::uint64_t incomplete_ = 0;
};

}  // namespace netmove::mobile_ipv6
