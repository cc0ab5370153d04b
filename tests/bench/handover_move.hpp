// One move of a guest, ours or QEMU's, as seen from outside. Used by the benchmarks of handovers.
// Invariant: times are QEMU's own and those of a capture at the switch, never of our own log.
#pragma once

#include <string>

#include "tests/bench/capture.hpp"
#include "tests/bench/peer.hpp"
#include "tests/support/scene.hpp"

namespace bench {

/// Effects that the client still sees for this time after a move belong to the move. The guest is
/// left alone for this time before the next one.
constexpr auto handover_settle = std::chrono::seconds(2);

/// `sidecar probe` on the client, to both addresses of the guest unless `more` has others. It has
/// the highest priority on this machine, because a client is a separate machine in reality: a probe
/// that is not sent while it waits for a processor cannot be lost.
class Probe {
public:
    Probe(lab::Lab const& net, std::string name, lab::Argv const& more);
    /// The probe's results for each address, in their order.
    std::vector<core::Json> finish();

private:
    lab::Daemon daemon_;
};

/// Small, so that a move takes few seconds; it writes to its disk all the time.
lab::GuestOptions handover_guest(std::string const& qemu);

/// Frames for the guest that its tap on that host has dropped since it was made, because the ring
/// was full: the guest was too slow or stopped. "?": the tap is gone.
std::string tap_drops(lab::Guest const& guest, lab::Host const& host);

/// The length of a measurement.
void pass(lab::Milliseconds span);

struct Moved {
    Standstill at;
    /// From STOP to the guest's first frame out of the port of its new host: then the switch knows
    /// where it is.
    double network_ms = 0;
    core::Json frames = {};  ///< `network.frames` of our report.
    core::Json report = {};  ///< The whole report.
    [[nodiscard]] double downtime_ms() const { return at.resumed_ms - at.stopped_ms; }
};

/// Runs `sidecar migrate` from that host to the other, then waits handover_settle. Prints a summary
/// on stderr, with the network part of the report.
Moved move_with_sidecar(lab::Scene& scene, lab::Host const& from);
/// Runs `sidecar migrate` from host a, and kills the destination's QEMU as soon as the source's
/// QEMU reports that status of its migration ("pre-switchover", "device"). The move is undone after
/// STOP. In the result, `at` has the source's times only. network_ms counts from the end of the
/// killed QEMU to the guest's first frame out of its old host's port that follows the frame out of
/// its new one. Negative: the network was back before the kernel had freed the killed QEMU's
/// memory.
Moved undo_with_sidecar(lab::Scene& scene, std::string const& status);
/// QEMU's blockdev-mirror, migrate, announce-self; from host a to b.
Moved move_with_qemu(Pair const& pair);

}  // namespace bench
