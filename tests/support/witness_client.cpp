// witness-client: the client of the test guest's services (images/). Tests and benchmarks run it in
// the client's network namespace; it can also be used by hand. It is not part of the product.
#include "tests/support/witness_watch.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace witness_client {
namespace {

constexpr const char* usage_text =
    R"(usage: witness-client watch [--ip4 A] [--ip6 A] [--seconds S | --until-stdin-closes]
                            [--udp-hz 1000] [--tcp-hz 100] [--json] [--progress]
       witness-client ask  --ip4 A | --ip6 A | --serial SOCKET [--seconds 60]
                           COMMAND [KEY=VALUE...]
       witness-client wait [--ip4 A] [--ip6 A] [--serial SOCKET] [--seconds 60]

Talks to the test guest. With --netns NAME, from that network namespace.

  watch   numbered UDP probes, a TCP echo session and a TCP source session in each family given; at
          the end one line a family, or with --json one object {"ipv4":{...},"ipv6":{...}}.
          Writes "watching" to stderr when everything has had its first answer.
          Ends after S seconds, when stdin closes, or at SIGINT or SIGTERM.
  ask     sends one command (report, verify, "rate disk=vda rate=500", or a JSON object) to the
          control port or the serial port's socket, and prints the answer.
  wait    until the guest answers in every way given.

exit status: 0 done; 1 no answer, or the guest says ok is false; 2 usage
)";

constexpr std::uint16_t control_port = 7003;
constexpr int attempt_ms_max = 1000;  // one connection or one answer, while waiting
constexpr long between_attempts_ms = 50;
constexpr std::size_t answer_bytes_max = 1 << 20;

struct Options {
    WatchOptions watch;
    std::string serial;
    std::string netns;
    double seconds = 60;
    std::vector<std::string> words;
};

double now_s() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

/// A descriptor that is closed with its owner.
class Fd {
public:
    explicit Fd(int fd) : fd_(fd) {}
    ~Fd() {
        if (fd_ >= 0) close(fd_);
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    int get() const { return fd_; }

private:
    int fd_;
};

bool ready(int fd, short events, double until_s) {
    const double left_s = std::max(0.0, until_s - now_s());
    pollfd polled{fd, events, 0};
    return poll(&polled, 1, static_cast<int>(left_s * 1000) + 1) == 1;
}

bool connect_within(int fd, const sockaddr* address, socklen_t bytes, double until_s) {
    if (connect(fd, address, bytes) == 0) return true;
    if (errno != EINPROGRESS || !ready(fd, POLLOUT, until_s)) return false;
    int error = 0;
    socklen_t error_bytes = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes);
    return error == 0;
}

int open_control(const std::string& text, double until_s) {
    sockaddr_in in{};
    sockaddr_in6 in6{};
    const bool ipv4 = inet_pton(AF_INET, text.c_str(), &in.sin_addr) == 1;
    if (!ipv4 && inet_pton(AF_INET6, text.c_str(), &in6.sin6_addr) != 1) return -1;
    in.sin_family = AF_INET;
    in6.sin6_family = AF_INET6;
    in.sin_port = in6.sin6_port = htons(control_port);
    const int fd = socket(ipv4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const auto* address =
        ipv4 ? reinterpret_cast<sockaddr*>(&in) : reinterpret_cast<sockaddr*>(&in6);
    if (connect_within(fd, address, ipv4 ? sizeof in : sizeof in6, until_s)) return fd;
    close(fd);
    return -1;
}

int open_serial(const std::string& path, double until_s) {
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    if (path.size() >= sizeof un.sun_path) return -1;
    std::memcpy(un.sun_path, path.c_str(), path.size() + 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connect_within(fd, reinterpret_cast<sockaddr*>(&un), sizeof un, until_s)) return fd;
    close(fd);
    return -1;
}

/// Sends `line` and returns the answer's line without its line end; empty if none came in time.
std::string exchange(int fd, bool serial, const std::string& line, double until_s) {
    // On the serial port an empty line is sent first: it ends a partial line that was there before.
    const std::string text = (serial ? "\n" : "") + line + "\n";
    if (send(fd, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
        return {};
    constexpr std::string_view wrapper = "{\"answer\":";
    std::string received;
    while (received.size() < answer_bytes_max && now_s() < until_s && ready(fd, POLLIN, until_s)) {
        std::array<char, 8192> data;
        const ssize_t got = recv(fd, data.data(), data.size(), 0);
        if (got <= 0) return {};
        received.append(data.data(), static_cast<std::size_t>(got));
        for (std::size_t end = 0; (end = received.find('\n')) != std::string::npos;) {
            std::string one = received.substr(0, end);
            received.erase(0, end + 1);
            if (!serial) return one;
            if (one.starts_with(wrapper) && one.ends_with('}'))
                return one.substr(wrapper.size(), one.size() - wrapper.size() - 1);
        }
    }
    return {};
}

std::string ask_once(const std::string& where, bool serial, const std::string& line,
                     double until_s) {
    const Fd fd(serial ? open_serial(where, until_s) : open_control(where, until_s));
    return fd.get() < 0 ? std::string{} : exchange(fd.get(), serial, line, until_s);
}

bool is_number(const std::string& text) {
    return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// "rate disk=vda rate=500" as the JSON object that the guest takes.
std::string command_line(const std::vector<std::string>& words) {
    if (words.front().starts_with("{")) return words.front();
    std::string line = fmt::format(R"({{"cmd":"{}")", words.front());
    for (std::size_t i = 1; i < words.size(); ++i) {
        const std::size_t equals = words[i].find('=');
        const std::string key = words[i].substr(0, equals);
        const std::string value = equals == std::string::npos ? "1" : words[i].substr(equals + 1);
        line += is_number(value) ? fmt::format(R"(,"{}":{})", key, value)
                                 : fmt::format(R"(,"{}":"{}")", key, value);
    }
    return line + "}";
}

int ask(const Options& options) {
    const bool serial = !options.serial.empty();
    const std::string where = serial                      ? options.serial
                              : options.watch.ip4.empty() ? options.watch.ip6
                                                          : options.watch.ip4;
    const std::string line = command_line(options.words);
    const std::string answer = ask_once(where, serial, line, now_s() + options.seconds);
    if (answer.empty()) {
        fmt::print(stderr, "error: no answer from {} to {}\n", where, line);
        return 1;
    }
    fmt::print("{}\n", answer);
    return answer.starts_with("{\"ok\":true") ? 0 : 1;
}

int wait_for_guest(const Options& options) {
    const double until_s = now_s() + options.seconds;
    for (const auto& [where, serial] : {std::pair(options.serial, true),
                                        {options.watch.ip4, false},
                                        {options.watch.ip6, false}}) {
        if (where.empty()) continue;
        while (ask_once(where, serial, "report", std::min(until_s, now_s() + attempt_ms_max / 1e3))
                   .empty()) {
            if (now_s() > until_s) {
                fmt::print(stderr, "error: no answer from {} in {} s\n", where, options.seconds);
                return 1;
            }
            const timespec pause{0, between_attempts_ms * 1'000'000};
            nanosleep(&pause, nullptr);
        }
    }
    return 0;
}

bool enter_namespace(const std::string& name) {
    const std::string path = "/run/netns/" + name;
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() >= 0 && setns(fd.get(), CLONE_NEWNET) == 0) return true;
    fmt::print(stderr, "error: cannot enter network namespace {}: {}\n", name,
               std::strerror(errno));
    return false;
}

int usage_error() {
    fmt::print(stderr, "{}", usage_text);
    return 2;
}

/// Fills `options`; returns an exit status when the program must end here.
std::optional<int> parse(int argc, char** argv, Options& options) {
    enum Option {
        ip4 = 256,
        ip6,
        serial,
        netns,
        seconds,
        until_stdin,
        udp_hz,
        tcp_hz,
        json,
        progress,
        help
    };
    const std::array<option, 12> known{{{"ip4", 1, nullptr, ip4},
                                        {"ip6", 1, nullptr, ip6},
                                        {"serial", 1, nullptr, serial},
                                        {"netns", 1, nullptr, netns},
                                        {"seconds", 1, nullptr, seconds},
                                        {"until-stdin-closes", 0, nullptr, until_stdin},
                                        {"udp-hz", 1, nullptr, udp_hz},
                                        {"tcp-hz", 1, nullptr, tcp_hz},
                                        {"json", 0, nullptr, json},
                                        {"progress", 0, nullptr, progress},
                                        {"help", 0, nullptr, help},
                                        {}}};
    for (int found = 0; (found = getopt_long(argc, argv, "", known.data(), nullptr)) != -1;) {
        switch (found) {
            case ip4:
                options.watch.ip4 = optarg;
                break;
            case ip6:
                options.watch.ip6 = optarg;
                break;
            case serial:
                options.serial = optarg;
                break;
            case netns:
                options.netns = optarg;
                break;
            case seconds:
                options.watch.seconds = options.seconds = std::strtod(optarg, nullptr);
                break;
            case until_stdin:
                options.watch.seconds.reset();
                break;
            case udp_hz:
                options.watch.udp_hz = std::strtoull(optarg, nullptr, 10);
                break;
            case tcp_hz:
                options.watch.tcp_hz = std::strtoull(optarg, nullptr, 10);
                break;
            case json:
                options.watch.json = true;
                break;
            case progress:
                options.watch.progress = true;
                break;
            case help:
                fmt::print("{}", usage_text);
                return 0;
            default:
                return usage_error();
        }
    }
    options.words.assign(argv + optind, argv + argc);
    return std::nullopt;
}

}  // namespace
}  // namespace witness_client

int main(int argc, char** argv) {
    using namespace witness_client;
    Options options;
    if (const auto status = parse(argc, argv, options)) return *status;
    if (options.words.empty()) return usage_error();
    const std::string what = options.words.front();
    options.words.erase(options.words.begin());
    const bool network = !options.watch.ip4.empty() || !options.watch.ip6.empty();
    if (!network && (what == "watch" || options.serial.empty())) return usage_error();
    if (!options.netns.empty() && !enter_namespace(options.netns)) return 1;
    if (what == "watch" && options.words.empty()) return watch(options.watch);
    if (what == "ask" && !options.words.empty()) return ask(options);
    if (what == "wait" && options.words.empty()) return wait_for_guest(options);
    return usage_error();
}
