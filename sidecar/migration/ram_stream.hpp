// RamStream: QEMU's part of a migration (RAM and device state) as the source's driver uses it.
// It starts over a connection of ours, is kept from stopping the guest until the disks are
// ready, can be cancelled, and gets QEMU's migration settings restored. Invariant: a setting is
// changed only after the earlier ones are recorded durably, so that a later sidecar or the
// watchdog can restore them.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "qmp/migration.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/machine/ram_convergence.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

struct RamStreamOptions {
    std::string host;
    std::string port;
    std::string tls_creds;  ///< QEMU's object for the stream; empty: plaintext.
    std::string tls_hostname;
    core::milliseconds downtime_limit{limits::downtime_limit_default_ms};
    core::milliseconds converge_limit{limits::converge_limit_default};
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    bool throttle = true;  ///< A guest that dirties RAM too fast is slowed down.
    bool hold = false;  ///< Delay the stop until the disks tell watch() that they are ready.
    /// Awaited before a stop that was held is allowed.
    std::function<core::Task<void>()> before_stop = {};
    /// Makes QEMU's settings durable before any is changed; restore() needs them.
    std::function<core::Result<>(core::Json const& settings)> record = {};
    /// Called once: RAM does not converge. The arithmetic says why.
    std::function<void()> not_converging = {};
};

class RamStream {
public:
    /// `guest` must outlive it.
    explicit RamStream(Guest& guest) : guest_(guest) {}

    /// Saves QEMU's settings, sets ours, connects, and begins (QMP getfd, migrate).
    core::Task<core::Result<>> start(RamStreamOptions options, core::Deadline deadline);

    /// Runs until `stop` is triggered (the guest stopped). Keeps info() up to date, tells the
    /// disks when to make their last round (Mirror::expect_stop), and then lets QEMU stop the
    /// guest. QEMU is first allowed a short pause, then longer ones, up to what the disks leave of
    /// the planned pause. If RAM does not converge with that, QEMU's auto-converge slows the
    /// guest's processors down; if that does not help, RamStreamOptions::not_converging is called.
    /// `disks` may be null.
    core::Task<void> watch(storage::Mirror* disks, std::stop_token stop);

    /// These take effect at the next check of watch().
    void set_bandwidth(std::uint64_t bytes_per_second) { options_.bandwidth = bytes_per_second; }
    void set_downtime_limit(core::milliseconds limit) { options_.downtime_limit = limit; }
    void set_converge_limit(core::milliseconds limit) { options_.converge_limit = limit; }

    /// Cancels the migration in any state; also ok if none runs. No effect on one
    /// that has completed.
    core::Task<core::Result<>> cancel(core::Deadline deadline);

    /// Restores the settings that start() found. Only while no migration is active. No effect if
    /// start() changed none.
    core::Task<core::Result<>> put_back(core::Deadline deadline);
    /// The same from a record; null: nothing to do.
    static core::Task<core::Result<>> restore(qmp::Client& client, core::Json settings,
                                              core::Deadline deadline);

    /// Resets the settings with which the destination lets RAM in to those of a QEMU that
    /// was just started.
    static core::Task<void> reset_incoming(Guest& guest, core::Deadline deadline);

    /// Queries QEMU once more; values that it does not report stay as they were.
    core::Task<void> refresh(core::Deadline deadline);
    [[nodiscard]] qmp::MigrationInfo const& info() const { return info_; }
    [[nodiscard]] std::optional<core::Clock::time_point> started_at() const { return started_at_; }
    [[nodiscard]] machine::RamArithmetic const& arithmetic() const {
        return convergence_.arithmetic();
    }
    /// RAM's part of the pause: the planned pause minus the disks' last delta.
    [[nodiscard]] core::milliseconds budget() const { return budget_; }

private:
    /// How far QEMU may go. free: first pass; throttled: the disks make their last round, for which
    /// RAM leaves the destination's main loop free; released: it may stop the guest.
    enum class RamPhase : std::uint8_t { free, throttled, released };
    [[nodiscard]] int first_limit_ms() const;
    [[nodiscard]] core::Json limits_for(RamPhase ram_phase, int limit_ms) const;
    void add_cpu_throttle(core::Json& parameters) const;
    void share_pause(storage::Mirror const* disks);
    core::Task<void> look_at_convergence(std::stop_token stop);
    /// False: QEMU did not accept it; the next check tries again.
    core::Task<bool> change(RamPhase ram_phase, int limit_ms, std::stop_token stop);
    void note_rate(qmp::MigrationInfo const& before, core::Clock::duration span);
    [[nodiscard]] bool stop_is_near() const;
    core::Task<void> allow_switchover(bool disks_ready, std::stop_token stop);

    Guest& guest_;
    RamStreamOptions options_;
    core::Fd socket_;  ///< Our end of the connection; QEMU has a duplicate.
    qmp::MigrationInfo info_;
    std::optional<core::Clock::time_point> started_at_;
    core::Json found_;  ///< The settings before ours, for restore(); null: none was changed.
    machine::RamConvergence convergence_;
    core::milliseconds budget_{0};
    bool slowing_down_ = false;  ///< QEMU may slow the guest's processors down.
    int cpu_throttle_percent_ = 0;  ///< Its value when its next step was last set.
    bool given_up_ = false;
    RamPhase ram_phase_ = RamPhase::released;
    double bytes_per_second_ = 0;  ///< Of the first pass, as sent.
    std::uint64_t bandwidth_ = 0;  ///< The value of options_ that QEMU was last given.
    int limit_ms_ = 0;  ///< QEMU's current downtime-limit.
    core::Clock::time_point raised_at_{};
};

}  // namespace sidecar
