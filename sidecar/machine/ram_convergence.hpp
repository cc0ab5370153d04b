// RamConvergence: decides whether RAM pre-copy converges. Its input is what QEMU reports about its
// passes over RAM. Its answer is to wait, to slow the guest down, or to end the migration.
//
// Used by sidecar/migration/ram_stream.cpp. Pure: it uses no clock and no QEMU, so unit tests can
// simulate any guest in microseconds.
//
// The arithmetic: QEMU stops the guest when the memory that is dirty at the end of a pass can be
// sent within the budget of the pause. A pass sends what was dirty at the end of the pass before
// it. So a guest converges if and only if its dirty memory shrinks from pass to pass until it fits
// the budget.
#pragma once

#include <chrono>
#include <cstdint>

namespace sidecar::machine {

/// What QEMU reports at one moment (query-migrate).
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
    converging,  ///< Or it is too early to decide.
    throttle,  ///< It does not converge without help: slow the guest down.
    give_up,  ///< It does not converge at all, or not in time.
};

/// The numbers behind the verdict, for the report and the error.
struct RamArithmetic {
    std::uint64_t passes = 0;
    std::uint64_t dirty_bytes = 0;  ///< Dirty at the end of the last pass.
    std::uint64_t dirty_bytes_per_second = 0;
    std::uint64_t transfer_bytes_per_second = 0;  ///< As measured last.
    std::chrono::milliseconds predicted_pause{};  ///< Time to send dirty_bytes at that rate.
    int cpu_throttle_percent = 0;
    bool converging = true;  ///< False: dirty memory does not shrink, or not in time.
};

class RamConvergence {
public:
    /// A pass shrinks dirty memory if it leaves at most this part of what the previous
    /// pass left, percent.
    static constexpr std::uint64_t shrink_percent = 90;
    /// The guest is slowed down, or the migration is ended, only after this many passes in a row
    /// that do not shrink dirty memory, and after this much time. (Passes over a small working set
    /// take milliseconds, and guests dirty memory in bursts.)
    static constexpr unsigned stagnant_passes_max = 2;
    static constexpr std::chrono::milliseconds throttle_after{2000};
    static constexpr std::chrono::milliseconds give_up_after{10000};
    /// The strongest throttle of the guest's processors, percent. A tenth of the speed remains, as
    /// with disk writes.
    static constexpr int cpu_throttle_percent_max = 90;
    /// The first throttle step. QEMU's own default.
    static constexpr int cpu_throttle_percent_min = 20;
    /// The rate is measured over one pass, but over at least rate_span_min and
    /// at most rate_span_max.
    static constexpr std::chrono::milliseconds rate_span_min{100};
    static constexpr std::chrono::milliseconds rate_span_max{2000};

    /// Call once for each sample, in order of time.
    [[nodiscard]] RamVerdict look(RamSample const& sample, RamConvergenceLimits const& limits);
    [[nodiscard]] RamArithmetic const& arithmetic() const { return arithmetic_; }
    /// The throttle that would reduce the dirty rate to half of the transfer rate, percent, within
    /// the allowed minimum and maximum.
    [[nodiscard]] int wanted_throttle_percent() const;

private:
    void note_pass(RamSample const& sample);
    void note_rate(RamSample const& sample);
    [[nodiscard]] bool late(RamSample const& sample, RamConvergenceLimits const& limits) const;
    [[nodiscard]] bool stagnant(RamSample const& sample, std::chrono::milliseconds least) const;
    void begin_stagnation(RamSample const& sample);

    RamArithmetic arithmetic_;
    RamSample measured_;  ///< Start of the rate measurement.
    std::chrono::milliseconds first_pass_progress_at_{};  ///< When the first pass last sent a byte.
    std::uint64_t transferred_bytes_ = 0;
    unsigned stagnant_passes_ = 0;
    std::chrono::milliseconds stagnant_since_{};
    bool throttled_ = false;
    bool over_ = false;
};

}  // namespace sidecar::machine
