// The part of the handover benchmark about silences: every time above 10 ms in which a client hears
// nothing from the guest, over a whole move, with its phase. For comparison QEMU moves RAM only:
// the same guest, its disk shared by both hosts, no sidecar.
#include <algorithm>
#include <cstdio>
#include <map>

#include "tests/bench/bench.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

namespace {

using core::Json;

/// A part of a move, on the wall clock.
struct Phase {
    std::string name;
    double begin_ms = 0;
    double end_ms = 0;
};

constexpr char const* stopped = "stopped";
constexpr char const* resumed = "after RESUME";
constexpr char const* undisturbed = "undisturbed";

struct Heard {
    std::vector<double> longest;  ///< One per move.
    std::vector<double> before_stop;
    std::vector<double> at_stop;
    std::vector<double> after_resume;
    std::map<std::string, double> counts;  ///< Silences above 10 ms by phase, over all moves.
};

/// The phases of our report up to STOP, then the pause and the time after it.
std::vector<Phase> phases_of(Json const& report, Standstill const& at) {
    std::vector<Phase> phases;
    double const started = report["started_at_ms"].number_or(0);
    for (auto const& one : report["phases"].elements()) {
        double const begin = started + one["start_ms"].number_or(0);
        double const end = std::min(begin + one["ms"].number_or(0), at.stopped_ms);
        if (end > begin) phases.push_back({one["name"].text_or(""), begin, end});
    }
    return phases;
}

/// The phase that overlaps most with a silence. A silence that reaches into the pause belongs to
/// the pause.
std::string phase_of(double begin, double end, std::vector<Phase> const& phases,
                     Standstill const& at) {
    if (begin < at.resumed_ms && end > at.stopped_ms) return stopped;
    if (begin >= at.resumed_ms) return resumed;
    std::string name = undisturbed;
    double most = 0;
    for (auto const& phase : phases) {
        double const shared = std::min(end, phase.end_ms) - std::max(begin, phase.begin_ms);
        if (shared <= most) continue;
        most = shared;
        name = phase.name;
    }
    return name;
}

void note(char const* who, std::vector<Json> const& targets, std::vector<Phase> const& phases,
          Standstill const& at, Heard& heard) {
    double longest = 0;
    double before = 0;
    double around = 0;
    double after = 0;
    for (auto const& target : targets) {
        for (auto const& silence : target["udp"]["silences"].elements()) {
            double const begin = silence["at_ms"].number_or(0);
            double const span = silence["ms"].number_or(0);
            auto const phase = phase_of(begin, begin + span, phases, at);
            fmt::print(stderr,
                       "    {} {}: {:.1f} ms of silence, {}, STOP {:+.1f} ms, RESUME {:+.1f} ms\n",
                       who, target["address"].text_or(""), span, phase, begin - at.stopped_ms,
                       begin - at.resumed_ms);
            longest = std::max(longest, span);
            auto& part = phase == stopped ? around : phase == resumed ? after : before;
            part = std::max(part, span);
            ++heard.counts[phase];
        }
    }
    heard.longest.push_back(longest);
    heard.before_stop.push_back(before);
    heard.at_stop.push_back(around);
    heard.after_resume.push_back(after);
}

/// Only `migrate`, after which the destination resumes the guest by itself.
void qemu_alone(lab::GuestOptions const& guest, char const* who, Heard& heard) {
    Pair const pair(guest, true, {"-incoming", "defer"});
    lab::Qmp source(pair.guest.probe_socket(pair.net.a()));
    lab::Qmp destination(pair.guest.probe_socket(pair.net.b()));
    if (guest.rate != 0) warm_up(pair.guest);
    Probe probe(pair.net, "probe", {"--period", "1", "--no-tcp", lab::guest_ip4});
    pass(handover_settle);
    double const began = wall_ms();
    pair.start_ram(source, destination);
    auto const at = standstill(source, destination);
    pass(handover_settle);
    fmt::print(stderr, "  {}: {:.1f} ms downtime\n", who, at.resumed_ms - at.stopped_ms);
    note(who, probe.finish(), {{"converging", began, at.stopped_ms}}, at, heard);
}

void ours_alone(std::string const& qemu, int moves, Heard& ours) {
    lab::Scene scene({.guest = handover_guest(qemu)});
    lab::Argv const line{"--period", "1", "--no-tcp", lab::guest_ip4};
    for (int i = 0; i < moves; ++i) {
        Probe probe(scene.net(), "probe-" + lab::unique_suffix(), line);
        pass(handover_settle);
        auto const moved = move_with_sidecar(scene, i % 2 == 0 ? scene.a() : scene.b());
        note("ours", probe.finish(), phases_of(moved.report, moved.at), moved.at, ours);
    }
    scene.guest().must_be_whole();
}

}  // namespace

std::vector<Row> handover_silence(std::string const& qemu, int moves) {
    Heard theirs;
    Heard idle;
    Heard ours;
    auto const guest = handover_guest(qemu);
    auto idle_guest = guest;
    idle_guest.rate = 0;
    for (int i = 0; i < moves; ++i) {
        qemu_alone(guest, "RAM alone", theirs);
        qemu_alone(idle_guest, "RAM alone, idle disk", idle);
    }
    ours_alone(qemu, moves, ours);
    auto const situation = qemu + " silence";
    std::vector<Row> rows{
        {situation, "longest", "ms", ours.longest, theirs.longest, idle.longest},
        {situation, "before STOP", "ms", ours.before_stop, theirs.before_stop, idle.before_stop},
        {situation, "around STOP", "ms", ours.at_stop, theirs.at_stop, idle.at_stop},
        {situation, "after RESUME", "ms", ours.after_resume, theirs.after_resume,
         idle.after_resume}};
    for (auto const* phase : {"checking", "preparing", "copying", "converging"}) {
        rows.push_back({situation,
                        phase,
                        "silences",
                        {ours.counts[phase]},
                        {theirs.counts[phase]},
                        {idle.counts[phase]}});
    }
    return rows;
}

}  // namespace bench
