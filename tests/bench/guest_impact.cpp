// guest-impact: the latency of a guest's own writes while its disk is copied, and while the
// destination is also frozen. Ours next to QEMU's mirror in both of its modes, and next to a bare
// copy of the disk's file, on the guest's host or wholly on the other. The guest measures a
// synchronous 4 KiB write with O_DIRECT, at a modest rate, by its own clock. Except for the bare
// copy, every byte is compared at the end.
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "sidecar/host/limits.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bench/peer.hpp"
#include "tests/support/scene.hpp"

namespace bench {

namespace {

using core::Json;
using lab::Milliseconds;
using namespace std::chrono_literals;

/// The hosts' link: a copy then takes as much of the machine as on such a link.
constexpr std::uint64_t link_mbit = 1000;
/// The size of the copy, all of it random: it takes longer than both windows on that link.
constexpr std::uint64_t disk_mib = 2048;
/// Few enough that the other work of the emulated guest (ticks, its own reads) delays less than one
/// write in a hundred. With 500 the p99 of an idle guest is 1 ms in one run and 5 ms in the next.
constexpr std::uint64_t writes_per_second = 200;
/// How long latencies are measured, idle and during the copy: 1600 writes, of which 16 are above
/// the p99.
constexpr auto window = 8s;
/// How long the destination's QEMU is stopped.
constexpr auto freeze = 5s;
/// Writes after the freeze that belong to the window: the write that waited ends only then. Not
/// more: the copy continues, and ten writes are above the p99.
constexpr std::int64_t writes_after_freeze = 1;
constexpr auto copy_limit = 3min;
constexpr int own_runs = 5;

/// The guest's writes in one window, in milliseconds.
struct Latency {
    double p50 = 0;
    double p99 = 0;
    double max = 0;
};

/// The effect of one mover on the guest.
struct Impact {
    Latency idle;
    Latency copying;
    Latency frozen;
};

/// The guest of one copy, and its clock.
class Watched {
public:
    explicit Watched(lab::Guest const& guest) : guest_(guest) {}

    void begin() const { (void)guest_.ask(Json::object({{"cmd", "reset-latency"}})); }
    /// The writes since begin().
    [[nodiscard]] Latency latency() const {
        auto const now = disk();
        auto const ms = [&](char const* key) { return now[key].number_or(0) / 1000; };
        return {ms("write_p50_us"), ms("write_p99_us"), ms("write_max_us")};
    }
    [[nodiscard]] Latency over(Milliseconds span) const {
        begin();
        pass(span);
        return latency();
    }
    /// The same while a process is stopped, which may delay the guest.
    [[nodiscard]] Latency while_stopped(pid_t process) const {
        begin();
        lab::signal_process(process, SIGSTOP);
        pass(freeze);
        lab::signal_process(process, SIGCONT);
        auto const before = written();
        lab::wait_until("the guest's writing", lab::Guest::answer_limit,
                        [&] { return written() >= before + writes_after_freeze; });
        return latency();
    }
    /// From then on the disk does not change.
    void stop_writing() const { (void)guest_.ask(Json::object({{"cmd", "freeze"}})); }

private:
    [[nodiscard]] Json disk() const {
        return guest_.ask(Json::object({{"cmd", "report"}}))["disks"].elements().at(0);
    }
    [[nodiscard]] std::int64_t written() const { return disk()["writes"].integer_or(0); }
    // The length of a measurement. The guest is not queried meanwhile, because that would be
    // measured too.
    static void pass(Milliseconds span) {
        auto const until = core::Clock::now() + span;
        lab::wait_until("the end of a window", span * 2,
                        [&] { return core::Clock::now() >= until; });
    }

    lab::Guest const& guest_;
};

lab::GuestOptions guest_of(std::string const& qemu) {
    return {.name = "bench",
            .qemu = qemu,
            .blockdev = true,
            .disk_mib = disk_mib,
            .random_mib = disk_mib,
            .span_mib = 64,
            .rate = writes_per_second,
            .read_rate = 0,
            .ram_mib = 256,
            .ram_rate = 0,
            .alive_ms = 2000};  // else its own output would exceed the p99
}

constexpr unsigned source_processor = 0;
/// The other processor, or the same one if there is only one.
unsigned destination_processor() { return std::thread::hardware_concurrency() < 2 ? 0 : 1; }

/// The kernel processes the frames that the host receives on that processor.
void receive_on(lab::Host const& host, unsigned processor) {
    (void)lab::must_run(
        {"sh", "-c",
         fmt::format("echo {:x} >/sys/class/net/up0/queues/rx-0/rps_cpus", 1U << processor)},
        {host.netns, {}});
}

/// Pins everything that runs on that host, its children, and the processing of received frames to
/// one processor. The guest then shares it with its own host's work, and not with the
/// destination's, which is another machine in reality.
void pin(lab::Host const& host, unsigned processor) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(processor, &only);
    receive_on(host, processor);
    for (auto const& seen : lab::processes_in(host.netns)) {
        auto const tasks = fmt::format("/proc/{}/task", seen.pid);
        std::error_code ended;  // it may have just ended
        for (auto const& task : lab::fs::directory_iterator(tasks, ended)) {
            pid_t const number = std::atoi(task.path().filename().c_str());
            if (sched_setaffinity(number, sizeof only, &only) != 0 && errno != ESRCH) {
                throw lab::Failure("cannot pin " + task.path().string());
            }
        }
    }
}

void pin(lab::Lab const& net) {
    pin(net.a(), source_processor);
    pin(net.b(), destination_processor());
}

/// Measures both windows, and checks that the copy was running during all of them.
template <class Copying>
void watch_copy(Watched const& guest, pid_t destination, Copying const& still_copying,
                Impact& impact) {
    impact.copying = guest.over(window);
    if (!still_copying()) throw lab::Failure("the copy ended before its window");
    impact.frozen = guest.while_stopped(destination);
    if (!still_copying()) throw lab::Failure("the copy ended while the destination was frozen");
    guest.stop_writing();
}

Impact ours(std::string const& qemu) {
    lab::Scene scene({.guest = guest_of(qemu), .link_mbit = link_mbit});
    Watched const guest(scene.guest());
    pin(scene.net());
    Impact impact;
    impact.idle = guest.over(window);
    auto migration = scene.start_migration(scene.a());
    scene.wait_copied(scene.a(), 0.01);
    auto const still_copying = [&] {
        return scene.migration_on(scene.a())["phase"].text_or("") == "copying";
    };
    watch_copy(guest, scene.guest().qemu_pid(scene.b()), still_copying, impact);
    auto const ended = lab::Scene::finish(migration);
    if (ended.exit_status != 0) throw lab::Failure(ended.text());
    lab::compare_images(lab::moved_image(scene.guest().image(scene.a(), 0)), "raw",
                        scene.guest().image(scene.b(), 0));
    scene.guest().must_be_whole();
    return impact;
}

/// A guest without a sidecar, its destination, and its idle latencies.
struct Unmoved {
    explicit Unmoved(std::string const& qemu)
        : pair(guest_of(qemu), false, {"-S", "-incoming", "defer"}, link_mbit) {
        pair.guest.learn();
        pin(pair.net);
        impact.idle = guest.over(window);
    }
    [[nodiscard]] lab::fs::path image(lab::Host const& host) const {
        return pair.guest.image(host, 0);
    }
    void end() {
        pair.from->end();
        pair.to->end();
    }

    Pair pair;
    lab::Qmp destination{pair.guest.probe_socket(pair.net.b())};
    Watched guest{pair.guest};
    Impact impact;
};

Impact mirror(std::string const& qemu, char const* copy_mode) {
    Unmoved one(qemu);
    Pair& pair = one.pair;
    lab::Qmp source(pair.guest.probe_socket(pair.net.a()));
    start_mirror(pair, source, one.destination, copy_mode);
    auto const job = [&] { return source.execute("query-block-jobs").elements().at(0); };
    lab::wait_until("the mirror's first bytes", copy_limit, [&] {
        return job()["offset"].number_or(0) >= 0.01 * static_cast<double>(disk_mib << 20);
    });
    auto const copying = [&] { return !job()["ready"].boolean_or(true); };
    watch_copy(one.guest, pair.to->pid(), copying, one.impact);
    wait_mirror_ready(source);
    end_replication(source);
    one.destination.execute("nbd-server-stop");
    one.end();
    lab::compare_images(one.image(pair.net.a()), "raw", one.image(pair.net.b()));
    return one.impact;
}

/// Not a mover: a program that is independent of the guest reads the disk's file and sends it
/// unencrypted. It yields to the guest as far as ours does. On the guest's own processor it is not
/// a lower bound, because it takes more processor time than ours. On the destination's processor it
/// shows the effect of a host that is half of a machine: no part of that copy runs on the guest's
/// processor.
Impact bare(std::string const& qemu, unsigned processor) {
    Unmoved one(qemu);
    Pair& pair = one.pair;
    serve_disk(one.destination);
    receive_on(pair.net.a(), processor);
    // taskset: this process, which starts it, may run on both processors.
    lab::Daemon copy("bare",
                     {"sh", "-c",
                      fmt::format("echo {0} >/proc/self/autogroup; exec taskset -c {3} nice -n {0} "
                                  "nbdcopy --connections=4 {1} '{2}'",
                                  sidecar::limits::copy_nice_steps,
                                  one.image(pair.net.a()).string(), disk_uri(pair), processor)},
                     pair.net.a().place(), pair.net.a().logs);
    lab::wait_until("the copy's first bytes", copy_limit, [&] {
        struct stat target{};
        constexpr std::int64_t stat_unit = 512;
        return stat(one.image(pair.net.b()).c_str(), &target) == 0 &&
               target.st_blocks * stat_unit >= static_cast<std::int64_t>(disk_mib << 20) / 100;
    });
    watch_copy(one.guest, pair.to->pid(), [&] { return copy.running(); }, one.impact);
    copy.kill();
    one.end();
    return one.impact;
}

struct Mover {
    char const* name;
    Impact (*run)(std::string const& qemu);
};
constexpr std::array<Mover, 5> movers{{
    {"ours", ours},
    {"blocking", [](std::string const& qemu) { return mirror(qemu, "write-blocking"); }},
    {"backgr.", [](std::string const& qemu) { return mirror(qemu, "background"); }},
    {"bare", [](std::string const& qemu) { return bare(qemu, source_processor); }},
    {"elsewhere", [](std::string const& qemu) { return bare(qemu, destination_processor()); }},
}};
using Impacts = std::array<Impact, movers.size()>;

/// The two states in which a guest could notice, next to its idle state.
class Situation {
public:
    explicit Situation(std::string const& qemu) : qemu_(qemu) {
        for (auto const* state : {"copying", "frozen"}) {
            for (auto const* metric : {"p50", "p99", "max"}) {
                for (std::size_t peer = 1; peer < movers.size(); ++peer) {
                    rows_.push_back({fmt::format("{} {}", qemu, state),
                                     fmt::format("{} vs {}", metric, movers[peer].name),
                                     "ms",
                                     {},
                                     {},
                                     {}});
                }
            }
        }
    }
    [[nodiscard]] std::vector<Row> const& rows() const { return rows_; }

    /// Each mover once; each run starts with another one.
    void run(std::size_t number) {
        Impacts impacts;
        for (std::size_t i = 0; i < movers.size(); ++i) {
            auto const turn = (i + number) % movers.size();
            impacts[turn] = movers[turn].run(qemu_);
            tell(movers[turn], impacts[turn]);
        }
        std::size_t row = 0;
        for (auto const state : {&Impact::copying, &Impact::frozen}) {
            for (auto const part : {&Latency::p50, &Latency::p99, &Latency::max}) {
                for (std::size_t peer = 1; peer < movers.size(); ++peer, ++row) {
                    rows_[row].ours.push_back((impacts[0].*state).*part);
                    rows_[row].peer.push_back((impacts[peer].*state).*part);
                    rows_[row].floor.push_back(impacts[0].idle.*part);
                }
            }
        }
    }

private:
    void tell(Mover const& mover, Impact const& impact) const {
        auto const text = [](Latency const& one) {
            return fmt::format("{:.2f}/{:.2f}/{:.1f}", one.p50, one.p99, one.max);
        };
        fmt::print(stderr, "{} {}: p50/p99/max ms: idle {}, copying {}, frozen {}\n", qemu_,
                   mover.name, text(impact.idle), text(impact.copying), text(impact.frozen));
    }

    std::string qemu_;
    std::vector<Row> rows_;
};

}  // namespace

Result guest_impact(Options const& options) {
    // Images are in memory, unless the caller says otherwise: a disk's delays are not measured.
    (void)setenv("TMPDIR", "/dev/shm", 0);
    Result result{options.runs(own_runs, 1), {}};
    for (std::string const qemu : {"7.2", "10.0"}) {
        if (!options.wants(qemu)) continue;
        Situation situation(qemu);
        for (int run = 0; run < result.runs; ++run) situation.run(static_cast<std::size_t>(run));
        result.rows.insert(result.rows.end(), situation.rows().begin(), situation.rows().end());
    }
    return result;
}

}  // namespace bench
