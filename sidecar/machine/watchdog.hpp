// The watchdog's rule: what it does once the sidecar of the source is dead.
//
// Used by migration/bring_back.cpp, which does it, and by tests/sim, whose world runs the same
// function. Pure. Invariant: the watchdog resumes a guest only while no COMMIT of this migration
// can count, and it leaves a guest paused only in doubt after COMMIT or when another stopped it.
#pragma once

#include "sidecar/machine/source.hpp"

namespace sidecar::machine::watchdog {

enum class Action : std::uint8_t {
    leave,             ///< Nothing is left to do.
    cancel_migration,  ///< QEMU resumes a guest that it had stopped.
    record_rollback,  ///< Durable: a COMMIT of this migration is void, also one that lands late.
    resume_guest,  ///< `cont`.
};

/// The next thing to do, given the journal's record and what QEMU does. The watchdog holds the
/// journal's lock, does it, looks at both again, and asks again until the answer is `leave`.
[[nodiscard]] Action next(source::Record record, source::Qemu qemu);

[[nodiscard]] std::string_view name(Action action);

}  // namespace sidecar::machine::watchdog
