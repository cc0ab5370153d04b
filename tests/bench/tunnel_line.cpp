#include "tests/bench/tunnel_line.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

#include "core/loop.hpp"
#include "core/sync.hpp"
#include "netmove/netlink.hpp"
#include "tests/support/command.hpp"

namespace bench {

using netmove::tunnel::Role;

namespace {

constexpr int ring_frames = 1'000;
constexpr lab::Milliseconds up_limit{20'000};

core::Fd own_namespace() {
    core::Fd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!fd) throw lab::Failure("cannot open the network namespace");
    return fd;
}

void enter(core::Fd const& space) {
    if (::setns(space.get(), CLONE_NEWNET) < 0) throw lab::Failure("cannot enter a namespace");
}

core::Fd new_namespace() {
    if (::unshare(CLONE_NEWNET) < 0) throw lab::Failure("cannot make a network namespace");
    lab::must_run({"ip", "link", "set", "lo", "up"});
    return own_namespace();
}

void sh(std::string const& command) { (void)lab::must_run({"sh", "-ec", command}); }

std::string path_of(core::Fd const& space) {
    return fmt::format("/proc/{}/fd/{}", ::getpid(), space.get());
}

core::Fd socket_in(core::Fd const& space, core::Fd const& own, int type) {
    enter(space);
    core::Fd made(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    enter(own);
    if (!made) throw lab::Failure("cannot make a socket");
    return made;
}

/// The whole life of one end's process.
int run_end(Role role, netmove::tunnel::Key const& key) {
    auto loop = core::Loop::create();
    if (!loop) return 1;
    auto const port = role == Role::listens ? netmove::tunnel::default_port : std::uint16_t{0};
    auto hub = netmove::tunnel::Hub::open(**loop, {"[::]", port});
    auto netlink = netmove::Netlink::open();
    if (!hub || !netlink) return 1;
    auto tap = netmove::Tap::open(*netlink, "tap0", {});
    if (!tap || !netmove::place_tap(*netlink, "tap0", {"brt", 0, ring_frames})) return 1;
    auto const peer = netmove::tunnel::Endpoint::parse(
        fmt::format("10.50.0.1:{}", netmove::tunnel::default_port));
    auto tunnel =
        (*hub)->add(key, role, role == Role::connects ? std::optional(*peer) : std::nullopt);
    if (!tunnel || !(*tunnel)->attach(*tap) || !(*tunnel)->forward()) return 1;
    core::Event never(**loop);
    (void)(*loop)->run([](core::Event* event) -> core::Task<core::Result<>> {
        co_return co_await event->wait(core::Deadline::never());
    }(&never));
    return 0;
}

}  // namespace

TunnelLine::TunnelLine(std::uint64_t link_mbit) : own_(own_namespace()) {
    home_ = new_namespace();
    a_ = new_namespace();
    guest_ = new_namespace();
    b_ = new_namespace();
    sh(fmt::format("ip link add wire0 type veth peer name wire0 netns {}", path_of(a_)));
    make_host(a_, home_, 1);
    make_host(b_, guest_, 2);
    shape(link_mbit);
    enter(own_);
    a_end_ = start_end(a_, Role::listens);
    b_end_ = start_end(b_, Role::connects);
    wait_until_up();
}

TunnelLine::~TunnelLine() {
    for (pid_t const end : {a_end_, b_end_}) {
        if (end <= 0) continue;
        (void)::kill(end, SIGKILL);
        (void)::waitpid(end, nullptr, 0);
    }
    (void)::setns(own_.get(), CLONE_NEWNET);
}

void TunnelLine::make_host(core::Fd const& host, core::Fd const& station, int number) {
    enter(host);
    sh(fmt::format(
        "for b in br0 brt; do ip link add $b type bridge mcast_snooping 0; ip link set $b up; done;"
        "ip addr add 10.50.0.{0}/24 dev br0; ip link set wire0 master br0 up;"
        "ip link add d1 type veth peer name d0 netns {1}; ip link set d1 master br0 up;"
        "ip link add t1 type veth peer name t0 netns {1}; ip link set t1 master brt up",
        number, path_of(station)));
    enter(station);
    sh(
        fmt::format("ip addr add 10.51.0.{0}/24 dev d0; ip link set d0 up;"
                    "ip addr add 10.52.0.{0}/24 dev t0; ip link set t0 up",
                    number));
}

void TunnelLine::shape(std::uint64_t link_mbit) {
    if (link_mbit == 0) return;
    for (auto const* host : {&a_, &b_}) {
        enter(*host);
        // A queue of 20 ms; the burst lets superframes of 64 KiB pass.
        sh(fmt::format("tc qdisc add dev wire0 root tbf rate {}mbit burst 128kb latency 20ms",
                       link_mbit));
    }
}

pid_t TunnelLine::start_end(core::Fd const& host, Role role) {
    enter(host);
    pid_t const child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::_exit(run_end(role, key_));
    }
    enter(own_);
    if (child < 0) throw lab::Failure("cannot start an end of the tunnel");
    return child;
}

void TunnelLine::wait_until_up() {
    enter(home_);
    lab::wait_until("the tunnel to carry a ping", up_limit, [] {
        return lab::run({"ping", "-c1", "-W1", guest(Way::tunnel)}).exit_status == 0;
    });
    // The path is tested by then, or soon after.
    (void)lab::run({"ping", "-c10", "-i0.1", guest(Way::tunnel)});
    (void)lab::must_run({"ping", "-c2", "-i0.1", guest(Way::direct)});
    enter(own_);
}

core::Fd TunnelLine::socket_at_home(int type) const { return socket_in(home_, own_, type); }
core::Fd TunnelLine::socket_at_guest(int type) const { return socket_in(guest_, own_, type); }

std::string TunnelLine::guest(Way way) { return way == Way::direct ? "10.51.0.2" : "10.52.0.2"; }
std::string TunnelLine::home(Way way) { return way == Way::direct ? "10.51.0.1" : "10.52.0.1"; }

double TunnelLine::cpu_seconds(char end) const {
    clockid_t clock = 0;
    timespec used{};
    if (clock_getcpuclockid(process(end), &clock) != 0 || clock_gettime(clock, &used) != 0) {
        throw lab::Failure("an end of the tunnel has ended");
    }
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

double TunnelLine::resident_mib(char end) const {
    long pages = 0;
    long resident = 0;
    auto const text = lab::read_file(fmt::format("/proc/{}/statm", process(end)));
    if (std::sscanf(text.c_str(), "%ld %ld", &pages, &resident) != 2) return 0;
    return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1048576;
}

}  // namespace bench
