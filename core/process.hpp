// Child processes: started with exactly the descriptors they are given, known by pidfd, ended by
// it. QEMU and per-guest sidecars outlive the process that starts them; what must not outlive its
// owner is killed by it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"

namespace core {

struct SpawnOptions {
    /// {ours, theirs}: our descriptor `ours` appears in the child as number `theirs` (>= 3),
    /// inherited.
    std::vector<std::pair<int, int>> descriptors;
    int stdin_fd = -1;   ///< -1: /dev/null
    int stdout_fd = -1;  ///< -1: inherited
    int stderr_fd = -1;  ///< -1: inherited
    bool new_session = false;  ///< setsid(2): survives the terminal and the signals of our group.
    std::string working_directory;  ///< Empty: ours.
};

/// Which process a recorded number means. The kernel uses numbers again; the start time tells two
/// processes of one boot apart.
struct ProcessIdentity {
    pid_t pid = -1;
    std::uint64_t start_ticks = 0;  ///< Since boot, in clock ticks: field 22 of /proc/PID/stat.
    std::string boot_id = {};  ///< /proc/sys/kernel/random/boot_id

    /// Adds `pid`, `start_ticks` and `boot_id` to an object.
    void add_to(Json& json) const;
    static ProcessIdentity from_json(Json const& json);
    friend bool operator==(ProcessIdentity const&, ProcessIdentity const&) = default;
};

class Process {
public:
    Process() = default;
    Process(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

    /// A process that another process started. Fails with closed when there is no such process.
    static Result<Process> open(pid_t pid);
    /// The same process as recorded. Fails with closed when it has ended, also when another process
    /// has its number.
    static Result<Process> open(ProcessIdentity const& recorded);

    /// To be recorded. Fails when the process has ended.
    [[nodiscard]] Result<ProcessIdentity> identity() const;
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] int pidfd() const { return pidfd_.get(); }
    explicit operator bool() const { return static_cast<bool>(pidfd_); }
    [[nodiscard]] bool running() const;
    /// Sends a signal to exactly this process, never to one that got its number later.
    Result<> signal(int number) const;

private:
    pid_t pid_ = -1;
    Fd pidfd_;
};

/// Starts argv[0] (looked up in PATH). exec failures are reported here, not by a dead child.
Result<Process> spawn(std::vector<std::string> const& argv, SpawnOptions const& options);

/// Waits for the end of the process; for a child also reaps it. The exit status as of waitpid(2),
/// or 0 when the process is no child of ours.
Task<Result<int>> wait_exit(Loop& loop, Process const& process, Deadline deadline);

/// What is written to a pipe until its other end is closed: of that, the first `bytes_max` bytes.
Task<Result<std::string>> read_to_end(Loop& loop, int fd, std::size_t bytes_max, Deadline deadline);

/// Of what a program says on stderr when it fails, so much is quoted.
constexpr std::size_t complaint_bytes_max = 1024;

/// What a program prints on stdout (at most `bytes_max`). When it fails, what it says on stderr is
/// in the error; else it is ignored. The deadline holds also for a process that it leaves behind
/// and that keeps its stderr open.
Task<Result<std::string>> output_of(Loop& loop, std::vector<std::string> argv,
                                    std::size_t bytes_max, Deadline deadline);

/// argv of a running process, from /proc. Fails when it is gone or not ours to read.
Result<std::vector<std::string>> command_line(pid_t pid);

}  // namespace core
