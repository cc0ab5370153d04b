// The part of the handover benchmark that repeats the measurements of the papers: a telephone call,
// as G.711 sends it (210 bytes of datagram every 20 ms each way), and a TCP session, in each
// family, while the guest moves. The first move's timeline is kept as a picture.
#include <array>
#include <cstdio>
#include <filesystem>

#include "tests/bench/bench.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

namespace {

using core::Json;

constexpr std::array families = {"ipv4", "ipv6"};
constexpr std::array ways = {"there", "back"};

struct Call {
    std::array<double, ways.size()> sent{};
    std::array<double, ways.size()> lost{};
    std::array<std::vector<double>, ways.size()> gap_ms;
    std::vector<double> added_ms;
    std::vector<double> tcp_stall_ms;
    double tcp_ended = 0;
};
using Calls = std::array<Call, families.size()>;

/// Where pictures are kept: next to the programs, in the build directory.
std::filesystem::path picture(std::string const& who, std::string const& qemu) {
    return std::filesystem::path(lab::program("sidecar")).parent_path() /
           fmt::format("call-{}-{}.svg", who, qemu);
}

/// Calls the guest, moves it, and ends the call.
template <class Move>
void during(lab::Lab const& net, std::string const& who, std::string const& qemu, bool keep,
            Calls& calls, Move move) {
    auto const report = net.directory() / ("moments-" + lab::unique_suffix() + ".json");
    lab::Argv line{lab::guest_ip4, lab::guest_ip6};
    if (keep) line.insert(line.begin(), {"--svg", picture(who, qemu), "--report", report});
    Probe probe(net, "probe-" + lab::unique_suffix(), line);
    pass(handover_settle);
    Moved const moved = move();
    // From the captures, not from our own report: the same for both ways.
    lab::write_file(report, Json::object({{"stopped_at_ms", moved.at.stopped_ms},
                                          {"fired_at_ms", moved.at.stopped_ms + moved.network_ms},
                                          {"resumed_at_ms", moved.at.resumed_ms}})
                                .dump());
    auto const seen = probe.finish();
    for (std::size_t f = 0; f < families.size(); ++f) {
        auto& call = calls[f];
        auto const udp = seen[f]["udp"];
        for (std::size_t w = 0; w < ways.size(); ++w) {
            auto const way = udp[ways[w]];
            call.sent[w] += way["sent"].number_or(0);
            call.lost[w] += way["lost"].number_or(0);
            call.gap_ms[w].push_back(way["longest_gap_ms"].number_or(0));
        }
        call.added_ms.push_back(udp["delay_ms"]["added"].number_or(0));
        call.tcp_stall_ms.push_back(seen[f]["tcp"]["longest_stall_ms"].number_or(0));
        call.tcp_ended += seen[f]["tcp"]["ended"].number_or(0);
        fmt::print(stderr, "    {} {}: lost {} there, {} back; gaps {:.0f}, {:.0f} ms\n", who,
                   families[f], udp["there"]["lost"].integer_or(0),
                   udp["back"]["lost"].integer_or(0), call.gap_ms[0].back(), call.gap_ms[1].back());
    }
}

}  // namespace

std::vector<Row> handover_call(std::string const& qemu, int moves) {
    Calls theirs;
    Calls ours;
    for (int i = 0; i < moves; ++i) {
        Pair const pair(handover_guest(qemu), false, {"-S", "-incoming", "defer"});
        during(pair.net, "qemu", qemu, i == 0, theirs, [&] { return move_with_qemu(pair); });
    }
    lab::Scene scene({.guest = handover_guest(qemu)});
    for (int i = 0; i < moves; ++i) {
        during(scene.net(), "ours", qemu, i == 0, ours,
               [&] { return move_with_sidecar(scene, i % 2 == 0 ? scene.a() : scene.b()); });
    }
    scene.guest().must_be_whole();

    std::vector<Row> rows;
    for (std::size_t f = 0; f < families.size(); ++f) {
        auto const situation = fmt::format("{} call {}", qemu, families[f]);
        for (std::size_t w = 0; w < ways.size(); ++w) {
            auto const way = fmt::format("{} {}", situation, ways[w]);
            rows.push_back({way, "sent", "datagrams", {ours[f].sent[w]}, {theirs[f].sent[w]}, {}});
            rows.push_back({way, "lost", "datagrams", {ours[f].lost[w]}, {theirs[f].lost[w]}, {}});
            rows.push_back({way, "longest gap", "ms", ours[f].gap_ms[w], theirs[f].gap_ms[w], {}});
        }
        rows.push_back({situation, "added delay", "ms", ours[f].added_ms, theirs[f].added_ms, {}});
        rows.push_back(
            {situation, "tcp stall", "ms", ours[f].tcp_stall_ms, theirs[f].tcp_stall_ms, {}});
        rows.push_back(
            {situation, "tcp ended", "sessions", {ours[f].tcp_ended}, {theirs[f].tcp_ended}, {}});
    }
    return rows;
}

}  // namespace bench
