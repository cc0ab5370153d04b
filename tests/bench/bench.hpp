// What every benchmark gives: rows of medians, ours beside the peer and the floor, measured in the
// same run. Used by main.cpp, which prints them, and by one file per benchmark.
// Invariant: a benchmark says what it measured, whatever the figures; it never judges.
#pragma once

#include <string>
#include <vector>

namespace bench {

/// Samples behind each median, where a benchmark has no reason for another number. --quick is for a
/// look, not for a claim.
inline constexpr int runs_full = 7;
inline constexpr int runs_quick = 3;

struct Row {
    std::string situation;  ///< Printed as `case`.
    std::string metric;
    std::string unit;
    std::vector<double> ours;  ///< One sample per run.
    std::vector<double> peer;  ///< What people use today.
    std::vector<double> floor;  ///< What cannot be beaten.
};

struct Result {
    int runs = 0;
    std::vector<Row> rows;
};

struct Options {
    int asked_runs = 0;  ///< Samples behind each median (handover: moves); 0: the benchmark's own.
    bool quick = false;  ///< Less data too, where data is what takes the time.
    std::string only;  ///< Only cases whose name holds this text.
    [[nodiscard]] int runs(int full, int quick_runs) const {
        if (asked_runs > 0) return asked_runs;
        return quick ? quick_runs : full;
    }
    [[nodiscard]] bool wants(std::string const& situation) const {
        return situation.find(only) != std::string::npos;
    }
};

/// STOP to RESUME with a disk being written. Peer: QEMU's blockdev-mirror + migrate; floor: QEMU's
/// RAM-only migration of the same guest with an idle disk that both hosts share.
Result switchover(Options const& options);

/// The bulk pass of an idle disk, in MB of the virtual disk per second. Peers: nbdcopy, qemu-img
/// convert, QEMU's blockdev-mirror, and ours when it reads through QEMU's NBD server, as it does
/// what is not raw. Beside it the processor time of all processes involved, which a busy machine
/// changes less.
Result bulk(Options const& options);

/// Seconds until a disk that is written all the time is near, behind a link of 400 Mbit/s. Peers:
/// QEMU's blockdev-mirror until READY, with its default granularity and with 4 KiB; its limit, 60
/// s, where it did not get there.
Result convergence(Options const& options);

/// The same over a line of 10, 50 and 100 ms round trip: an idle disk, and then a
/// delta of scattered blocks until it is flushed, in milliseconds. Peer: QEMU's blockdev-mirror, as
/// it comes and with a granularity of 4 KiB; floor of the first: the line alone (bare_line.hpp).
Result distance(Options const& options);

/// Latencies of the guest's own writes, in milliseconds, while its disk is copied and while the
/// destination is frozen meanwhile. Peer: QEMU's blockdev-mirror, copy-mode=write-blocking and
/// background, and nbdcopy reading the disk's file, beside the guest or on the destination's
/// processor; floor: the same guest when nothing is copied.
Result guest_impact(Options const& options);

/// What a guest loses by a sidecar that has nothing to do, started by `run` or attached: bulk TCP
/// through its echo, round trip, disk writes; and the sidecar's RSS and wake-ups. Peer: plain QEMU.
Result idle(Options const& options);

/// What a client sees while a guest is moved there and back: datagrams lost, twice and out of
/// order in each direction and family, gaps, TCP. Peer: QEMU's mirror and migrate with
/// announce-self; floor: the same guest for as long without any migration.
Result handover(Options const& options);
/// The part of it that is about bulk TCP: what a stream carried before, and how long after RESUME
/// it carries that again.
std::vector<Row> handover_bulk(std::string const& qemu, int moves);
/// The part about silences: each above 10 ms that a client sees in a whole move, by phase. Peer:
/// QEMU moving RAM alone; floor: the same with an idle disk.
std::vector<Row> handover_silence(std::string const& qemu, int moves);
/// The part that is what the papers measured: a telephone call in each family, and its timeline.
std::vector<Row> handover_call(std::string const& qemu, int moves);

}  // namespace bench
