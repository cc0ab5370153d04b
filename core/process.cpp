#include "core/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <sstream>

#include "core/sync.hpp"

namespace core {

namespace {

// The child's half, between fork and exec: only system calls. Returns errno on failure.
int become(std::vector<char*> const& argv, SpawnOptions const& options, std::vector<int>& parked) {
    if (options.new_session && setsid() < 0) return errno;
    // The parent may block signals for a signalfd and ignore SIGPIPE; its children start afresh.
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
    if (!options.working_directory.empty() && chdir(options.working_directory.c_str()) < 0)
        return errno;
    int const devnull = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (devnull < 0) return errno;
    if (dup2(options.stdin_fd >= 0 ? options.stdin_fd : devnull, 0) < 0) return errno;
    if (options.stdout_fd >= 0 && dup2(options.stdout_fd, 1) < 0) return errno;
    if (options.stderr_fd >= 0 && dup2(options.stderr_fd, 2) < 0) return errno;
    // First out of the way of every target, then each to its place: one's target may be another's
    // source.
    int floor = 3;
    for (auto const& [ours, theirs] : options.descriptors) floor = std::max(floor, theirs + 1);
    for (std::size_t i = 0; i < options.descriptors.size(); ++i) {
        parked[i] = fcntl(options.descriptors[i].first, F_DUPFD_CLOEXEC, floor);
        if (parked[i] < 0) return errno;
    }
    for (std::size_t i = 0; i < options.descriptors.size(); ++i) {
        if (dup2(parked[i], options.descriptors[i].second) < 0)
            return errno;  // clears close-on-exec
    }
    execvp(argv[0], argv.data());
    return errno;
}

}  // namespace

Result<Process> Process::open(pid_t pid) {
    int const pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) {
        if (errno == ESRCH) return fail(Errc::closed, "process {} is gone", pid);
        return fail_errno(errno, "cannot open process {}", pid);
    }
    return Process(pid, Fd(pidfd));
}

namespace {

/// What is in a small file of /proc; empty when it cannot be read.
std::string text_of(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

}  // namespace

Result<ProcessIdentity> Process::identity() const {
    auto const stat = text_of(fmt::format("/proc/{}/stat", pid_));
    // The name in field 2 may hold spaces and parentheses: count from its end.
    auto const name_end = stat.rfind(')');
    ProcessIdentity found{pid_};
    if (name_end != std::string::npos) {
        constexpr int fields_before_start = 19;  // fields 3 to 21
        std::istringstream fields(stat.substr(name_end + 1));
        std::string skipped;
        for (int field = 0; field < fields_before_start; ++field) fields >> skipped;
        fields >> found.start_ticks;
    }
    found.boot_id = text_of("/proc/sys/kernel/random/boot_id");
    found.boot_id.resize(found.boot_id.find_last_not_of('\n') + 1);
    if (found.start_ticks == 0 || !running()) return fail(Errc::closed, "process {} is gone", pid_);
    return found;
}

Result<Process> Process::open(ProcessIdentity const& recorded) {
    TRY(auto process, open(recorded.pid));
    TRY(auto const found, process.identity());
    if (found == recorded) return process;
    return fail(Errc::closed, "process {} is gone: another process has its number", recorded.pid);
}

void ProcessIdentity::add_to(Json& json) const {
    json.set("pid", static_cast<std::int64_t>(pid))
        .set("start_ticks", static_cast<std::int64_t>(start_ticks))
        .set("boot_id", boot_id);
}

ProcessIdentity ProcessIdentity::from_json(Json const& json) {
    return {static_cast<pid_t>(json["pid"].integer_or(-1)),
            static_cast<std::uint64_t>(json["start_ticks"].integer_or(0)),
            json["boot_id"].text_or("")};
}

bool Process::running() const {
    if (!pidfd_) return false;
    pollfd entry{pidfd_.get(), POLLIN, 0};
    return ::poll(&entry, 1, 0) == 0;
}

Result<> Process::signal(int number) const {
    if (syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0) < 0) {
        if (errno == ESRCH) return fail(Errc::closed, "process {} is gone", pid_);
        return fail_errno(errno, "cannot signal process {}", pid_);
    }
    return {};
}

Result<Process> spawn(std::vector<std::string> const& argv, SpawnOptions const& options) {
    std::vector<char*> pointers;
    for (auto const& word : argv) pointers.push_back(const_cast<char*>(word.c_str()));
    pointers.push_back(nullptr);
    // A close-on-exec pipe: exec closes it, a failed exec writes errno into it.
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return fail_errno(errno, "cannot make a pipe");
    Fd reader(report[0]);
    Fd writer(report[1]);
    // The report must not sit on a number that a target descriptor overwrites.
    int floor = 64;
    for (auto const& [ours, theirs] : options.descriptors) floor = std::max(floor, theirs + 64);
    writer.reset(fcntl(writer.get(), F_DUPFD_CLOEXEC, floor));
    std::vector<int> parked(
        options.descriptors.size());  // made before fork: the child must not allocate
    pid_t const pid = fork();
    if (pid < 0) return fail_errno(errno, "cannot start {}", argv[0]);
    if (pid == 0) {
        int const error = become(pointers, options, parked);
        [[maybe_unused]] auto written = ::write(writer.get(), &error, sizeof error);
        _exit(127);
    }
    writer.reset();
    int error = 0;
    if (::read(reader.get(), &error, sizeof error) == sizeof error) {
        waitpid(pid, nullptr, 0);
        return fail_errno(error, "cannot start {}", argv[0]);
    }
    return Process::open(pid);
}

Task<Result<int>> wait_exit(Loop& loop, Process const& process, Deadline deadline) {
    CO_TRY_VOID(co_await loop.poll(process.pidfd(), POLLIN, deadline));
    int status = 0;
    if (waitpid(process.pid(), &status, WNOHANG) != process.pid()) co_return 0;
    co_return status;
}

Task<Result<std::string>> read_to_end(Loop& loop, int fd, std::size_t bytes_max,
                                      Deadline deadline) {
    std::string text;
    for (;;) {
        std::byte buffer[4096];
        CO_TRY(int const got, co_await loop.read(fd, buffer, deadline));
        if (got == 0) co_return text;
        auto const room = std::min(static_cast<std::size_t>(got), bytes_max - text.size());
        text.append(reinterpret_cast<char const*>(buffer), room);
    }
}

namespace {

struct Pipe {
    Fd reader;
    Fd writer;
};

Result<Pipe> make_pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "cannot make a pipe");
    return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Task<void> read_beside(Loop& loop, int fd, std::size_t bytes_max, Deadline deadline,
                       std::string& text) {
    auto read = co_await read_to_end(loop, fd, bytes_max, std::move(deadline));
    if (read) text = std::move(*read);
}

/// The lines of `text` in one.
std::string in_one_line(std::string_view text) {
    std::string line;
    for (std::size_t at = 0; at < text.size();) {
        auto const end = std::min(text.find('\n', at), text.size());
        if (end > at) line += (line.empty() ? "" : " / ") + std::string(text.substr(at, end - at));
        at = end + 1;
    }
    return line;
}

}  // namespace

Task<Result<std::string>> output_of(Loop& loop, std::vector<std::string> argv,
                                    std::size_t bytes_max, Deadline deadline) {
    CO_TRY(auto output, make_pipe());
    CO_TRY(auto errors, make_pipe());
    SpawnOptions options;
    options.stdout_fd = output.writer.get();
    options.stderr_fd = errors.writer.get();
    CO_TRY(auto const process, spawn(argv, options));
    output.writer.reset();
    errors.writer.reset();
    std::string complaint;
    TaskGroup beside(loop);
    beside.spawn(read_beside(loop, errors.reader.get(), complaint_bytes_max, deadline, complaint));
    auto text = co_await read_to_end(loop, output.reader.get(), bytes_max, deadline);
    if (!text) (void)process.signal(SIGKILL);  // it hangs; then the waits below are short
    co_await beside.join();
    auto const status = co_await wait_exit(loop, process, Deadline::after(std::chrono::seconds(5)));
    if (!text) co_return std::unexpected(std::move(text.error()).while_doing("running " + argv[0]));
    if (status && *status != 0) {
        auto const why = in_one_line(complaint);
        co_return fail(Errc::io, "{} failed: {}", argv[0],
                       why.empty() ? text->substr(0, text->find('\n')) : why);
    }
    co_return text;
}

Result<std::vector<std::string>> command_line(pid_t pid) {
    std::ifstream file(fmt::format("/proc/{}/cmdline", pid), std::ios::binary);
    // Not by iterators: for a process that just ended they throw.
    std::ostringstream text;
    text << file.rdbuf();
    std::string const all = text.str();
    if (all.empty()) return fail(Errc::io, "cannot read the command line of process {}", pid);
    std::vector<std::string> words;
    for (std::size_t at = 0; at < all.size();) {
        std::size_t const end = std::min(all.find('\0', at), all.size());
        words.push_back(all.substr(at, end - at));
        at = end + 1;
    }
    return words;
}

}  // namespace core
