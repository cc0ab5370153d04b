// `sidecar probe`: what a client of the guest sees of a migration. Runs a UDP stream and a TCP
// session to each address, and says what became of them, as text, as JSON and as a timeline (SVG).
// Used by sidecar/probe_command.cpp. Invariant: nothing is judged; what cannot be known is said to
// be unknown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "netmove/probe/stream.hpp"

namespace netmove {

struct ProbeReport {
    struct Target {
        Address address;
        ProbeAccount udp;
        ProbeHiccups hiccups;
        std::optional<ProbeTcpFigures> tcp;
    };
    ProbeSettings settings;
    std::uint64_t began_ns = 0;  ///< CLOCK_REALTIME.
    std::uint64_t ended_ns = 0;
    std::vector<Target> targets;

    /// False: there is an address that never answered, so that nothing was measured.
    [[nodiscard]] bool measured() const;
    [[nodiscard]] core::Json json() const;
    [[nodiscard]] std::string text() const;
};

/// Probes all addresses until `deadline`, or until the first account is full. Fails when a socket
/// cannot be made or an address has no route.
core::Task<core::Result<ProbeReport>> probe(core::Loop& loop, ProbeSettings settings,
                                            std::vector<Address> addresses,
                                            core::Deadline deadline);

/// A moment of a migration, to be marked in the timeline.
struct ProbeMark {
    std::string name;
    std::uint64_t at_ns = 0;  ///< CLOCK_REALTIME of the host that saw it.
};
/// One timeline for each address: the delay of each probe, those that were lost, and the marks.
std::string probe_svg(ProbeReport const& report, std::vector<ProbeMark> const& marks);

}  // namespace netmove
