// What an event tells the source's machine whatever its phase: records, resources, who is there.
//
// Used by source.cpp only. Pure. It notes and decides nothing: what follows is each phase's.
#pragma once

#include <optional>

#include "sidecar/machine/source.hpp"

namespace sidecar::machine::source {

/// Writes down what `event` says of records, of resources made or removed, of QEMU and the peer.
void note(State& state, Event const& event);

/// The event that the machine missed while it was not connected to QEMU, which now does `qemu`;
/// nothing when none is missing. QEMU's run state says how it came there: finish-migrate and
/// postmigrate only when the guest has not run since STOP.
[[nodiscard]] std::optional<Event::Kind> missed(State const& state, Qemu qemu);

}  // namespace sidecar::machine::source
