// Throttle: slows what a guest writes to its disks when they cannot be copied as fast, in small
// steps, and puts the user's own limits back. Used by the source's driver, and by the watchdog for
// a driver that died. Invariant: a limit is changed only after the limits found before it are
// recorded durably, so whoever comes later can put them back.
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

/// The limits `found` with the writing limited to `bytes_per_second`, or less where they say so.
/// Bursts above a limit of ours are taken out, since QEMU refuses them below it.
core::Json with_write_limit(core::Json const& found, std::uint64_t bytes_per_second);

class Throttle {
public:
    /// Makes record() durable, before anything is changed.
    using Recorder = std::function<core::Result<>(core::Json const& record)>;

    /// Of the disks with these nodes.
    Throttle(qmp::Client& client, std::vector<std::string> nodes, Recorder recorder);

    /// Begins to measure how much the guest writes; step() uses what it has written since.
    core::Task<core::Result<>> measure(core::Deadline deadline);
    /// Takes limits::throttle_step_percent off what each disk may write. False: all are as slow as
    /// they may become, or there is none to slow down.
    core::Task<core::Result<bool>> step(core::Deadline deadline);
    /// What all disks together may write now; none: nothing is slowed down.
    [[nodiscard]] std::optional<std::uint64_t> bytes_per_second() const;
    /// The user's limits again. Idempotent; keeps trying nothing that QEMU refuses.
    core::Task<core::Result<>> remove(core::Deadline deadline);

    /// The same by what was recorded; null: nothing to do.
    static core::Task<core::Result<>> put_back(qmp::Client& client, core::Json record,
                                               core::Deadline deadline);

private:
    struct Disk {
        core::Json found;  ///< As block_set_io_throttle takes them.
        std::uint64_t written_bytes = 0;  ///< When measured last.
        std::uint64_t floor = 0;  ///< Bytes per second; 0: not known yet.
        std::uint64_t limit = 0;  ///< Bytes per second; 0: none of ours.
    };
    core::Task<core::Result<>> learn(core::Deadline deadline);
    /// The limit after the next step; the one of now when it may not become slower.
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
