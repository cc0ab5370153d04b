// What every benchmark gives: rows of medians, ours beside the peer and the floor, measured in the
// same run. Used by main.cpp, which prints them, and by one file per benchmark.
// Invariant: a benchmark says what it measured, whatever the figures; it never judges.
#pragma once

#include <string>
#include <vector>

namespace bench {

struct Row {
    std::string situation;  ///< Printed as `case`.
    std::string metric;
    std::string unit;
    std::vector<double> ours;   ///< One sample per run.
    std::vector<double> peer;   ///< What people use today.
    std::vector<double> floor;  ///< What cannot be beaten.
};

struct Result {
    int runs = 0;
    std::vector<Row> rows;
};

/// STOP to RESUME with a disk being written. Peer: QEMU's blockdev-mirror + migrate; floor: QEMU's
/// RAM-only migration of the same guest with an idle disk that both hosts share.
Result switchover(int runs);

}  // namespace bench
