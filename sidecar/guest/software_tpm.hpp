// swtpm of a guest that comes from another host. It starts before QEMU, which fills it with the
// guest's state, and keeps that in tpm_directory(). Its only client is this QEMU, by a pair of
// sockets: no other process can reach it, and it ends when QEMU ends. Used by the checks, by the
// launch and by the destination's driver. Invariant: no other swtpm of this host is touched.
#pragma once

#include <string>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/process.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

struct SoftwareTpm {
    core::Process process;
    core::Fd qemu_end;  ///< Of the pair: for QEMU alone.
};

/// Fails with refused, saying what to do, if this host could not run the guest's TPM: no swtpm, one
/// that lacks the version or does not start, a state of a guest of this name in the way. Ok if the
/// guest has no TPM. `leftover`: that state is removed before. Leaves nothing.
core::Task<core::Result<>> check_software_tpm(core::Loop& loop, Paths const& paths,
                                              std::string program, Description const& description,
                                              bool leftover, core::Deadline deadline);

/// Starts it for the described guest, with an empty state, as the user that its QEMU has here. The
/// guest's directories exist. A description without a TPM is a fault of the program.
core::Result<SoftwareTpm> start_software_tpm(Paths const& paths, std::string const& program,
                                             Description const& description);
/// What it said last, after "; swtpm: "; empty: nothing.
std::string last_words_of_tpm(Paths const& paths, std::string const& guest);
/// Ends the swtpm that was started for the guest, and that a killed sidecar may have left. Ok if
/// there is none. Fails with timed_out.
core::Task<core::Result<>> end_software_tpm(core::Loop& loop, Paths const& paths,
                                            std::string guest);
/// Removes the state that it had, after its end.
void remove_tpm_state(Paths const& paths, std::string const& guest);
/// The guest is owned here: makes its state durable, which swtpm itself does not, and removes what
/// was set aside when it left in the migration `left_in`; empty: it never did.
void keep_tpm_state(Paths const& paths, std::string const& guest, std::string const& left_in);

}  // namespace sidecar
