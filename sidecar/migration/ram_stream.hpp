// RamStream: QEMU's own part of a migration (RAM and device state) as the source's driver uses it:
// started over a connection of ours, held back from stopping the guest until the disks are ready,
// cancelled, and QEMU's migration settings put back as they were found.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "qmp/migration.hpp"
#include "sidecar/guest/guest.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

struct RamStreamOptions {
    std::string host;
    std::string port;
    std::string tls_creds;  ///< QEMU's object for the stream; empty: plaintext.
    std::string tls_hostname;
    int downtime_limit_ms = 0;
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    bool hold = false;  ///< The stop, until watch() is told by the disks that they are ready.
    /// Awaited before a stop that was held is allowed.
    std::function<core::Task<void>()> before_stop = {};
};

class RamStream {
public:
    /// `guest` must outlive it.
    explicit RamStream(Guest& guest) : guest_(guest) {}

    /// Notes QEMU's settings, makes ours, connects, and begins (QMP getfd, migrate).
    core::Task<core::Result<>> start(RamStreamOptions options, core::Deadline deadline);

    /// Until `stop` is triggered (the guest stopped): keeps info() fresh, tells the disks when to
    /// make their last round (Mirror::expect_stop), and then lets QEMU stop the guest. When RAM
    /// does not converge for a while QEMU is allowed a longer pause, up to downtime_limit_ms.
    /// `disks` may be null.
    core::Task<void> watch(storage::Mirror* disks, std::stop_token stop);

    /// Take effect at the next look of watch().
    void set_bandwidth(std::uint64_t bytes_per_second) { options_.bandwidth = bytes_per_second; }
    void set_downtime_limit_ms(int ms) { options_.downtime_limit_ms = ms; }

    /// Ends it whatever it does; also when none runs. No effect on one that has completed.
    core::Task<core::Result<>> cancel(core::Deadline deadline);

    /// Our settings go; those found by start() come back, or QEMU's own when a sidecar before us
    /// had made them. Only when no migration is active.
    core::Task<void> put_back(core::Deadline deadline);

    /// Asks QEMU once more; what it does not answer stays as it was.
    core::Task<void> refresh(core::Deadline deadline);
    [[nodiscard]] qmp::MigrationInfo const& info() const { return info_; }
    [[nodiscard]] std::optional<core::Clock::time_point> started_at() const { return started_at_; }

private:
    [[nodiscard]] int first_limit_ms() const;
    /// How far QEMU may go. free: first pass; throttled: the disks make their last round, to which
    /// RAM leaves the destination's main loop; released: it may stop the guest.
    enum class RamPhase : std::uint8_t { free, throttled, released };
    [[nodiscard]] core::Json limits_for(RamPhase ram_phase, int limit_ms) const;
    core::Task<void> change(RamPhase ram_phase, int limit_ms, std::stop_token stop);
    void note_rate(qmp::MigrationInfo const& before, core::Clock::duration span);
    [[nodiscard]] bool stop_is_near() const;
    core::Task<void> allow_switchover(bool disks_ready, std::stop_token stop);

    Guest& guest_;
    RamStreamOptions options_;
    core::Fd socket_;  ///< Ours of the connection; QEMU has a duplicate.
    qmp::MigrationInfo info_;
    std::optional<core::Clock::time_point> started_at_;
    core::Json found_;  ///< query-migrate-parameters before ours; null: not asked.
    std::vector<qmp::Capability> found_capabilities_;
    RamPhase ram_phase_ = RamPhase::released;
    double bytes_per_second_ = 0;  ///< Of the first pass, as sent.
    std::uint64_t bandwidth_ = 0;  ///< As options_ had it when QEMU was told.
    int limit_ms_ = 0;  ///< QEMU's downtime-limit, now.
    core::Clock::time_point raised_at_{};
};

}  // namespace sidecar
