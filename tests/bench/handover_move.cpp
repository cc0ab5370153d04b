#include "tests/bench/handover_move.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>

namespace bench {

namespace {

using namespace std::chrono_literals;

/// The longest that a probe may take to print its results after SIGTERM.
constexpr auto probe_end_limit = 30s;

lab::Argv probe_line(lab::Argv const& more) {
    lab::Argv argv{"chrt", "-f", "1", lab::program("sidecar"), "probe", "--json", "-"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
}

/// Sends SIGKILL and returns when the process has ended. Before that, the kernel frees its memory,
/// which takes longer than anything measured here.
double kill_and_see_end(pid_t pid) {
    auto process = core::Process::open(pid);
    if (!process) throw lab::Failure(process.error().sentence());
    if (auto sent = process->signal(SIGKILL); !sent) throw lab::Failure(sent.error().sentence());
    pollfd gone{process->pidfd(), POLLIN, 0};
    constexpr int limit_ms = 10'000;
    if (::poll(&gone, 1, limit_ms) != 1) throw lab::Failure("a killed QEMU did not end");
    return wall_ms();
}

class Arrival {
public:
    Arrival(lab::Lab const& net, lab::Host const& to)
        : wire_(net.switch_netns(), "host-" + to.name, "in", {"ether", "src", lab::guest_mac},
                net.directory() / ("arrival-" + lab::unique_suffix() + ".pcap"), 1) {}
    /// On the wall clock.
    double at_ms() {
        auto const packets = wire_.finish();
        if (packets.empty()) throw lab::Failure("the guest sent nothing from its new host");
        return packets.front().at_ms;
    }

private:
    Capture wire_;
};

}  // namespace

Probe::Probe(lab::Lab const& net, std::string name, lab::Argv const& more)
    : daemon_(std::move(name), probe_line(more), {net.client_netns(), {}}, net.directory()) {}

std::vector<core::Json> Probe::finish() {
    daemon_.signal(SIGINT);
    auto const status = daemon_.wait(probe_end_limit);
    if (status != 0) throw lab::Failure("sidecar probe failed: " + daemon_.err());
    return lab::parse_json(daemon_.out())["addresses"].elements();
}

lab::GuestOptions handover_guest(std::string const& qemu) {
    return {.name = "bench",
            .qemu = qemu,
            .blockdev = true,
            .disk_mib = 256,
            .random_mib = 64,
            .rate = 200,
            .read_rate = 0,
            .ram_rate = 0,
            .alive_ms = 2000};
}

std::string tap_drops(lab::Guest const& guest, lab::Host const& host) {
    auto const seen =
        lab::run({"ip", "-n", host.netns, "-s", "-j", "link", "show", "dev", guest.tap()});
    auto const parsed = core::Json::parse(seen.out);
    if (seen.exit_status != 0 || !parsed || parsed->size() == 0) return "?";
    auto const dropped = parsed->elements().front()["stats64"]["tx"]["dropped"];
    return std::to_string(dropped.integer_or(0));
}

void pass(lab::Milliseconds span) {
    auto const until = core::Clock::now() + span;
    lab::wait_until("the end of a span", span * 2 + 1s,
                    [&] { return core::Clock::now() >= until; });
}

Moved move_with_sidecar(lab::Scene& scene, lab::Host const& from) {
    lab::Host const& to = scene.net().other(from);
    Arrival arrival(scene.net(), to);
    lab::Qmp source(scene.guest().probe_socket(from));
    auto migration = scene.start_migration(from);
    lab::Qmp destination(scene.guest().probe_socket(to));
    Moved moved{standstill(source, destination, lab::Scene::migration_limit), 0, {}, {}};
    auto const full = tap_drops(scene.guest(), from);
    auto const ended = lab::Scene::finish(migration);
    if (ended.exit_status != 0) throw lab::Failure(ended.text());
    pass(handover_settle);
    moved.network_ms = arrival.at_ms() - moved.at.stopped_ms;
    auto const network = ended.report["network"];
    moved.frames = network["frames"];
    moved.report = ended.report;
    fmt::print(
        stderr,
        "  ours: {:.1f} ms downtime, network moved {:.1f} ms after STOP (the report: {:.1f}); "
        "frames that found the tap full: {} at the source, {} at the destination; {} {}\n",
        moved.downtime_ms(), moved.network_ms, ended.report["stop_to_fire_ms"].number_or(0), full,
        tap_drops(scene.guest(), to), network.dump(), ended.report["downtime"].dump());
    return moved;
}

Moved undo_with_sidecar(lab::Scene& scene, std::string const& status) {
    auto const& net = scene.net();
    Arrival arrival(net, scene.b());
    Capture wire(net.switch_netns(), "host-a", "in", {"ether", "src", lab::guest_mac},
                 net.directory() / ("back-" + lab::unique_suffix() + ".pcap"));
    lab::Qmp source(scene.guest().probe_socket(scene.a()));
    auto migration = scene.start_migration(scene.a());
    lab::Qmp const destination(scene.guest().probe_socket(scene.b()));  // now it exists
    auto const victim = scene.guest().qemu_pid(scene.b());
    source.wait_event_if(
        "MIGRATION " + status,
        [&](auto const& event) {
            return event.name == "MIGRATION" && event.data["status"].text_or("") == status;
        },
        lab::Scene::migration_limit);
    double const gone_ms = kill_and_see_end(victim);
    Moved moved{standstill(source, source), 0, {}, {}};
    auto const ended = lab::Scene::finish(migration);
    if (ended.exit_status != 1) throw lab::Failure(ended.text());
    pass(handover_settle);
    auto const packets = wire.finish();
    double const fired_ms = arrival.at_ms();
    auto const back =
        std::ranges::find_if(packets, [&](auto const& packet) { return packet.at_ms > fired_ms; });
    if (back == packets.end()) throw lab::Failure("the guest sent nothing from its old host");
    moved.network_ms = back->at_ms - gone_ms;
    auto const network = ended.report["network"];
    moved.frames = network["frames"];
    fmt::print(stderr,
               "  undone at {}: {:.1f} ms standstill, gone {:.1f} ms after STOP, fired {:.1f}, "
               "network back {:.1f} ms after that; {}\n",
               status, moved.downtime_ms(), gone_ms - moved.at.stopped_ms,
               ended.report["stop_to_fire_ms"].number_or(-1), moved.network_ms, network.dump());
    return moved;
}

Moved move_with_qemu(Pair const& pair) {
    lab::Qmp source(pair.guest.probe_socket(pair.net.a()));
    lab::Qmp destination(pair.guest.probe_socket(pair.net.b()));
    Arrival arrival(pair.net, pair.net.b());
    Moved moved{mirror_and_migrate(pair, source, destination, true), 0, {}, {}};
    auto const full = tap_drops(pair.guest, pair.net.a());
    pass(handover_settle);
    moved.network_ms = arrival.at_ms() - moved.at.stopped_ms;
    fmt::print(
        stderr,
        "  QEMU's: {:.1f} ms downtime, network moved {:.1f} ms after STOP; frames that found "
        "the tap full: {} at the source, {} at the destination\n",
        moved.downtime_ms(), moved.network_ms, full, tap_drops(pair.guest, pair.net.b()));
    return moved;
}

}  // namespace bench
