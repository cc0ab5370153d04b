// handover: what a client of a guest sees of its move, next to QEMU's own way and to no move at
// all. `sidecar probe` is the client, and the guest's witness its echo. The sender of each
// direction numbers its datagrams, so that the direction of each loss is known. The figures come
// from the client, not from our own report.
#include <array>
#include <cstdio>
#include <list>
#include <ranges>
#include <sstream>

#include "tests/bench/bench.hpp"
#include "tests/bench/flood.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

namespace {

using core::Json;
using lab::Milliseconds;
using namespace std::chrono_literals;

constexpr int moves_full = 20;
constexpr int moves_quick = 2;
/// A stream of this rate may have 5,000,000 probes: 250 s.
constexpr int moves_at_20_khz = 10;
constexpr auto control_limit = 200s;
/// Each costs the start of a QEMU, and the recovery after a killed one.
constexpr int rollbacks_max = 10;
/// Each costs the start of two QEMUs for the peer; medians of this many are stable.
constexpr int silence_moves_max = 8;
constexpr std::array families = {"ipv4", "ipv6"};
constexpr std::array ways = {"there", "back"};
/// The members of `network.frames` in a report.
constexpr std::array frame_counts = {"caught", "recovered", "replayed",
                                     "waited", "dropped",   "lost"};
/// Losses that are listed one by one on stderr, of one family in one run.
constexpr std::size_t told_max = 15;
constexpr std::array counts = {"sent", "lost", "duplicated", "reordered"};

/// A client's view, over all probes of one kind of move.
struct Sight {
    struct Family {
        std::array<std::array<double, counts.size()>, ways.size()> counted{};
        std::array<double, ways.size()> gap_ms{};
        double added_ms = 0;
        double tcp_ended = 0;
        double tcp_stall_ms = 0;
        double bulk_megabytes = 0;  ///< Bytes that came back on the bulk streams, if there are any.
    };
    std::array<Family, families.size()> families{};
    TcpSeen wire;  ///< Of all sessions, on the client's wire.
    std::vector<double> downtimes;
    /// From STOP to the guest's first frame from the destination.
    std::vector<double> network_moved;

    /// The frames in the migrations' reports; the other figures do not use them.
    std::array<double, frame_counts.size()> frames{};

    void add(Moved const& moved) {
        downtimes.push_back(moved.downtime_ms());
        network_moved.push_back(moved.network_ms);
        for (std::size_t i = 0; i < frames.size(); ++i) {
            frames[i] += moved.frames[frame_counts[i]].number_or(0);
        }
    }
    void add(std::vector<Json> const& udp, std::vector<Json> const& tcp) {
        for (std::size_t f = 0; f < udp.size(); ++f) {
            auto& one = families[f];
            auto const seen = udp[f]["udp"];
            for (std::size_t w = 0; w < ways.size(); ++w) {
                auto const way = seen[ways[w]];
                for (std::size_t c = 0; c < counts.size(); ++c) {
                    one.counted[w][c] += way[counts[c]].number_or(0);
                }
                one.gap_ms[w] = std::max(one.gap_ms[w], way["longest_gap_ms"].number_or(0));
            }
            one.added_ms = std::max(one.added_ms, seen["delay_ms"]["added"].number_or(0));
            auto const session = tcp[f]["tcp"];
            one.tcp_ended += session["ended"].number_or(0);
            one.tcp_stall_ms = std::max(one.tcp_stall_ms, session["longest_stall_ms"].number_or(0));
        }
    }
};

/// Frames that this machine dropped between two of its own interfaces, because a processor's
/// backlog was full (net.core.netdev_max_backlog): the second number of each line.
std::uint64_t backlog_drops() {
    std::istringstream lines(lab::read_file("/proc/net/softnet_stat"));
    std::uint64_t drops = 0;
    std::string processed;
    std::string dropped;
    std::string rest;
    while (lines >> processed >> dropped && std::getline(lines, rest)) {
        drops += std::stoull(dropped, nullptr, 16);
    }
    return drops;
}

/// The rate and size of the fast stream, the guest's addresses that it is sent to, and whether each
/// of them also gets a bulk TCP stream.
struct Load {
    std::string period_ms;
    std::vector<std::string> addresses;
    bool bulk = false;
};
Load const one_khz{"1", {lab::guest_ip4, lab::guest_ip6}};
Load const mixed{"1", {lab::guest_ip4, lab::guest_ip6}, true};
Load const twenty_khz{"0.05", {lab::guest_ip4}};

/// Both probes together: the fast stream of datagrams, and a telephone call with a TCP session; and
/// the bulk streams.
struct Client {
    Client(lab::Lab const& net, Load const& load)
        : fast(net, "probe-fast-" + lab::unique_suffix(), fast_line(load)),
          call(net, "probe-call-" + lab::unique_suffix(), load.addresses),
          wire(net.client_netns(), "up0", "inout", {"tcp", "port", "4798"},
               net.directory() / ("tcp-" + lab::unique_suffix() + ".pcap")) {
        if (!load.bulk) return;
        for (auto const& address : load.addresses) bulk.emplace_back(net, address);
    }
    static lab::Argv fast_line(Load const& load) {
        lab::Argv argv{"--period", load.period_ms, "--no-tcp"};
        argv.insert(argv.end(), load.addresses.begin(), load.addresses.end());
        return argv;
    }

    /// Adds the results to `sight`, and prints the times of losses on stderr.
    void finish(char const* who, std::vector<Standstill> const& moves, Sight& sight) {
        auto const udp = fast.finish();
        auto const tcp = call.finish();
        sight.add(udp, tcp);
        std::size_t family = 0;
        for (auto& stream : bulk) {
            stream.finish();
            auto& of = sight.families[family++];
            of.bulk_megabytes += static_cast<double>(stream.received()) / 1e6;
        }
        fmt::print(stderr, "    {}: this machine's backlogs dropped {} frames\n", who,
                   backlog_drops() - drops_before);
        auto const segments = read_tcp(wire.finish());
        sight.wire.segments += segments.segments;
        sight.wire.resets += segments.resets;
        sight.wire.resent += segments.resent;
        sight.wire.late += segments.late;
        for (std::size_t f = 0; f < udp.size(); ++f) {
            auto const seen = udp[f]["udp"];
            tell_losses(who, families[f], seen["losses"].elements(), moves);
            fmt::print(stderr, "    {} {}: prober {}, echo {}\n", who, families[f],
                       seen["prober"].dump(), seen["echo"].dump());
        }
    }

    static void tell_losses(char const* who, char const* family, std::vector<Json> const& losses,
                            std::vector<Standstill> const& moves) {
        for (auto const& loss : losses | std::views::take(told_max)) {
            double const at = loss["at_ms"].number_or(0);
            auto text = fmt::format("    {} {}: {} lost there, {} back, first sent ", who, family,
                                    loss["there"].integer_or(0), loss["back"].integer_or(0));
            Standstill const* nearest = nullptr;
            for (auto const& move : moves) {
                auto const away = [&](Standstill const& one) {
                    return std::abs(one.stopped_ms - at);
                };
                if (!nearest || away(move) < away(*nearest)) nearest = &move;
            }
            if (nearest) {
                text += fmt::format("at STOP {:+.1f} ms, RESUME {:+.1f} ms",
                                    at - nearest->stopped_ms, at - nearest->resumed_ms);
            } else {
                text += "without any move";
            }
            fmt::print(stderr, "{}\n", text);
        }
    }

    Probe fast;
    Probe call;
    Capture wire;
    std::list<Flood> bulk;
    std::uint64_t drops_before = backlog_drops();
};

/// Moves one guest there and back, then leaves the same guest alone for the same time.
std::pair<Sight, Sight> ours_and_control(std::string const& qemu, Load const& load, int moves) {
    lab::Scene scene({.guest = handover_guest(qemu)});
    Sight ours;
    Sight control;
    std::vector<Standstill> made;
    auto const began = core::Clock::now();
    {
        Client client(scene.net(), load);
        pass(handover_settle);
        for (int i = 0; i < moves; ++i) {
            lab::Host const& from = i % 2 == 0 ? scene.a() : scene.b();
            auto const moved = move_with_sidecar(scene, from);
            ours.add(moved);
            made.push_back(moved.at);
        }
        client.finish("ours", made, ours);
    }
    auto const took = std::chrono::duration_cast<Milliseconds>(core::Clock::now() - began);
    scene.guest().must_be_alive();
    lab::Host const& home = moves % 2 == 0 ? scene.a() : scene.b();
    auto const full = tap_drops(scene.guest(), home);
    Client client(scene.net(), load);
    pass(std::min<Milliseconds>(took, control_limit));
    fmt::print(stderr, "  control: frames that found the tap full: {} before, {} after\n", full,
               tap_drops(scene.guest(), home));
    client.finish("control", {}, control);
    scene.guest().must_be_whole();
    return {ours, control};
}

/// QEMU's own way, one direction each time: its management would start afresh too.
void peer(std::string const& qemu, Load const& load, Sight& sight) {
    Pair const pair(handover_guest(qemu), false, {"-S", "-incoming", "defer"});
    Client client(pair.net, load);
    pass(handover_settle);
    auto const moved = move_with_qemu(pair);
    sight.add(moved);
    client.finish("QEMU's", {moved.at}, sight);
}

void add_rows(Result& result, std::string const& name, Sight const& ours, Sight const& theirs,
              Sight const& control) {
    auto const add = [&](std::string situation, std::string metric, std::string unit, auto of) {
        result.rows.push_back({std::move(situation),
                               std::move(metric),
                               std::move(unit),
                               {of(ours)},
                               {of(theirs)},
                               {of(control)}});
    };
    for (std::size_t f = 0; f < families.size(); ++f) {
        if (ours.families[f].counted[0][0] == 0) continue;  // this family was not probed
        for (std::size_t w = 0; w < ways.size(); ++w) {
            auto const situation = fmt::format("{} {} {}", name, families[f], ways[w]);
            for (std::size_t c = 0; c < counts.size(); ++c) {
                add(situation, counts[c], "datagrams",
                    [&](Sight const& one) { return one.families[f].counted[w][c]; });
            }
            add(situation, "longest gap", "ms",
                [&](Sight const& one) { return one.families[f].gap_ms[w]; });
        }
        auto const family = fmt::format("{} {}", name, families[f]);
        add(family, "added delay", "ms",
            [&](Sight const& one) { return one.families[f].added_ms; });
        add(family, "tcp ended", "sessions",
            [&](Sight const& one) { return one.families[f].tcp_ended; });
        add(family, "tcp stall", "ms",
            [&](Sight const& one) { return one.families[f].tcp_stall_ms; });
        if (ours.families[f].bulk_megabytes > 0) {
            add(family, "bulk, and back", "MB",
                [&](Sight const& one) { return one.families[f].bulk_megabytes; });
        }
    }
    for (std::size_t i = 0; i < frame_counts.size(); ++i) {
        add(name, fmt::format("frames {}", frame_counts[i]), "frames",
            [&](Sight const& one) { return one.frames[i]; });
    }
    auto const number = [](std::uint64_t count) { return static_cast<double>(count); };
    add(name, "tcp segments", "segments",
        [&](Sight const& one) { return number(one.wire.segments); });
    add(name, "tcp resets", "segments", [&](Sight const& one) { return number(one.wire.resets); });
    add(name, "tcp resent", "segments", [&](Sight const& one) { return number(one.wire.resent); });
    add(name, "tcp resent late", "segments",
        [&](Sight const& one) { return number(one.wire.late); });
    result.rows.push_back({name, "network moved", "ms", ours.network_moved, theirs.network_moved,
                           control.network_moved});
    result.rows.push_back(
        {name, "downtime", "ms", ours.downtimes, theirs.downtimes, control.downtimes});
}

void compare(Result& result, std::string const& name, std::string const& qemu, Load const& load,
             int moves) {
    Sight theirs;
    for (int i = 0; i < moves; ++i) peer(qemu, load, theirs);
    auto const [ours, control] = ours_and_control(qemu, load, moves);
    add_rows(result, name, ours, theirs, control);
}

/// Moves in which the destination's QEMU is killed after STOP, so that the guest continues on the
/// source. There is no peer: no other tool undoes a move at that moment.
void rolled_back(Result& result, std::string const& qemu, int moves) {
    // QEMU's names for this program's `stopped` and `switching`.
    std::array<std::pair<char const*, char const*>, 2> constexpr moments{
        {{"stopped", "pre-switchover"}, {"switching", "device"}}};
    for (auto const& [phase, status] : moments) {
        lab::Scene scene({.guest = handover_guest(qemu)});
        Sight ours;
        std::vector<Standstill> made;
        Client client(scene.net(), one_khz);
        pass(handover_settle);
        for (int i = 0; i < moves; ++i) {
            auto const undone = undo_with_sidecar(scene, status);
            ours.add(undone);
            made.push_back(undone.at);
        }
        client.finish("undone", made, ours);
        scene.guest().must_be_whole();
        auto const first = static_cast<std::ptrdiff_t>(result.rows.size());
        add_rows(result, fmt::format("{} undone, {}", qemu, phase), ours, {}, {});
        for (auto& row : std::ranges::subrange(result.rows.begin() + first, result.rows.end())) {
            row.peer.clear();
            row.floor.clear();
            if (row.metric == "network moved") row.metric = "network back";
        }
    }
}

}  // namespace

Result handover(Options const& options) {
    Result result{1, {}};
    std::vector<std::string> const qemus =
        options.quick ? std::vector<std::string>{"10.0"} : std::vector<std::string>{"7.2", "10.0"};
    int const moves = options.runs(moves_full, moves_quick);
    for (auto const& qemu : qemus) {
        if (options.wants(qemu + " 1 kHz")) compare(result, qemu, qemu, one_khz, moves);
        if (options.wants(qemu + " mixed")) {
            compare(result, qemu + " mixed", qemu, mixed, moves);
        }
        if (options.wants(qemu + " 20 kHz")) {
            compare(result, qemu + " 20k", qemu, twenty_khz, std::min(moves, moves_at_20_khz));
        }
        if (options.wants(qemu + " rollback")) {
            rolled_back(result, qemu, std::min(moves, rollbacks_max));
        }
        if (options.wants(qemu + " bulk")) {
            auto const bulk = handover_bulk(qemu, moves);
            result.rows.insert(result.rows.end(), bulk.begin(), bulk.end());
        }
        if (options.wants(qemu + " silence")) {
            auto const silence = handover_silence(qemu, std::min(moves, silence_moves_max));
            result.rows.insert(result.rows.end(), silence.begin(), silence.end());
        }
        if (options.wants(qemu + " call")) {
            auto const call = handover_call(qemu, moves);
            result.rows.insert(result.rows.end(), call.begin(), call.end());
        }
    }
    return result;
}

}  // namespace bench
