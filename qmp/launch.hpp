// Starting a QEMU. Its monitor's listening socket is made by us and inherited by it, so there is no
// moment in which the socket exists and does not answer: connect at once, and the greeting comes
// when QEMU is up, or the end of the connection when it dies. Used by `run` and `serve`. Invariant:
// a QEMU that did not come up is gone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/process.hpp"
#include "qmp/client.hpp"
#include "qmp/command_line.hpp"

namespace qmp {

/// The number under which a launched QEMU inherits its monitor's socket; taps come after it.
inline constexpr int qmp_fd_in_qemu = 3;
inline constexpr int first_tap_fd_in_qemu = 4;

struct LaunchRequest {
    /// Made by CommandLine::for_launch or for_destination with qmp_fd = qmp_fd_in_qemu.
    CommandLine command_line;
    /// {ours, in QEMU}: taps and whatever else the command line names. Ours stay ours.
    std::vector<std::pair<int, int>> descriptors = {};
    std::string qmp_socket;  ///< Path of the monitor's socket; its directory must exist.
    /// QEMU's stderr, and its stdout unless inherited; made anew, mode 0600.
    std::string log_file;
    std::string working_directory = {};  ///< Empty: ours.
    bool inherit_stdio = false;  ///< stdin and stdout are ours (for -nographic in the foreground).
};

struct Launched {
    core::Process process;
    std::unique_ptr<Client> client;
};

/// Starts QEMU in a session of its own (it outlives us) and waits until its monitor answers.
/// Fails with refused when a QEMU answers on that socket already; with closed when QEMU ended
/// early: the sentence quotes the last lines of its stderr; on any failure the process is killed
/// and reaped.
Task<Result<Launched>> launch(Loop& loop, LaunchRequest request, Deadline deadline);

/// The last lines of a file, for quoting; empty when there are none.
std::string last_words(std::string const& file);

/// "QEMU has ended", with the signal that killed it and the last lines of its log, as far as they
/// are known. `status`: as of waitpid(2); 0 if another waiter has it.
std::string how_qemu_ended(int status, std::string const& log_file);

}  // namespace qmp
