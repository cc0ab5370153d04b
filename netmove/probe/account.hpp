// Accounting of numbered streams for `sidecar probe`: what of one direction arrived, twice, late or
// not at all (NumberTracker), and what the prober knows of a whole session (ProbeAccount). Pure
// code: no clock, no socket. Invariant: memory is bounded whatever numbers come.
#pragma once

#include <cstdint>
#include <vector>

#include "netmove/probe/wire.hpp"

namespace netmove {

/// The longest time between two arrivals. Times that go backwards count as none.
struct ArrivalGap {
    std::uint64_t last_ns = 0;  ///< 0: nothing arrived yet.
    std::uint64_t longest_ns = 0;
    std::uint64_t longest_began_ns = 0;
    void arrived(std::uint64_t at_ns);
};

/// One direction of a stream, as its receiver sees it. Numbers begin at 0 or 1; with the number
/// that was sent, the lost ones follow.
class NumberTracker {
public:
    /// How many numbers below the highest one are remembered: 3 s at 20,000 a second, in 8 KiB.
    static constexpr std::uint64_t window = 65536;
    enum class Seen {
        in_order,
        reordered,  ///< New, but a higher one was there before it.
        duplicate,
        too_late  ///< Below the window: whether it is new is unknown; it is not counted.
    };
    Seen arrived(std::uint64_t number, std::uint64_t at_ns);

    [[nodiscard]] std::uint64_t seen() const { return seen_; }  ///< Different numbers.
    [[nodiscard]] std::uint64_t duplicated() const { return duplicated_; }
    [[nodiscard]] std::uint64_t reordered() const { return reordered_; }
    [[nodiscard]] std::uint64_t too_late() const { return too_late_; }
    [[nodiscard]] std::uint64_t highest() const { return highest_; }
    [[nodiscard]] ArrivalGap const& gap() const { return gap_; }

private:
    void advance(std::uint64_t number);
    bool take(std::uint64_t number);  ///< False: it was there already.

    std::vector<std::uint64_t> bits_ = std::vector<std::uint64_t>(window / 64);
    bool any_ = false;
    std::uint64_t highest_ = 0;
    std::uint64_t seen_ = 0;
    std::uint64_t duplicated_ = 0;
    std::uint64_t reordered_ = 0;
    std::uint64_t too_late_ = 0;
    ArrivalGap gap_;
};

/// What the prober knows of one UDP session.
class ProbeAccount {
public:
    /// Most probes of one session: 16 bytes are kept of each, so 80 MB. A day of one each 20 ms, 80
    /// minutes of 1 kHz, 4 minutes of 20 kHz.
    static constexpr std::uint64_t probes_max = 5'000'000;

    /// One direction. Probes go there, answers come back.
    struct Direction {
        std::uint64_t sent = 0;
        std::uint64_t lost = 0;
        std::uint64_t duplicated = 0;
        std::uint64_t reordered = 0;
        std::uint64_t longest_gap_ns = 0;
        std::uint64_t longest_gap_began_ns = 0;  ///< 0 for `there`: the echo does not tell it.
    };
    /// Probes without an answer, one after the other.
    struct Loss {
        std::uint64_t first = 0;  ///< Number.
        std::uint64_t at_ns = 0;  ///< When that was sent.
        std::uint64_t count = 0;
        std::uint64_t there = 0;  ///< Of these on the way there, as far as can be told...
        std::uint64_t back = 0;  ///< ...and on the way back.
    };
    /// A time in which no answer arrived.
    struct Silence {
        std::uint64_t at_ns = 0;  ///< When the answer before it arrived.
        std::uint64_t ns = 0;
    };
    struct Delay {
        double min_ms = 0;
        double median_ms = 0;
        double p99_ms = 0;
        double max_ms = 0;
        [[nodiscard]] double added_ms() const { return max_ms - median_ms; }
    };
    struct Sample {
        std::uint64_t sent_ns = 0;
        std::uint32_t delay_us = 0;  ///< To and fro, at least 1; 0: no answer (yet).
        std::uint32_t serial = 0;  ///< Of the answer, its lower 32 bits.
    };

    /// The next probe leaves now; its number. Not more than probes_max times.
    std::uint64_t sent(std::uint64_t at_ns);
    /// An answer came in. What is none to a probe of ours is counted as foreign, and no more.
    void answered(ProbeDatagram const& answer, std::uint64_t at_ns);
    /// The echo's own counts, sent after the last probe.
    void told(ProbeDatagram::Known const& known);
    /// No further probe leaves: a gap that is open ends here.
    void ended(std::uint64_t at_ns) { ended_ns_ = at_ns; }

    [[nodiscard]] bool full() const { return samples_.size() >= probes_max; }
    [[nodiscard]] bool complete() const { return answered_ == samples_.size(); }
    [[nodiscard]] bool was_told() const { return told_; }
    [[nodiscard]] std::uint64_t answers() const { return answered_; }  ///< Probes that have one.
    [[nodiscard]] std::uint64_t foreign() const { return foreign_; }
    [[nodiscard]] ProbeDatagram::Known const& known() const { return known_; }
    [[nodiscard]] std::vector<Sample> const& samples() const { return samples_; }

    /// Until the echo has told, probes lost after the last answer count as lost on the way there.
    [[nodiscard]] Direction there() const;
    [[nodiscard]] Direction back() const;
    [[nodiscard]] Delay delay() const;  ///< All 0 without an answer.
    /// In the order of their numbers; exact where answers arrived in order around a loss.
    [[nodiscard]] std::vector<Loss> losses() const;
    /// Times without an arrival that are longer than `longer_than_ns`, in their order.
    [[nodiscard]] std::vector<Silence> silences(std::uint64_t longer_than_ns) const;

private:
    [[nodiscard]] std::uint64_t answers_sent() const { return known_.seen + known_.duplicated; }

    std::vector<Sample> samples_;
    std::uint64_t answered_ = 0;
    std::uint64_t foreign_ = 0;
    NumberTracker serials_;
    ProbeDatagram::Known known_;
    std::uint64_t ended_ns_ = 0;
    bool told_ = false;
};

}  // namespace netmove
