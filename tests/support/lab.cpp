#include "tests/support/lab.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>

namespace lab {

namespace {

/// How often the reaper looks for remaining processes before it gives up on a namespace.
constexpr int sweeps_max = 200;
/// How long the test waits for its reaper.
constexpr int reaper_limit_ms = 30'000;

/// The things that the reaper removes.
struct Remains {
    std::vector<std::string> namespaces;
    fs::path directory;
};

void end_processes(std::string const& netns) {
    for (int sweep = 0; sweep < sweeps_max; ++sweep) {
        auto const left = processes_in(netns);
        if (left.empty()) return;
        for (auto const& seen : left) {
            // By pidfd, and only if it is still the process that was seen in our namespace.
            auto process = core::Process::open(seen.pid);
            if (process && core::command_line(seen.pid)) (void)process->signal(SIGKILL);
        }
        ::poll(nullptr, 0, static_cast<int>(look_interval.count()));
    }
}

void clean(Remains const& remains) {
    for (auto const& netns : remains.namespaces) {
        if (!fs::exists("/run/netns/" + netns)) continue;
        end_processes(netns);
        run({"ip", "netns", "del", netns});
    }
    if (!std::getenv("LAB_KEEP")) {
        std::error_code ignored;  // there is no one to report it to
        fs::remove_all(remains.directory, ignored);
    }
}

// The reaper waits until the other end of `alive` is closed, then cleans up and ends. It holds no
// other descriptor of the test, so that a reader of the test's output does not wait for it.
[[noreturn]] void reap_when_over(core::Fd alive, core::Fd gone, Remains const& remains) {
    setsid();
    for (int fd = 3; fd < 1024; ++fd) {
        if (fd != alive.get() && fd != gone.get()) close(fd);
    }
    core::Fd const nowhere(open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int fd = 0; fd < 3; ++fd) dup2(nowhere.get(), fd);
    char byte = 0;
    while (read(alive.get(), &byte, 1) < 0 && errno == EINTR) {
    }
    try {
        clean(remains);
    } catch (std::exception const&) {
        _exit(1);
    }
    _exit(0);
}

std::pair<core::Fd, core::Fd> pipe_pair() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) < 0) throw Failure("cannot make a pipe");
    return {core::Fd(ends[0]), core::Fd(ends[1])};
}

/// Starts the reaper as an orphan: a test runner that kills a test's children must not kill it.
std::pair<core::Fd, core::Fd> start_reaper(Remains const& remains) {
    auto [alive_read, alive_write] = pipe_pair();
    auto [gone_read, gone_write] = pipe_pair();
    pid_t const middle = fork();
    if (middle < 0) throw Failure("cannot start the reaper");
    if (middle == 0) {
        if (fork() != 0) _exit(0);
        alive_write.reset();
        gone_read.reset();
        reap_when_over(std::move(alive_read), std::move(gone_write), remains);
    }
    waitpid(middle, nullptr, 0);
    return {std::move(alive_write), std::move(gone_read)};
}

/// A namespace in which addresses are usable at once, and router advertisements are ignored.
void add_namespace(std::string const& netns) {
    ip("", {"netns", "add", netns});
    must_run({"sh", "-c",
              "cd /proc/sys/net/ipv6/conf && for i in all default; do"
              " echo 0 >$i/accept_dad; echo 0 >$i/accept_ra; done"},
             {netns, {}});
    ip(netns, {"link", "set", "lo", "up"});
}

void add_bridge(std::string const& netns, std::string const& mac) {
    // A fixed MAC: otherwise a bridge takes its ports' lowest MAC, which changes with the taps.
    ip(netns,
       {"link", "add", "name", bridge, "address", mac, "type", "bridge", "forward_delay", "0"});
    ip(netns, {"link", "set", bridge, "up"});
}

void plug_in(std::string const& netns, std::string const& into, std::string const& port) {
    ip(netns, {"link", "add", "name", "up0", "type", "veth", "peer", "name", port, "netns", into});
    ip(into, {"link", "set", port, "master", bridge, "up"});
    ip(netns, {"link", "set", "up0", "up"});
}

void add_addresses(std::string const& netns, std::string const& device, std::string const& ip4,
                   std::string const& ip6) {
    ip(netns, {"address", "add", ip4 + "/24", "dev", device});
    if (ip6.empty()) return;
    ip(netns, {"address", "add", ip6 + "/64", "dev", device, "nodad"});
}

}  // namespace

Place Host::place(std::vector<std::string> more_environment) const {
    Place place{netns, std::move(more_environment)};
    place.environment.push_back("SIDECAR_RUN_DIR=" + run_dir.string());
    place.environment.push_back("SIDECAR_STATE_DIR=" + state_dir.string());
    return place;
}

Lab::Lab(std::uint64_t link_mbit, bool hosts_ipv6) {
    if (auto const why = why_impossible(); !why.empty()) throw Failure(why);
    static std::atomic<int> count = 0;
    tag_ = fmt::format("lab{}-{}", getpid(), ++count);
    std::string pattern = (fs::temp_directory_path() / "sidecar-lab-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw Failure("cannot make " + pattern);
    directory_ = pattern;
    a_.name = "a";
    b_.name = "b";
    a_.netns = tag_ + "-a";
    b_.netns = tag_ + "-b";
    client_ = tag_ + "-client";
    switch_ = tag_ + "-switch";
    // stretch() or separate() makes the third one, add_relay() the fourth.
    std::tie(alive_, gone_) = start_reaper(
        {{a_.netns, b_.netns, tag_ + "-c", tag_ + "-d", client_, switch_}, directory_});
    make_directories();
    make_network(hosts_ipv6);
    if (link_mbit) shape(link_mbit);
}

Lab::~Lab() {
    alive_.reset();
    pollfd entry{gone_.get(), POLLIN, 0};
    ::poll(&entry, 1, reaper_limit_ms);
}

void Lab::make_directories() {
    for (Host* host : {&a_, &b_}) {
        host->directory = directory_ / host->name;
        host->images = host->directory / "images";
        host->run_dir = host->directory / "run";
        host->state_dir = host->directory / "state";
        host->logs = directory_ / ("logs-" + host->name);
        for (auto const& one : {host->images, host->run_dir, host->state_dir, host->logs}) {
            fs::create_directories(one);
        }
    }
}

void Lab::make_network(bool hosts_ipv6) {
    add_namespace(switch_);
    add_bridge(switch_, "02:00:00:00:00:ff");
    make_host(a_, 1, hosts_ipv6);
    make_host(b_, 2, hosts_ipv6);
    add_namespace(client_);
    plug_in(client_, switch_, "client");
    add_addresses(client_, "up0", "10.77.0.100", "fd77::100");
}

void Lab::make_host(Host& host, int number, bool ipv6) {
    add_namespace(host.netns);
    if (!ipv6) {
        // As an administrator does it with sysctl; `all` also applies to existing links (`lo`).
        must_run({"sh", "-c",
                  "cd /proc/sys/net/ipv6/conf && for i in all default; do"
                  " echo 1 >$i/disable_ipv6; done"},
                 {host.netns, {}});
    }
    add_bridge(host.netns, fmt::format("02:00:00:00:00:{:02x}", number));
    plug_in(host.netns, switch_, "host-" + host.name);
    ip(host.netns, {"link", "set", "up0", "master", bridge});
    host.ip4 = fmt::format("10.77.0.{}", number);
    if (ipv6) host.ip6 = fmt::format("fd77::{}", number);
    add_addresses(host.netns, bridge, host.ip4, host.ip6);
}

void Lab::shape(std::uint64_t link_mbit) {
    auto const limit = [&](std::string const& netns, std::string const& device) {
        Argv argv{"tc", "-n", netns, "qdisc"};
        if (link_mbit == 0) {
            argv.insert(argv.end(), {"del", "dev", device, "root"});
        } else {
            // Burst: 1 ms of the rate, and at least four frames of 64 KiB (segmentation happens
            // after the veth).
            auto const burst = std::max<std::uint64_t>(link_mbit * 125, 262'144);
            argv.insert(argv.end(), {"replace", "dev", device, "root", "tbf", "rate",
                                     fmt::format("{}mbit", link_mbit), "burst",
                                     std::to_string(burst), "latency", "50ms"});
        }
        must_run(argv);
    };
    for (Host const* host : {&a_, &b_}) {
        limit(host->netns, "up0");
        limit(switch_, "host-" + host->name);
    }
}

void Lab::add_wire(Host const& host, std::string const& name) const {
    auto const port = name + "-" + host.name;
    ip(host.netns,
       {"link", "add", "name", name, "type", "veth", "peer", "name", port, "netns", switch_});
    ip(host.netns, {"link", "set", name, "addrgenmode", "none", "up"});
    ip(switch_, {"link", "set", port, "addrgenmode", "none", "master", bridge, "up"});
}

void Lab::link(Host const& host, bool up) {
    ip(host.netns, {"link", "set", "up0", up ? "up" : "down"});
}

std::vector<std::string> qemus(std::string const& usual) {
    if (std::getenv("SIDECAR_TEST_ALL")) return {"7.2", "10.0"};
    return {usual};
}

std::vector<std::string> formats(std::string const& usual) {
    if (std::getenv("SIDECAR_TEST_ALL")) return {"raw", "qcow2"};
    return {usual};
}

std::string why_impossible() {
    if (geteuid() != 0) return "network namespaces and taps need root: run the tests as root";
    if (access("/dev/net/tun", R_OK | W_OK) != 0)
        return "/dev/net/tun is missing: load the module tun";
    if (!fs::exists(deps() / "guest" / "vmlinuz")) {
        return "the test guest is missing from " + deps().string() + ": run scripts/setup";
    }
    return {};
}

fs::path program(std::string const& name) {
    return fs::read_symlink("/proc/self/exe").parent_path() / name;
}

fs::path deps() {
    if (char const* named = std::getenv("SIDECAR_DEPS")) return named;
    return (fs::path(LAB_SOURCE_DIRECTORY) / ".deps").lexically_normal();
}

fs::path docs() {
    if (char const* named = std::getenv("SIDECAR_DOCS")) return named;
    return (fs::path(LAB_SOURCE_DIRECTORY) / "docs").lexically_normal();
}

Argv allow_guests(Argv const& more) {
    Argv options{"--allow-path", deps()};
    if (!fs::exists(deps() / "bin")) return options;
    // A QEMU that was started by its wrapper names itself and its data by their real paths.
    auto const real = fs::canonical(deps());
    options.insert(options.end(), {"--allow-path", real});
    if (std::ranges::find(more, "--qemu") != more.end()) return options;
    for (auto const& entry : fs::directory_iterator(deps() / "bin")) {
        if (entry.path().filename().string().starts_with("qemu-system-"))
            options.insert(options.end(), {"--qemu", entry.path()});
    }
    options.insert(options.end(), {"--qemu", "/usr/bin/qemu-system-x86_64", "--qemu",
                                   real / "bin/../qemu-10.0/usr/bin/qemu-system-x86_64"});
    for (auto const* const name : {"SIDECAR_QEMU_7_2", "SIDECAR_QEMU_10_0"}) {
        if (char const* named = std::getenv(name)) options.insert(options.end(), {"--qemu", named});
    }
    return options;
}

}  // namespace lab
