// The table of guests that people run: each row is moved there and back, or is refused in the check
// with its sentence. Each guest is a real QEMU without a guest but the BIOS, between two hosts on
// one network. Invariant: a row leaves nothing for the next.
#pragma once

#include <string>
#include <vector>

#include "tests/support/command.hpp"

namespace guest_table {

struct Row {
    std::string name;
    /// Of QEMU. {d} is the directory of the guest's files, which guest_files() lists; {tap} is the
    /// name of its tap.
    lab::Argv options;
    /// A part of the sentence of the refusal; empty: the guest moves.
    std::string refused = {};
    /// Instead of the options that every guest of the table has.
    lab::Argv base = {};
    std::string only = {};  ///< The only QEMU that has these options; empty: both.
    /// Given to QEMU's monitor while the guest runs: `COMMAND {"ARGUMENT": ...}`, or a command of
    /// the human monitor after `hmp `. `device_del` waits until the device is gone.
    lab::Argv then = {};
    /// The version of the swtpm that listens on {d}/swtpm.sock where the guest starts; empty: none.
    std::string tpm = {};
    /// As `refused`, for a destination whose QEMU is newer; empty: as for one of the same version.
    std::string refused_by_newer = {};
};

/// "7.2" -> "7.2" and "10.0" -> "10.0", there and back; in a full run also "7.2" -> "10.0", which
/// is not a way back that QEMU supports.
void each_row_moves_or_is_refused(std::vector<Row> const& rows);

}  // namespace guest_table
