// GuestPause: the pause of the guest on the source during a migration: whether the migration has
// stopped the guest, the limit of that pause, and the watchdog that resumes the guest if this
// sidecar cannot. Used by SourceMigration, which reports the end of a pause to its machine.
//
// Invariant: from just before COMMIT is recorded, neither the limit nor the watchdog ends the
// pause.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/priority.hpp"
#include "core/sync.hpp"
#include "sidecar/guest/watchdog.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class GuestPause {
public:
    /// None of them may suspend or destroy the pause.
    struct Callbacks {
        /// False as soon as COMMIT is about to be recorded or the rollback has begun.
        std::function<bool()> may_cancel;
        /// The guest was stopped for as long as the downtime limit allows.
        std::function<void(core::Error error)> limit_exceeded;
        /// Something other than the migration stopped the guest (an operator, an I/O error).
        std::function<void(core::Error error)> stopped_by_others;
    };

    GuestPause(SourceContext context, Callbacks callbacks)
        : context_(context), callbacks_(std::move(callbacks)), limit_changed_(context.guest.loop) {}

    /// Starts the watchdog; a second one replaces the first. Fails with io.
    core::Result<> start_watchdog();
    [[nodiscard]] bool has_watchdog() const { return watchdog_ != nullptr; }

    /// The migration stopped the guest at `at`, or reached the same point with a guest that was
    /// stopped before. False if that is known already; otherwise the
    /// caller spawns limit().
    bool note_stop(core::Clock::time_point at);
    /// The migration is over on the source, and the guest, which did not run before, stays stopped.
    void note_left_stopped();
    /// The guest runs again on the source.
    void note_running(core::Clock::time_point at);
    /// Waits for the limit of the pause that began at `stopped_at`, and reports it if the guest is
    /// still stopped and may_cancel() holds. Meanwhile the watchdog has the same limit, and a
    /// margin. Returns early if `stop` is triggered.
    core::Task<void> limit(core::Clock::time_point stopped_at, std::stop_token stop);
    /// Asks QEMU whether the migration stopped the guest, and reports it if something else did.
    core::Task<void> ask_why_stopped(std::stop_token stop);

    /// The downtime limit in the options has changed. It applies to a pause that is under way.
    void note_limit_changed() { limit_changed_.set(); }
    /// During a long rollback: this sidecar still tries, so the watchdog does not need to kill it.
    void renew_watchdog();
    /// COMMIT is about to be recorded: the watchdog must not resume the guest.
    void release_watchdog();
    /// The guest runs on the destination: nothing waits for this process any more.
    void end_realtime() { realtime_.reset(); }
    /// Ends the watchdog. Call before destruction.
    core::Task<void> end();

private:
    [[nodiscard]] bool is_limited() const;

    SourceContext context_;
    Callbacks callbacks_;
    core::Event limit_changed_;
    std::optional<core::ScopedRealtime> realtime_;  ///< While the guest is stopped.
    std::unique_ptr<Watchdog> watchdog_;
    bool stopped_ = false;  ///< By the migration, and not resumed here since.
};

}  // namespace sidecar
