#include "tests/support/command.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

namespace lab {

namespace {

/// The longest that connecting to a socket of this machine may take.
constexpr Milliseconds connect_limit = 2s;
/// The wait before the next look, as a multiple of the duration of the last look, and its maximum.
constexpr int looks_apart = 3;
constexpr Milliseconds look_interval_max = 200ms;

core::Process start(Argv const& argv, int out_fd, int err_fd, bool new_session) {
    core::SpawnOptions options;
    options.new_session = new_session;
    options.stdout_fd = out_fd;
    options.stderr_fd = err_fd;
    auto started = core::spawn(argv, options);
    if (!started) throw Failure(started.error().sentence());
    return std::move(*started);
}

bool ends_within(core::Process const& process, Milliseconds limit) {
    auto const until = std::chrono::steady_clock::now() + limit;
    while (true) {
        auto const left =
            std::chrono::duration_cast<Milliseconds>(until - std::chrono::steady_clock::now());
        pollfd entry{process.pidfd(), POLLIN, 0};
        int const ready = ::poll(&entry, 1, static_cast<int>(std::max(left, 0ms).count()));
        if (ready > 0) return true;
        if (ready == 0 || errno != EINTR) return false;
    }
}

int reap(core::Process const& process) {
    int status = 0;
    if (waitpid(process.pid(), &status, 0) != process.pid()) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

core::Fd memory_file() { return core::Fd(memfd_create("output", MFD_CLOEXEC)); }

std::string content(core::Fd const& file) {
    std::string text(static_cast<std::size_t>(lseek(file.get(), 0, SEEK_END)), '\0');
    auto const got = pread(file.get(), text.data(), text.size(), 0);
    text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return text;
}

std::string joined(Argv const& argv) {
    std::string line;
    for (auto const& word : argv) line += (line.empty() ? "" : " ") + word;
    return line;
}

core::Fd open_log(fs::path const& path) {
    core::Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!file)
        throw Failure(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
    return file;
}

bool connects(int fd, sockaddr const* address, socklen_t length) {
    if (::connect(fd, address, length) == 0) return true;
    if (errno != EINPROGRESS) return false;
    pollfd entry{fd, POLLOUT, 0};
    if (::poll(&entry, 1, static_cast<int>(connect_limit.count())) != 1) return false;
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

/// A socket in `netns`; this thread does not stay there.
core::Fd socket_in(std::string const& netns, int family) {
    Visit const inside(netns);
    return core::Fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

Visit::Visit(std::string const& netns) {
    if (netns.empty()) return;
    home_ = core::Fd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    core::Fd const there(open(("/run/netns/" + netns).c_str(), O_RDONLY | O_CLOEXEC));
    if (!home_ || !there || setns(there.get(), CLONE_NEWNET) < 0)
        throw Failure("cannot enter the network namespace " + netns);
}

Visit::~Visit() {
    // A test must not continue in the wrong namespace.
    if (home_ && setns(home_.get(), CLONE_NEWNET) < 0) std::abort();
}

Argv command_at(Argv argv, Place const& place) {
    Argv whole;
    if (!place.netns.empty()) whole = {"ip", "netns", "exec", place.netns};
    if (!place.environment.empty()) {
        whole.emplace_back("env");
        whole.insert(whole.end(), place.environment.begin(), place.environment.end());
    }
    whole.insert(whole.end(), argv.begin(), argv.end());
    return whole;
}

namespace {

/// What a command has not freed when it ends is no leak, and looking for it takes half of the time
/// of a sanitized command. Daemons are looked at.
Place without_leak_check(Place place) {
#if __has_feature(address_sanitizer)
    char const* const given = std::getenv("ASAN_OPTIONS");
    place.environment.push_back(
        fmt::format("ASAN_OPTIONS={}:detect_leaks=0", given == nullptr ? "" : given));
#endif
    return place;
}

}  // namespace

Output run(Argv argv, Place const& place, Milliseconds limit) {
    bool const ours = !argv.empty() && fs::path(argv.front()).filename() == "sidecar";
    auto const whole = command_at(std::move(argv), ours ? without_leak_check(place) : place);
    core::Fd const out = memory_file();
    core::Fd const err = memory_file();
    core::Process const process = start(whole, out.get(), err.get(), false);
    if (!ends_within(process, limit)) {
        (void)process.signal(SIGKILL);  // it may end at this moment
        reap(process);
        throw Failure(fmt::format("`{}` did not end within {} ms; it wrote: {}", joined(whole),
                                  limit.count(), content(out) + content(err)));
    }
    int const status = reap(process);
    return {status, content(out), content(err)};
}

std::string must_run(Argv argv, Place const& place, Milliseconds limit) {
    auto const line = joined(argv);
    auto done = run(std::move(argv), place, limit);
    if (done.exit_status != 0) {
        throw Failure(fmt::format("`{}` ended with {}: {}", line, done.exit_status, done.err));
    }
    return std::move(done.out);
}

void wait_until(std::string const& what, Milliseconds limit, std::function<bool()> const& holds) {
    using std::chrono::steady_clock;
    auto const until = steady_clock::now() + limit;
    for (;;) {
        auto const begun = steady_clock::now();
        if (holds()) return;
        auto const looked = steady_clock::now();
        if (looked >= until) {
            throw Failure(fmt::format("{} did not happen within {} ms", what, limit.count()));
        }
        // A look that starts a program takes longer, and must not keep the machine busy.
        auto const took = std::chrono::duration_cast<Milliseconds>(looked - begun);
        ::poll(nullptr, 0,
               static_cast<int>(
                   std::clamp(took * looks_apart, look_interval, look_interval_max).count()));
    }
}

std::string unique_suffix() {
    static int count = 0;
    return std::to_string(++count);
}

std::string read_file(fs::path const& path) {
    std::ifstream file(path, std::ios::binary);
    // Not by iterators: they throw when /proc is read of a process that has just ended.
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

void write_file(fs::path const& path, std::string const& text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    if (!file.flush()) throw Failure("cannot write " + path.string());
}

core::Json parse_json(std::string const& text) {
    auto parsed = core::Json::parse(text);
    if (!parsed) throw Failure(parsed.error().sentence() + ", in: " + text.substr(0, 400));
    return std::move(*parsed);
}

Daemon::Daemon(std::string name, Argv argv, Place const& place, fs::path const& logs)
    : name_(std::move(name)), out_(logs / (name_ + ".out")), err_(logs / (name_ + ".err")) {
    auto const out = open_log(out_);
    auto const err = open_log(err_);
    // As a service manager starts it.
    process_ = start(command_at(std::move(argv), place), out.get(), err.get(), true);
}

Daemon::~Daemon() {
    if (process_ && !status_) kill();
}

Daemon::Daemon(Daemon&& other) noexcept
    : name_(std::move(other.name_)),
      out_(std::move(other.out_)),
      err_(std::move(other.err_)),
      process_(std::exchange(other.process_, {})),
      status_(other.status_) {}

Daemon& Daemon::operator=(Daemon&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(out_, other.out_);
    std::swap(err_, other.err_);
    std::swap(process_, other.process_);
    std::swap(status_, other.status_);
    return *this;
}

void Daemon::signal(int number) {
    if (auto sent = process_.signal(number); !sent)
        throw Failure(name_ + ": " + sent.error().sentence());
}

std::optional<int> Daemon::wait(Milliseconds limit) {
    if (!status_ && ends_within(process_, limit)) status_ = reap(process_);
    return status_;
}

int Daemon::end() {
    if (auto const ended = wait(0ms)) return *ended;
    signal(SIGTERM);
    auto const ended = wait(end_limit);
    if (!ended)
        throw Failure(fmt::format("{} did not end {} ms after SIGTERM", name_, end_limit.count()));
    return *ended;
}

void Daemon::kill() {
    if (status_) return;
    (void)process_.signal(SIGKILL);  // it may end at this moment
    wait(end_limit);
}

bool accepts(fs::path const& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.string().size() >= sizeof address.sun_path)
        throw Failure("too long for a socket: " + path.string());
    std::strcpy(address.sun_path, path.c_str());
    core::Fd const fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return connects(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
}

bool listens(pid_t process, fs::path const& socket) {
    // Num RefCount Protocol Flags Type St Inode Path; the flags of a listener are __SO_ACCEPTCON.
    std::ifstream sockets(fmt::format("/proc/{}/net/unix", process));
    std::string line;
    while (std::getline(sockets, line)) {
        if (line.ends_with(" " + socket.string()) && line.contains(" 00010000 ")) return true;
    }
    return false;
}

core::Fd connect_in(std::string const& netns, std::string const& host, int port) {
    bool const v6 = host.find(':') != std::string::npos;
    core::Fd fd = socket_in(netns, v6 ? AF_INET6 : AF_INET);
    if (!fd) throw Failure("cannot make a socket in " + netns + ": " + std::strerror(errno));
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(static_cast<std::uint16_t>(port));
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_port = six.sin6_port;
    void* const into = v6 ? static_cast<void*>(&six.sin6_addr) : static_cast<void*>(&four.sin_addr);
    if (inet_pton(v6 ? AF_INET6 : AF_INET, host.c_str(), into) != 1)
        throw Failure("no address: " + host);
    bool const up = v6 ? connects(fd.get(), reinterpret_cast<sockaddr*>(&six), sizeof six)
                       : connects(fd.get(), reinterpret_cast<sockaddr*>(&four), sizeof four);
    if (!up) return {};
    return fd;
}

bool accepts(std::string const& netns, std::string const& host, int port) {
    return static_cast<bool>(connect_in(netns, host, port));
}

std::vector<Seen> processes_in(std::string const& netns) {
    // Not `ip netns pids`: tests look every look_interval, and starting a program each time would
    // take more of a small machine than the work that they wait for.
    struct stat wanted{};
    if (stat(("/run/netns/" + netns).c_str(), &wanted) != 0) return {};
    std::vector<Seen> found;
    std::error_code ended;  // processes come and go meanwhile
    for (auto const& entry : fs::directory_iterator("/proc", ended)) {
        pid_t const pid = std::atoi(entry.path().filename().c_str());
        struct stat its{};
        if (pid <= 0 || stat((entry.path() / "ns" / "net").c_str(), &its) != 0) continue;
        if (its.st_ino != wanted.st_ino || its.st_dev != wanted.st_dev) continue;
        std::string const stat = read_file(fmt::format("/proc/{}/stat", pid));
        auto const name_end = stat.rfind(')');
        auto argv = core::command_line(pid);
        if (name_end == std::string::npos || name_end + 2 >= stat.size() || !argv)
            continue;  // just gone
        found.push_back({pid, stat[name_end + 2], std::move(*argv)});
    }
    return found;
}

void ip(std::string const& netns, Argv arguments) {
    Argv argv{"ip"};
    if (!netns.empty()) argv.insert(argv.end(), {"-n", netns});
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    must_run(std::move(argv));
}

}  // namespace lab
