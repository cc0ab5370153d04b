// The result of every benchmark: rows of medians, ours next to the peer and the floor, measured in
// the same run. Used by main.cpp, which prints them, and by one file per benchmark. Invariant: a
// benchmark reports its figures and never judges them.
#pragma once

#include <string>
#include <vector>

namespace bench {

/// Samples per median, unless a benchmark has a reason for another number. --quick is for a first
/// look, not for published figures.
inline constexpr int runs_full = 7;
inline constexpr int runs_quick = 3;

struct Row {
    std::string situation;  ///< Printed as `case`.
    std::string metric;
    std::string unit;
    std::vector<double> ours;  ///< One sample per run.
    std::vector<double> peer;  ///< The tools in use today.
    std::vector<double> floor;  ///< The lower bound.
};

struct Result {
    int runs = 0;
    std::vector<Row> rows;
};

struct Options {
    int asked_runs = 0;  ///< Samples per median (handover: moves); 0: the benchmark's own number.
    bool quick = false;  ///< Also less data, where the data takes the time.
    std::string only;  ///< Only cases whose name contains this text.
    [[nodiscard]] int runs(int full, int quick_runs) const {
        if (asked_runs > 0) return asked_runs;
        return quick ? quick_runs : full;
    }
    [[nodiscard]] bool wants(std::string const& situation) const {
        return situation.find(only) != std::string::npos;
    }
};

/// STOP to RESUME while a disk is being written. Peer: QEMU's blockdev-mirror + migrate. Floor:
/// QEMU's RAM-only migration of the same guest with an idle disk that both hosts share.
Result switchover(Options const& options);

/// The bulk pass of an idle disk, in MB of the virtual disk per second. Peers: nbdcopy, qemu-img
/// convert, QEMU's blockdev-mirror, and ours when it reads through QEMU's NBD server, as it does
/// for images that are not raw. Also the processor time of all processes involved, which depends
/// less on other load.
Result bulk(Options const& options);

/// Seconds until a constantly written disk is nearly converged, over a link of 400 Mbit/s. Peers:
/// QEMU's blockdev-mirror until READY, with its default granularity and with 4 KiB. If it does not
/// become READY: its limit, 60 s.
Result convergence(Options const& options);

/// Milliseconds over a line of 10, 50 and 100 ms round trip: an idle disk, then a delta of
/// scattered blocks until it is flushed. Peer: QEMU's blockdev-mirror, with its default granularity
/// and with 4 KiB. Floor of the idle disk: the line alone (bare_line.hpp).
Result distance(Options const& options);

/// Latencies of the guest's own writes, in milliseconds, while its disk is copied, and while the
/// destination is also frozen. Peers: QEMU's blockdev-mirror with copy-mode=write-blocking and
/// background, and nbdcopy reading the disk's file, next to the guest or on the destination's
/// processor. Floor: the same guest when nothing is copied.
Result guest_impact(Options const& options);

/// The cost to a guest of an idle sidecar, started by `run` or attached: bulk TCP through the
/// guest's echo, round trip, disk writes; and the sidecar's RSS and wake-ups. Peer: plain QEMU.
Result idle(Options const& options);

/// A client's view of a guest that is moved there and back: datagrams lost, duplicated and
/// reordered in each direction and family, gaps, TCP. Peer: QEMU's mirror and migrate with
/// announce-self. Floor: the same guest for the same time without migration.
Result handover(Options const& options);
/// The part of `handover` about bulk TCP: the rate of a stream before STOP, and how long after
/// RESUME the stream reaches it again.
std::vector<Row> handover_bulk(std::string const& qemu, int moves);
/// The part about silences: each above 10 ms that a client sees in a whole move, by phase. Peer:
/// QEMU moving RAM only. Floor: the same with an idle disk.
std::vector<Row> handover_silence(std::string const& qemu, int moves);
/// The part that repeats the measurements of the papers: a telephone call in each family, and its
/// timeline.
std::vector<Row> handover_call(std::string const& qemu, int moves);

/// The tunnel between two hosts: a TCP stream over links of 100 Mbit/s, 1 Gbit/s and without a
/// limit, frames of 1,400 bytes, round trip, processor time of each end, memory. Peer: the same
/// stations on the same link without a tunnel.
Result tunnel(Options const& options);

/// A client's view of a guest that moves to a host of another subnet and back, by an anchor and by
/// routes, over round trips of 0, 20 and 100 ms. Peer: QEMU's mirror and migrate, and a tunnel made
/// after the move.
Result across(Options const& options);

}  // namespace bench
