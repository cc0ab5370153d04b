// Throttle: reduces the guest's write rate in small steps if its disks cannot be copied fast
// enough, and restores the user's own limits. Used by the source's driver, and by the watchdog
// after the driver died. Invariant: a limit is changed only after the earlier limits are recorded
// durably, so that a later process can restore them.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/sync.hpp"
#include "qmp/block.hpp"

namespace sidecar {

/// The limits `found`, with writes limited to `bytes_per_second`, or less if `found` says so.
/// Bursts are removed if they conflict with our limit, because QEMU refuses them.
core::Json with_write_limit(core::Json const& found, std::uint64_t bytes_per_second);

class Throttle {
public:
    /// Makes record() durable, before anything is changed.
    using Recorder = std::function<core::Result<>(core::Json const& record)>;

    /// For the disks with these nodes.
    Throttle(qmp::Client& client, std::vector<std::string> nodes, Recorder recorder);

    /// Starts to measure the guest's writes; step() uses what was written since.
    core::Task<core::Result<>> measure(core::Deadline deadline);
    /// Reduces each disk's write limit by limits::throttle_step_percent. False: all disks are at
    /// their minimum, or there is none to slow down.
    core::Task<core::Result<bool>> step(core::Deadline deadline);
    /// The write limit of all disks together; none: no disk is slowed down.
    [[nodiscard]] std::optional<std::uint64_t> bytes_per_second() const;
    /// Restores the user's limits. Idempotent; does not retry what QEMU refuses.
    core::Task<core::Result<>> remove(core::Deadline deadline);

    /// The same from a record; null: nothing to do.
    static core::Task<core::Result<>> put_back(qmp::Client& client, core::Json record,
                                               core::Deadline deadline);

private:
    struct Disk {
        core::Json found;  ///< As block_set_io_throttle takes them.
        std::uint64_t written_bytes = 0;  ///< At the last measurement.
        std::uint64_t floor = 0;  ///< Bytes per second; 0: not known yet.
        std::uint64_t limit = 0;  ///< Bytes per second; 0: no limit of ours.
    };
    core::Task<core::Result<>> learn(core::Deadline deadline);
    /// The limit after the next step; the current limit if it may not become lower.
    static std::uint64_t slower(Disk& disk, double written_per_second);
    [[nodiscard]] core::Json record() const;

    qmp::Client& client_;
    std::vector<std::string> nodes_;
    Recorder recorder_;
    std::map<std::string, Disk> disks_;  ///< By qdev.
    core::Clock::time_point measured_at_{};
    bool recorded_ = false;
};

}  // namespace sidecar
