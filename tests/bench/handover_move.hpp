// One move of a guest, ours or QEMU's, with what can be seen of it from outside. Used by the
// benchmarks of handovers. Invariant: times are QEMU's own and those of a capture at the switch,
// none is of our own log.
#pragma once

#include <string>

#include "tests/bench/capture.hpp"
#include "tests/bench/peer.hpp"
#include "tests/support/scene.hpp"

namespace bench {

/// What the client's machine still sees of a move after its end belongs to it; and so long the
/// guest is left alone before the next.
constexpr auto handover_settle = std::chrono::seconds(2);

/// `sidecar probe` on the client, to both addresses of the guest unless `more` has others. Ahead of
/// all else on this machine, since a client is one of its own in life: what it does not send while
/// it waits for a processor cannot be lost.
class Probe {
public:
    Probe(lab::Lab const& net, std::string name, lab::Argv const& more);
    /// What the probe says of each address, in their order.
    std::vector<core::Json> finish();

private:
    lab::Daemon daemon_;
};

/// Small, so that a move takes few seconds; it writes to its disk all the time.
lab::GuestOptions handover_guest(std::string const& qemu);

/// Frames for the guest that its tap on that host had no room for, since it was made: those that
/// the guest was too slow for, or that came while it stood still. "?": the tap is gone.
std::string tap_drops(lab::Guest const& guest, lab::Host const& host);

/// The length of a measurement.
void pass(lab::Milliseconds span);

struct Moved {
    Standstill at;
    /// From STOP to the guest's first frame out of the port of its new host: then the switch has
    /// learnt where it is.
    double network_ms = 0;
    core::Json frames = {};  ///< Of our report: `network.frames`.
    core::Json report = {};  ///< All of it.
    [[nodiscard]] double downtime_ms() const { return at.resumed_ms - at.stopped_ms; }
};

/// `sidecar migrate` from that host to the other, and handover_settle. Says on stderr how it was,
/// and what the report tells of the network.
Moved move_with_sidecar(lab::Scene& scene, lab::Host const& from);
/// `sidecar migrate` from host a, whose destination's QEMU is killed as soon as the source's tells
/// that status of its migration ("pre-switchover", "device"): undone, behind STOP. Of what is
/// returned, `at` is all the source's, and network_ms counts from the end of that QEMU to the
/// guest's first frame out of its old host's port behind that out of its new one; negative: the
/// network was back before the kernel had taken that QEMU's memory away.
Moved undo_with_sidecar(lab::Scene& scene, std::string const& status);
/// QEMU's blockdev-mirror, migrate, announce-self; from host a to b.
Moved move_with_qemu(Pair const& pair);

}  // namespace bench
