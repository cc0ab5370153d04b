#include "tests/bench/client_view.hpp"

#include <cstdio>
#include <ranges>
#include <sstream>

namespace bench {

using core::Json;

namespace {

/// Losses that are listed one by one on stderr, of one family in one run.
constexpr std::size_t told_max = 15;

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

lab::Argv fast_line(Load const& load) {
    lab::Argv argv{"--period", load.period_ms, "--no-tcp"};
    argv.insert(argv.end(), load.addresses.begin(), load.addresses.end());
    return argv;
}

void tell_losses(char const* who, char const* family, std::vector<Json> const& losses,
                 std::vector<Standstill> const& moves) {
    for (auto const& loss : losses | std::views::take(told_max)) {
        double const at = loss["at_ms"].number_or(0);
        auto text = fmt::format("    {} {}: {} lost there, {} back, first sent ", who, family,
                                loss["there"].integer_or(0), loss["back"].integer_or(0));
        Standstill const* nearest = nullptr;
        for (auto const& move : moves) {
            auto const away = [&](Standstill const& one) { return std::abs(one.stopped_ms - at); };
            if (!nearest || away(move) < away(*nearest)) nearest = &move;
        }
        if (nearest) {
            text += fmt::format("at STOP {:+.1f} ms, RESUME {:+.1f} ms", at - nearest->stopped_ms,
                                at - nearest->resumed_ms);
        } else {
            text += "without any move";
        }
        fmt::print(stderr, "{}\n", text);
    }
}

}  // namespace

void Sight::add(Moved const& moved) {
    downtimes.push_back(moved.downtime_ms());
    network_moved.push_back(moved.network_ms);
    for (std::size_t i = 0; i < frames.size(); ++i) {
        frames[i] += moved.frames[frame_counts[i]].number_or(0);
    }
}

void Sight::add(std::vector<Json> const& udp, std::vector<Json> const& tcp) {
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

Client::Client(lab::Lab const& net, Load const& load)
    : fast_(net, "probe-fast-" + lab::unique_suffix(), fast_line(load)),
      call_(net, "probe-call-" + lab::unique_suffix(), load.addresses),
      wire_(net.client_netns(), "up0", "inout", {"tcp", "port", "4798"},
            net.directory() / ("tcp-" + lab::unique_suffix() + ".pcap")),
      drops_before_(backlog_drops()) {
    if (!load.bulk) return;
    for (auto const& address : load.addresses) bulk_.emplace_back(net, address);
}

void Client::finish(char const* who, std::vector<Standstill> const& moves, Sight& sight) {
    auto const udp = fast_.finish();
    auto const tcp = call_.finish();
    sight.add(udp, tcp);
    std::size_t family = 0;
    for (auto& stream : bulk_) {
        stream.finish();
        auto& of = sight.families[family++];
        of.bulk_megabytes += static_cast<double>(stream.received()) / 1e6;
    }
    fmt::print(stderr, "    {}: this machine's backlogs dropped {} frames\n", who,
               backlog_drops() - drops_before_);
    auto const segments = read_tcp(wire_.finish());
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

}  // namespace bench
