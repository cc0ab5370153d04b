// idle: the cost of an idle sidecar to a guest. The same guest runs under plain QEMU, under
// `sidecar run`, and attached, measured in turn. Each has its own hosts, switch and client; while
// one is measured the others are silent.
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <sstream>

#include "tests/bench/bench.hpp"
#include "tests/bench/flood.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

namespace {

using core::Json;
using namespace std::chrono_literals;

enum class Way { plain, run, attached };
constexpr std::array ways{Way::plain, Way::run, Way::attached};

char const* name(Way way) {
    switch (way) {
        case Way::plain:
            return "plain";
        case Way::run:
            return "run";
        case Way::attached:
            return "attached";
    }
    return "";
}

/// The number of guest starts, because each start gives QEMU another memory layout; and how often
/// each guest is measured.
constexpr int starts_full = 3;
constexpr int starts_quick = 1;
constexpr int turns = 5;
/// The length of each measurement. TCP has reached its rate after the first part of its span.
constexpr auto tcp_span = 3s;
constexpr double tcp_begin_ms = 500;
constexpr auto round_trip_span = 2s;
constexpr auto disk_span = 2s;
/// More than any guest achieves.
constexpr std::int64_t rate_max = 1'000'000;
/// The span in which wake-ups are counted, and the time without traffic before it.
constexpr auto silence = 3s;
constexpr auto wake_ups_span = 10s;

lab::GuestOptions idle_guest(std::string const& qemu) {
    auto guest = handover_guest(qemu);
    guest.rate = 0;
    return guest;
}

/// A number of /proc/PID/status.
double status_of(pid_t pid, std::string const& key) {
    std::istringstream lines(lab::read_file(fmt::format("/proc/{}/status", pid)));
    std::string line;
    while (std::getline(lines, line)) {
        if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1));
    }
    throw lab::Failure(fmt::format("process {} has no {}", pid, key));
}

class Host {
public:
    Host(std::string const& qemu, Way way) : guest_(net_, idle_guest(qemu)) {
        auto const& host = net_.a();
        guest_.make_disks(host);
        guest_.make_tap(host);
        lab::Argv line{lab::program("sidecar")};
        if (way == Way::run) {
            line.insert(line.end(), {"run", guest_.name(), "--bridge", lab::bridge, "--"});
            auto const argv = guest_.command_line(host);
            line.insert(line.end(), argv.begin(), argv.end());
            sidecar_.emplace("run", line, host.place(), host.logs);
            guest_.wait_alive();
            return;
        }
        plain_.emplace(guest_.start_plainly(host));
        guest_.wait_alive();
        if (way == Way::plain) return;
        line.insert(line.end(), {"attach", guest_.name(), "--qmp", guest_.probe_socket(host)});
        sidecar_.emplace("attach", line, host.place(), host.logs);
        lab::wait_until("`sidecar attach` to answer", 20s, [&] {
            return lab::run({lab::program("sidecar"), "status", guest_.name()}, host.place())
                       .exit_status == 0;
        });
    }

    double tcp_megabytes() const {
        Flood flood(net_, lab::guest_ip4);
        double const begun = wall_ms() + tcp_begin_ms;
        pass(tcp_span);
        double const span = wall_ms() - begun;
        flood.finish();
        return flood.bytes_per_second(begun, span) / 1e6;
    }
    double round_trip_us() const {
        Probe probe(net_, "probe-" + lab::unique_suffix(),
                    {"--period", "1", "--no-tcp", lab::guest_ip4});
        pass(round_trip_span);
        return probe.finish().at(0)["udp"]["delay_ms"]["median"].number_or(0) * 1000;
    }
    double disk_writes() const {
        set_rate(rate_max);
        pass(500ms);
        auto const before = writes();
        double const begun = wall_ms();
        pass(disk_span);
        auto const after = writes();
        double const span = wall_ms() - begun;
        set_rate(0);
        return static_cast<double>(after - before) / span * 1000;
    }
    double rss_mib() const { return status_of(sidecar_->pid(), "VmRSS") / 1024; }
    /// Wake-ups of the sidecar while the guest is idle.
    double wake_ups() const {
        pass(silence);
        auto const count = [&] {
            return status_of(sidecar_->pid(), "voluntary_ctxt_switches") +
                   status_of(sidecar_->pid(), "nonvoluntary_ctxt_switches");
        };
        double const before = count();
        pass(wake_ups_span);
        return count() - before;
    }

private:
    void set_rate(std::int64_t rate) const {
        (void)guest_.ask(Json::object({{"cmd", "rate"}, {"disk", "vda"}, {"rate", rate}}));
    }
    std::int64_t writes() const {
        auto const report = guest_.ask(Json::object({{"cmd", "report"}}));
        return report["disks"].elements().at(0)["writes"].integer_or(0);
    }

    lab::Lab net_;
    lab::Guest guest_;
    std::optional<lab::Daemon> plain_;
    std::optional<lab::Daemon> sidecar_;
};

struct Figures {
    std::vector<double> tcp;
    std::vector<double> round_trip;
    std::vector<double> writes;
    std::vector<double> rss;
    std::vector<double> wake_ups;
};
using All = std::array<Figures, ways.size()>;

void measure(std::string const& qemu, All& all) {
    std::array<std::unique_ptr<Host>, ways.size()> hosts;
    for (std::size_t i = 0; i < ways.size(); ++i) {
        hosts[i] = std::make_unique<Host>(qemu, ways[i]);
    }
    for (int turn = 0; turn < turns; ++turn) {
        for (std::size_t step = 0; step < ways.size(); ++step) {
            // In both orders in turn, so that drift affects all alike.
            auto const i = turn % 2 == 0 ? step : ways.size() - 1 - step;
            auto& seen = all[i];
            seen.tcp.push_back(hosts[i]->tcp_megabytes());
            seen.round_trip.push_back(hosts[i]->round_trip_us());
            seen.writes.push_back(hosts[i]->disk_writes());
            fmt::print(stderr, "  {} {}: {:.1f} MB/s, {:.0f} us, {:.0f} writes/s\n", qemu,
                       name(ways[i]), seen.tcp.back(), seen.round_trip.back(), seen.writes.back());
        }
    }
    for (std::size_t i = 0; i < ways.size(); ++i) {
        if (ways[i] == Way::plain) continue;
        all[i].wake_ups.push_back(hosts[i]->wake_ups());
        all[i].rss.push_back(hosts[i]->rss_mib());
    }
}

}  // namespace

Result idle(Options const& options) {
    int const starts = options.runs(starts_full, starts_quick);
    Result result{starts * turns, {}};
    std::vector<std::string> const qemus =
        options.quick ? std::vector<std::string>{"10.0"} : std::vector<std::string>{"7.2", "10.0"};
    for (auto const& qemu : qemus) {
        if (!options.wants(qemu)) continue;
        All all;
        for (int i = 0; i < starts; ++i) measure(qemu, all);
        auto const& plain = all[0];
        for (std::size_t i = 1; i < ways.size(); ++i) {
            auto const situation = fmt::format("{} {}", qemu, name(ways[i]));
            auto const& ours = all[i];
            result.rows.push_back({situation, "tcp echo", "MB/s", ours.tcp, plain.tcp, {}});
            result.rows.push_back(
                {situation, "round trip", "us", ours.round_trip, plain.round_trip, {}});
            result.rows.push_back({situation, "disk writes", "1/s", ours.writes, plain.writes, {}});
            result.rows.push_back({situation, "rss", "MiB", ours.rss, {}, {}});
            result.rows.push_back({situation, "wake-ups", "in 10 s", ours.wake_ups, {}, {}});
        }
    }
    return result;
}

}  // namespace bench
