// RamConvergence: decides whether RAM pre-copy gets there. It is fed with what QEMU says of its
// passes over RAM, and answers what to do: wait, slow the guest down, or end the migration.
//
// Used by sidecar/migration/ram_stream.cpp. Pure: it sees no clock and no QEMU, so the unit tests
// walk through any guest in microseconds.
//
// The arithmetic: QEMU stops the guest when what is dirty at the end of a pass can be sent within
// the budget of the pause. A pass sends what the pass before it left dirty. So a guest converges
// exactly when what it leaves dirty shrinks from pass to pass until it fits the budget.
#pragma once

#include <chrono>
#include <cstdint>

namespace sidecar::machine {

/// What QEMU says at one moment (query-migrate).
struct RamSample {
    std::chrono::milliseconds at{};        ///< Since RAM began.
    std::uint64_t passes = 0;              ///< dirty-sync-count; 1 in the first pass.
    std::uint64_t remaining_bytes = 0;     ///< Still to be sent in this pass.
    std::uint64_t transferred_bytes = 0;   ///< Sent since RAM began.
    std::uint64_t dirty_bytes_per_second = 0;  ///< dirty-pages-rate; 0 before the second pass.
    int cpu_throttle_percent = 0;  ///< cpu-throttle-percentage; 0: the guest runs freely.
};

struct RamConvergenceLimits {
    std::chrono::milliseconds pause{};  ///< RAM's budget of the pause.
    std::chrono::milliseconds converge{};  ///< --converge-limit.
    bool may_throttle = true;  ///< --throttle=auto
};

enum class RamVerdict : std::uint8_t {
    converging,  ///< Or too early to say.
    throttle,  ///< It does not get there by itself: slow the guest down.
    give_up,  ///< It does not get there at all, or not in time.
};

/// The numbers of the verdict, for the report and the error.
struct RamArithmetic {
    std::uint64_t passes = 0;
    std::uint64_t dirty_bytes = 0;  ///< What the last pass left dirty.
    std::uint64_t dirty_bytes_per_second = 0;
    std::uint64_t transfer_bytes_per_second = 0;  ///< As measured last.
    std::chrono::milliseconds predicted_pause{};  ///< To send dirty_bytes at that rate.
    int cpu_throttle_percent = 0;
    bool converging = true;  ///< False: what is left dirty does not shrink, or not in time.
};

class RamConvergence {
public:
    /// A pass shrinks what is dirty when it leaves at most this much of the pass before, percent.
    static constexpr std::uint64_t shrink_percent = 90;
    /// So many passes in a row that do not shrink it, and for so long, before the guest is slowed
    /// down, and before the migration ends. (The passes over a small working set take milliseconds,
    /// and what a guest dirties comes in bursts.)
    static constexpr unsigned stagnant_passes_max = 2;
    static constexpr std::chrono::milliseconds throttle_after{2000};
    static constexpr std::chrono::milliseconds give_up_after{10000};
    /// How far the guest's processors are slowed down at most, percent: a tenth is left, as of the
    /// writes to disks.
    static constexpr int cpu_throttle_percent_max = 90;
    /// And the first step. QEMU's own default.
    static constexpr int cpu_throttle_percent_min = 20;
    /// The rate is measured over a pass, but at least over the first span and at most over the
    /// second.
    static constexpr std::chrono::milliseconds rate_span_min{100};
    static constexpr std::chrono::milliseconds rate_span_max{2000};

    /// Once for each sample, in order of time.
    [[nodiscard]] RamVerdict look(RamSample const& sample, RamConvergenceLimits const& limits);
    [[nodiscard]] RamArithmetic const& arithmetic() const { return arithmetic_; }
    /// The throttle that would bring the dirty rate to half of the transfer rate, percent, between
    /// the least and the most that is allowed.
    [[nodiscard]] int wanted_throttle_percent() const;

private:
    void note_pass(RamSample const& sample);
    void note_rate(RamSample const& sample);
    [[nodiscard]] bool late(RamSample const& sample, RamConvergenceLimits const& limits) const;
    [[nodiscard]] bool stagnant(RamSample const& sample, std::chrono::milliseconds least) const;
    void begin_stagnation(RamSample const& sample);

    RamArithmetic arithmetic_;
    RamSample measured_;  ///< Where the measuring of the rate began.
    std::chrono::milliseconds first_pass_progress_at_{};  ///< Last time that a byte of it was sent.
    std::uint64_t transferred_bytes_ = 0;
    unsigned stagnant_passes_ = 0;
    std::chrono::milliseconds stagnant_since_{};
    bool throttled_ = false;
    bool over_ = false;
};

}  // namespace sidecar::machine
