// Processes of the tests: commands that end, daemons that are ended, and waiting for what can be
// seen. Used by every part of the lab. Blocking code for tests, never on the loop. Invariant:
// nothing waits without a limit, and what goes wrong ends the test: lab throws Failure, as Catch's
// REQUIRE does; no other code of the project throws.
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

/// Something the test relies on did not hold; the sentence says what.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Longest that a command which ends by itself may take, where the caller names no other limit.
inline constexpr Milliseconds command_limit = 60s;
/// Longest that a daemon may take to end after SIGTERM.
inline constexpr Milliseconds end_limit = 20s;
/// How often something is looked at that gives no event of its own; less often what takes longer
/// to look at.
inline constexpr Milliseconds look_interval = 10ms;

/// Where a process runs: a network namespace ("" = the test's own), and variables added to its
/// environment.
struct Place {
    std::string netns;
    std::vector<std::string> environment;  ///< "NAME=VALUE"
};

/// This thread is in a network namespace ("": where it is) as long as one of these lives: sockets
/// and taps made meanwhile belong there.
class Visit {
public:
    explicit Visit(std::string const& netns);
    ~Visit();
    Visit(Visit const&) = delete;
    Visit& operator=(Visit const&) = delete;

private:
    core::Fd home_;
};

/// What a command that has ended left behind.
struct Output {
    int exit_status = -1;  ///< 128 + signal when a signal ended it.
    std::string out;
    std::string err;
};

/// Runs a command to its end. Throws when it cannot be started or is not done within `limit` (it is
/// killed).
Output run(Argv argv, Place const& place = {}, Milliseconds limit = command_limit);
/// The same; throws, with what it wrote to stderr, unless it exits with 0. Returns its stdout.
std::string must_run(Argv argv, Place const& place = {}, Milliseconds limit = command_limit);

/// Looks again and again until `holds` is true. Throws "... did not happen within ..." past the
/// limit.
void wait_until(std::string const& what, Milliseconds limit, std::function<bool()> const& holds);

/// "1", "2", ...: for names that must differ within this process.
std::string unique_suffix();

std::string read_file(fs::path const& path);  ///< Empty when it cannot be read.
void write_file(fs::path const& path, std::string const& text);
/// Parses, or throws with the beginning of the text.
core::Json parse_json(std::string const& text);

/// The whole command line of `argv` run at `place`.
Argv command_at(Argv argv, Place const& place);

/// A process that runs until it is told to end. Its stdout and stderr go to files. Ended by pidfd;
/// the destructor kills what is still there.
class Daemon {
public:
    /// `name`: of its log files in `logs` (NAME.out, NAME.err; a second start of the same name
    /// appends).
    Daemon(std::string name, Argv argv, Place const& place, fs::path const& logs);
    ~Daemon();
    Daemon(Daemon&& other) noexcept;
    Daemon& operator=(Daemon&& other) noexcept;

    [[nodiscard]] bool running() const { return process_.running(); }
    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    void signal(int number);
    /// SIGTERM, then its exit status. Throws when it has not ended after end_limit: that is a bug
    /// of it.
    int end();
    /// SIGKILL, and waits until it is gone.
    void kill();
    /// Its exit status (as in Output) when it ends within `limit`, else nothing.
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

/// Whether something accepts connections there: a unix socket's path. Connects, and hangs up.
bool accepts(fs::path const& socket);
/// Whether a unix socket of that name is listened to, in the network namespace of `process`; asked
/// of the kernel. For QEMU's monitors: one that is connected to and left at once may take the next
/// client for the one that left.
bool listens(pid_t process, fs::path const& socket);
/// The same for TCP, asked from inside `netns`.
bool accepts(std::string const& netns, std::string const& host, int port);
/// A connected TCP socket made inside `netns`; empty when nobody accepts.
core::Fd connect_in(std::string const& netns, std::string const& host, int port);

/// A process of somebody else, found by its number: for those that the program starts itself.
struct Seen {
    pid_t pid = -1;
    char state = '?';  ///< As in /proc/PID/stat: T is stopped.
    Argv argv;
};
/// Every process inside the network namespace.
std::vector<Seen> processes_in(std::string const& netns);

}  // namespace lab
