// The watchdog's rule: what the watchdog does after the source's sidecar has died.
//
// Used by migration/bring_back.cpp, which executes it, and by tests/sim, which runs the same
// function. Pure. Invariant: the watchdog resumes a guest only while no COMMIT of this migration
// can count. It leaves a guest paused only if it is in doubt after COMMIT, or if it was stopped
// from outside, before the migration or during it.
#pragma once

#include "sidecar/machine/source.hpp"

namespace sidecar::machine::watchdog {

enum class Action : std::uint8_t {
    leave,             ///< Nothing is left to do.
    cancel_migration,  ///< QEMU then resumes a guest that it had stopped.
    /// Durable: a COMMIT of this migration is void, even if it reaches the disk later.
    record_rollback,
    resume_guest,  ///< `cont`.
};

/// The next action for the journal's record and QEMU's state. `stopped`: the guest did not run when
/// the migration began, so it is not continued. The watchdog holds the journal's lock, runs the
/// action, reads both again, and repeats until the answer is `leave`.
[[nodiscard]] Action next(source::Record record, source::Qemu qemu, bool stopped);

[[nodiscard]] std::string_view name(Action action);

}  // namespace sidecar::machine::watchdog
