// What an event means for the source's machine in every phase: records, resources, connections.
//
// Used by source.cpp only. Pure. It only notes; the phases decide.
#pragma once

#include <optional>

#include "sidecar/machine/source.hpp"

namespace sidecar::machine::source {

/// Notes in `state` what `event` says about records, resources, QEMU and the peer.
void note(State& state, Event const& event);

/// The event that the machine missed while it was not connected to QEMU, whose state is now `qemu`;
/// nothing if no event is missing. QEMU's run state shows the history: it is finish-migrate or
/// postmigrate only when the guest has not run since STOP.
[[nodiscard]] std::optional<Event::Kind> missed(State const& state, Qemu qemu);

}  // namespace sidecar::machine::source
