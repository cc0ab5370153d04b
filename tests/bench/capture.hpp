// Packets as they were on a wire of the lab: tcpdump writes them, we read its file. Used by the
// benchmark of handovers, which believes no log of ours. Invariant: times are the kernel's, on the
// wall's clock.
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
    std::string bytes;  ///< From the Ethernet header on, as far as they were kept.
};

class Capture {
public:
    /// Captures what passes `device` in that direction ("in", "out", "inout": as seen by it) and
    /// `filter` (pcap-filter(7)); with `count` until so many came. Returns when it listens.
    Capture(std::string const& netns, std::string const& device, std::string const& direction,
            lab::Argv const& filter, lab::fs::path const& file, int count = 0);
    /// Ends it; all that was captured. Throws when the kernel dropped some.
    std::vector<Packet> finish();

private:
    lab::fs::path file_;
    lab::Daemon tcpdump_;
};

/// What a file of tcpdump holds, up to a record that is cut off.
std::vector<Packet> read_capture(lab::fs::path const& file);

/// What the TCP segments of a capture tell of their sessions.
struct TcpSeen {
    std::uint64_t segments = 0;  ///< With data.
    std::uint64_t resets = 0;
    std::uint64_t resent = 0;  ///< Segments with data that had been sent before.
    /// Of these: 190 ms or more after those bytes were last sent. Linux's retransmission timeout is
    /// 200 ms at least, so none of the others followed one; these may have, or their session had a
    /// round trip of that length.
    std::uint64_t late = 0;
};
TcpSeen read_tcp(std::vector<Packet> const& packets);

}  // namespace bench
