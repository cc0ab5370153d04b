// Packets as they were on a wire of the lab: tcpdump writes them, this code reads its file. Used by
// the benchmark of handovers, which does not rely on our own logs. Invariant: times are the
// kernel's, on the wall clock.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/command.hpp"

namespace bench {

/// Now, on the clock of captures and of QEMU's events: milliseconds since 1970.
double wall_ms();

struct Packet {
    double at_ms = 0;  ///< Since 1970.
    std::string bytes;  ///< From the Ethernet header on, up to the captured length.
};

class Capture {
public:
    /// Captures the frames that pass `device` in that direction ("in", "out", "inout", as seen by
    /// it) and match `filter` (pcap-filter(7)); with `count` only that many. Returns when it
    /// listens.
    Capture(std::string const& netns, std::string const& device, std::string const& direction,
            lab::Argv const& filter, lab::fs::path const& file, int count = 0);
    /// Ends the capture and returns it. Throws if the kernel dropped frames.
    std::vector<Packet> finish();

private:
    lab::fs::path file_;
    lab::Daemon tcpdump_;
};

/// The packets of a tcpdump file, up to a truncated record.
std::vector<Packet> read_capture(lab::fs::path const& file);

/// The TCP segments of a capture, by session.
struct TcpSeen {
    std::uint64_t segments = 0;  ///< With data.
    std::uint64_t resets = 0;
    std::uint64_t resent = 0;  ///< Segments with data that was sent before.
    /// The part of `resent` that came 190 ms or more after those bytes were last sent. Linux's
    /// retransmission timeout is at least 200 ms, so none of the others followed a timeout. These
    /// may have, or their session had a round trip of that length.
    std::uint64_t late = 0;
};
TcpSeen read_tcp(std::vector<Packet> const& packets);

}  // namespace bench
