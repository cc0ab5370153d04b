// DestinationQemu: the QEMU that waits on this host for the guest: its start, its monitor and its
// process, the streams that it receives, and `cont`. Used by DestinationMigration, which reports
// what it does to its machine.
//
// Invariant: after take_guest() of the driver, or a later start(), the earlier QEMU is not touched.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/sync.hpp"
#include "netmove/mover.hpp"
#include "sidecar/machine/destination.hpp"
#include "sidecar/migration/destination_context.hpp"

namespace sidecar {

class DestinationQemu {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// What the watchers report. None of them may suspend or destroy this object.
    struct Callbacks {
        std::function<void()> loaded;  ///< The RAM has arrived.
        /// The monitor was lost limits::qmp_silence_max ago, and cannot be reconnected. At most
        /// once for each loss.
        std::function<void(core::Error why)> silent;
        /// Its process has ended. `last`: `waiting` only if no RAM had begun to arrive.
        std::function<void(machine::destination::Qemu last, core::Error why)> gone;
    };

    DestinationQemu(DestinationContext context, Callbacks callbacks)
        : context_(context),
          callbacks_(std::move(callbacks)),
          events_over_(context.loop),
          watchers_(context.loop) {}

    /// Starts QEMU for the context's description, stopped, and watches it. The movers of its taps
    /// go into `movers`. Fails with the error of a tap or of QEMU.
    Outcome<> start(netmove::MoverSet& movers);
    /// QEMU has ended and start() follows: closes what belonged to it, and reads the key again.
    /// The users of its taps must have been removed before, see DestinationNetwork::forget().
    core::Task<void> begin_again();
    /// After a restart of the sidecar: connects to the QEMU that an earlier one prepared.
    /// `prepared` is its process, `socket` its monitor. watch() follows. Fails if it has ended.
    Outcome<> join(std::string socket, core::ProcessIdentity prepared);
    /// Reports from now on what this QEMU does, until it ends or the context's `stop` is triggered.
    void watch();
    /// What the joined QEMU does. Fails with the monitor's error.
    Outcome<machine::destination::Qemu> state();
    /// Gives it the key of the streams; nothing if they are plaintext.
    Outcome<> add_key();
    /// Makes it wait for the RAM stream, on ram_port().
    Outcome<> listen_for_ram();
    /// `cont`: ok only if the guest runs.
    Outcome<> run_guest();
    /// Ok if the guest is loaded and does not run.
    Outcome<> check_stopped();
    /// The guest is owned here: removes the settings and the key that its migration needed.
    core::Task<void> remove_streams(core::Deadline deadline);
    /// Ends its process, which never ran the guest. Ok if there is none. Fails with timed_out.
    Outcome<> kill();
    /// Closes its monitor and its taps.
    core::Task<void> close();
    /// Joins the tasks. Call before destruction, after the context's `stop` was triggered.
    core::Task<void> join() { return watchers_.join(); }

    /// Counts the QEMUs: data that an earlier one received but did not flush may be lost.
    [[nodiscard]] unsigned generation() const { return generation_; }
    [[nodiscard]] int ram_port() const { return ram_port_; }
    /// RAM has begun to arrive in this QEMU.
    [[nodiscard]] bool ram_begun() const { return ram_begun_; }
    /// When the guest began to run here; none: it has not, as far as is known.
    [[nodiscard]] std::optional<core::Clock::time_point> resumed_at() const { return resumed_at_; }
    /// As an earlier sidecar recorded it.
    void restore(unsigned generation, int ram_port) {
        generation_ = generation;
        ram_port_ = ram_port;
    }

private:
    core::Task<void> watch_monitor();
    core::Task<void> watch_process();
    core::Task<bool> reconnect(unsigned generation);
    void hear_migration(std::string const& status);

    DestinationContext context_;
    Callbacks callbacks_;
    unsigned generation_ = 0;
    int ram_port_ = 0;
    bool ram_begun_ = false;
    core::Event events_over_;  ///< All events of this QEMU were read.
    std::optional<core::Clock::time_point> resumed_at_;
    core::TaskGroup watchers_;
};

}  // namespace sidecar
