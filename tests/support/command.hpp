// Processes of the tests: commands that end, daemons that are ended, and waiting for a visible
// effect. Used by every part of the lab. Blocking code for tests, never on the loop. Invariant:
// every wait has a limit, and a failure ends the test: lab throws Failure, as Catch's REQUIRE does.
// No other code of the project throws.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/process.hpp"

namespace lab {

using namespace std::chrono_literals;
using Milliseconds = std::chrono::milliseconds;
using Argv = std::vector<std::string>;
namespace fs = std::filesystem;

/// A condition that the test relies on is false; the sentence names it.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The longest that a command may take, unless the caller gives another limit.
inline constexpr Milliseconds command_limit = 60s;
/// The longest that a daemon may take to end after SIGTERM.
inline constexpr Milliseconds end_limit = 20s;
/// How often a condition without an event is checked; less often if the check itself takes longer.
inline constexpr Milliseconds look_interval = 10ms;

/// The place of a process: a network namespace ("" = the test's own), and added environment
/// variables.
struct Place {
    std::string netns;
    std::vector<std::string> environment;  ///< "NAME=VALUE"
};

/// While one of these lives, this thread is in a network namespace ("": its own), and sockets and
/// taps that it makes belong there.
class Visit {
public:
    explicit Visit(std::string const& netns);
    ~Visit();
    Visit(Visit const&) = delete;
    Visit& operator=(Visit const&) = delete;

private:
    core::Fd home_;
};

/// The result of a command that has ended.
struct Output {
    int exit_status = -1;  ///< 128 + signal when a signal ended it.
    std::string out;
    std::string err;
};

/// Runs a command to its end. Throws when it cannot be started, or when it is not done within
/// `limit` (then it is killed).
Output run(Argv argv, Place const& place = {}, Milliseconds limit = command_limit);
/// The same; throws, with its stderr, unless it exits with 0. Returns its stdout.
std::string must_run(Argv argv, Place const& place = {}, Milliseconds limit = command_limit);
/// ip(8) with `arguments`, in a namespace ("": the machine's own); must succeed.
void ip(std::string const& netns, Argv arguments);

/// Checks `holds` until it is true. Throws "... did not happen within ..." after the limit.
void wait_until(std::string const& what, Milliseconds limit, std::function<bool()> const& holds);

/// "1", "2", ...: for names that must differ within this process.
std::string unique_suffix();

std::string read_file(fs::path const& path);  ///< Empty when it cannot be read.
void write_file(fs::path const& path, std::string const& text);
/// Parses the text, or throws with its beginning.
core::Json parse_json(std::string const& text);

/// The whole command line that runs `argv` at `place`.
Argv command_at(Argv argv, Place const& place);

/// A process that runs until it is ended. Its stdout and stderr go to files. It is ended by pidfd;
/// the destructor kills it if it still runs.
class Daemon {
public:
    /// `name`: of its log files in `logs` (NAME.out, NAME.err; a second start with the same name
    /// appends to them).
    Daemon(std::string name, Argv argv, Place const& place, fs::path const& logs);
    ~Daemon();
    Daemon(Daemon&& other) noexcept;
    Daemon& operator=(Daemon&& other) noexcept;

    [[nodiscard]] bool running() const { return process_.running(); }
    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    void signal(int number);
    /// Sends SIGTERM and returns its exit status. Throws when it has not ended after end_limit,
    /// which is a bug of the program.
    int end();
    /// Sends SIGKILL and waits until the process is gone.
    void kill();
    /// Its exit status (as in Output) if it ends within `limit`, else nothing.
    std::optional<int> wait(Milliseconds limit);
    [[nodiscard]] std::string out() const { return read_file(out_); }
    [[nodiscard]] std::string err() const { return read_file(err_); }
    [[nodiscard]] std::string const& name() const { return name_; }

private:
    std::string name_;
    fs::path out_;
    fs::path err_;
    core::Process process_;
    std::optional<int> status_;
};

/// Whether a server accepts connections on that unix socket. Connects and closes the connection.
bool accepts(fs::path const& socket);
/// Whether a process listens on that unix socket in the network namespace of `process`; the kernel
/// reports it. For QEMU's monitors: after a client that connects and leaves at once, QEMU may take
/// the next client for that one.
bool listens(pid_t process, fs::path const& socket);
/// The same for TCP, asked from inside `netns`.
bool accepts(std::string const& netns, std::string const& host, int port);
/// A TCP socket connected from inside `netns`; empty when no server accepts.
core::Fd connect_in(std::string const& netns, std::string const& host, int port);

/// A process that the test did not start itself, found by its pid: for processes that the program
/// under test starts.
struct Seen {
    pid_t pid = -1;
    char state = '?';  ///< As in /proc/PID/stat: T is stopped.
    Argv argv;
};
/// Every process inside the network namespace.
std::vector<Seen> processes_in(std::string const& netns);

}  // namespace lab
