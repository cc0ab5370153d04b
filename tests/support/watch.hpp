// Watch: a client that talks to the guest in both families all the time (witness-client watch):
// numbered UDP probes, a TCP echo session and a TCP stream. Its results are the client's view of a
// migration. Used by the vm tests and the benchmarks.
#pragma once

#include "tests/support/guest.hpp"

namespace lab {

class Watch {
public:
    static constexpr int default_udp_hz = 1000;

    /// Returns once every probe and session has had its first answer. `udp_hz`: probes a second in
    /// each family.
    Watch(Lab const& lab, Guest const& guest, int udp_hz = default_udp_hz);

    /// A tenth of all packets, for a test that counts sessions only: each packet costs an emulated
    /// guest processor time.
    static Watch of_sessions(Lab const& lab, Guest const& guest);

    /// Ends the watch and returns its results: one member per family, see witness-client --help.
    core::Json finish();

private:
    Daemon client_;
};

/// Throws unless every TCP session of every family is alive and its data is correct.
void must_have_kept_sessions(core::Json const& seen, GuestOptions const& guest);

}  // namespace lab
