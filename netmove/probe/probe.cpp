#include "netmove/probe/probe.hpp"

#include <algorithm>
#include <cmath>

namespace netmove {

using core::Deadline;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr double ns_per_ms = 1e6;
// Losses that are listed one by one in the JSON report; all are counted.
constexpr std::size_t losses_max = 1000;
// The shortest silence that is listed, or two periods if that is longer; and how many are.
constexpr core::milliseconds silence_min{10};
constexpr std::size_t silences_max = 1000;

double ms(std::uint64_t ns) { return static_cast<double>(ns / 1000) / 1000; }
double ms(core::Clock::duration span) {
    return ms(static_cast<std::uint64_t>(std::chrono::nanoseconds(span).count()));
}

/// One address while it is probed.
struct Running {
    Address address;
    std::unique_ptr<ProbeStream> udp;
    std::unique_ptr<ProbeSession> tcp;
};

Task<void> conclude_all(core::Loop& loop, std::vector<Running>& all) {
    core::TaskGroup scope(loop);
    for (auto& one : all) {
        scope.spawn(one.udp->conclude());
        if (one.tcp) scope.spawn(one.tcp->conclude());
    }
    co_await scope.join();
}

Task<void> send_all(core::Loop& loop, std::vector<Running>& all, Deadline deadline) {
    core::TaskGroup scope(loop);
    for (auto& one : all) scope.spawn(one.udp->send(deadline));
    co_await scope.join();
}

Json direction_json(ProbeAccount::Direction const& one) {
    auto made = Json::object({{"sent", one.sent},
                              {"lost", one.lost},
                              {"duplicated", one.duplicated},
                              {"reordered", one.reordered},
                              {"longest_gap_ms", ms(one.longest_gap_ns)}});
    if (one.longest_gap_began_ns != 0) {
        made.set("longest_gap_began_at_ms", ms(one.longest_gap_began_ns));
    }
    return made;
}

Json losses_json(std::vector<ProbeAccount::Loss> const& losses) {
    auto list = Json::array();
    for (auto const& loss : losses) {
        if (list.size() == losses_max) break;
        list.add(Json::object({{"first", loss.first},
                               {"at_ms", ms(loss.at_ns)},
                               {"probes", loss.count},
                               {"there", loss.there},
                               {"back", loss.back}}));
    }
    return list;
}

Json silences_json(ProbeAccount const& account, core::Clock::duration period) {
    auto const least = std::max<core::Clock::duration>(silence_min, 2 * period);
    auto const least_ns = std::chrono::nanoseconds(least).count();
    auto list = Json::array();
    for (auto const& one : account.silences(static_cast<std::uint64_t>(least_ns))) {
        if (list.size() == silences_max) break;
        list.add(Json::object({{"at_ms", ms(one.at_ns)}, {"ms", ms(one.ns)}}));
    }
    return list;
}

Json udp_json(ProbeReport::Target const& target, core::Clock::duration period) {
    auto const& account = target.udp;
    auto const delay = account.delay();
    auto const& hiccups = target.hiccups;
    return Json::object(
        {{"sent", std::uint64_t{account.samples().size()}},
         {"answered", account.answers()},
         {"there", direction_json(account.there())},
         {"back", direction_json(account.back())},
         {"echo_told", account.was_told()},
         {"delay_ms", Json::object({{"min", delay.min_ms},
                                    {"median", delay.median_ms},
                                    {"p99", delay.p99_ms},
                                    {"max", delay.max_ms},
                                    {"added", std::round(delay.added_ms() * 1000) / 1000}})},
         {"prober", Json::object({{"late_max_ms", ms(hiccups.late_max)},
                                  {"skipped", hiccups.skipped},
                                  {"unsent", hiccups.unsent},
                                  {"refused", hiccups.refused},
                                  {"overflowed", hiccups.overflowed},
                                  {"foreign", account.foreign()}})},
         {"echo", Json::object({{"overflowed", std::uint64_t{account.known().overflowed}},
                                {"unsent", std::uint64_t{account.known().unsent}}})},
         {"losses", losses_json(account.losses())},
         {"silences", silences_json(account, period)}});
}

Json tcp_json(ProbeTcpFigures const& tcp) {
    auto made = Json::object({{"sessions", tcp.sessions},
                              {"ended", tcp.ended},
                              {"failed", tcp.failed},
                              {"sent", tcp.sent},
                              {"answered", tcp.answered},
                              {"wrong", tcp.wrong},
                              {"held_back", tcp.held_back},
                              {"retransmitted", tcp.retransmitted},
                              {"longest_stall_ms", ms(tcp.stall.longest_ns)}});
    if (tcp.stall.longest_began_ns != 0)
        made.set("longest_stall_began_at_ms", ms(tcp.stall.longest_began_ns));
    return made;
}

std::string direction_text(char const* name, ProbeAccount::Direction const& one) {
    return fmt::format(
        "  {:<6} {} of {} lost, {} duplicated, {} reordered, longest gap {:.1f} ms\n", name,
        one.lost, one.sent, one.duplicated, one.reordered, ms(one.longest_gap_ns));
}

// What happened here and not on the way; nothing, when there is nothing to say.
std::string hiccups_text(ProbeReport::Target const& target, core::Clock::duration period) {
    auto const& here = target.hiccups;
    std::string text;
    auto const say = [&](std::uint64_t count, char const* what) {
        if (count != 0) text += fmt::format("  note   {} {}\n", count, what);
    };
    if (here.late_max > period) {
        text += fmt::format("  note   this program was up to {:.1f} ms late with sending\n",
                            ms(here.late_max));
    }
    say(here.skipped, "probes were never made: this program was suspended for more than a second");
    say(here.unsent, "probes were never made: this host had no room to send them");
    say(here.refused, "errors of this host's network or answers `unreachable`");
    say(here.overflowed, "answers arrived and were lost because this program's socket was full");
    say(target.udp.known().overflowed,
        "datagrams arrived at the echo and were lost because its socket was full");
    say(target.udp.known().unsent, "answers were never sent: the echo's host had no room");
    return text;
}

std::string target_text(ProbeReport::Target const& target, core::Clock::duration period) {
    auto text = target.address.text() + "\n";
    auto const& account = target.udp;
    if (account.answers() == 0) {
        text += fmt::format("  udp    no answer to any of {} probes\n", account.samples().size());
    } else {
        auto const delay = account.delay();
        text += direction_text("there", account.there()) + direction_text("back", account.back());
        text += fmt::format(
            "  delay  min {:.2f}, median {:.2f}, p99 {:.2f}, max {:.2f} ms: {:.2f} ms added\n",
            delay.min_ms, delay.median_ms, delay.p99_ms, delay.max_ms, delay.added_ms());
        if (!account.was_told()) {
            text +=
                "  note   the echo did not answer at the end: what was lost after the last "
                "answer counts as lost there\n";
        }
    }
    if (target.tcp) {
        auto const& tcp = *target.tcp;
        text += fmt::format(
            "  tcp    {} session{}, {} ended, {} of {} lines came back, {} wrong, "
            "{} segments sent again, longest stall {:.1f} ms\n",
            tcp.sessions, tcp.sessions == 1 ? "" : "s", tcp.ended, tcp.answered, tcp.sent,
            tcp.wrong, tcp.retransmitted, ms(tcp.stall.longest_ns));
    }
    return text + hiccups_text(target, period);
}

}  // namespace

Task<Result<ProbeReport>> probe(core::Loop& loop, ProbeSettings settings,
                                std::vector<Address> addresses, Deadline deadline) {
    std::vector<Running> all;
    for (auto const& address : addresses) {
        CO_TRY(auto stream, ProbeStream::open(loop, address, settings));
        all.push_back({address, std::move(stream), nullptr});
        if (settings.tcp) all.back().tcp = std::make_unique<ProbeSession>(loop, address, settings);
    }
    ProbeReport report;
    report.settings = settings;
    report.began_ns = wall_ns();
    core::TaskGroup scope(loop);
    // Not the deadline's: what is under way when that is over still counts.
    std::stop_source over;
    for (auto& one : all) {
        scope.spawn(one.udp->receive(over.get_token()));
        if (one.tcp) scope.spawn(one.tcp->run(over.get_token()));
    }
    co_await send_all(loop, all, deadline);
    report.ended_ns = wall_ns();
    co_await conclude_all(loop, all);
    over.request_stop();
    co_await scope.join();
    for (auto& one : all) {
        ProbeReport::Target target{
            one.address, std::move(one.udp->account()), one.udp->hiccups(), {}};
        if (one.tcp) target.tcp = one.tcp->figures();
        report.targets.push_back(std::move(target));
    }
    co_return report;
}

bool ProbeReport::measured() const {
    return std::ranges::all_of(targets, [](auto const& one) { return one.udp.answers() != 0; });
}

Json ProbeReport::json() const {
    auto list = Json::array();
    for (auto const& target : targets) {
        auto one = Json::object(
            {{"address", target.address.text()}, {"udp", udp_json(target, settings.period)}});
        if (target.tcp) one.set("tcp", tcp_json(*target.tcp));
        list.add(one);
    }
    return Json::object({{"began_at_ms", ms(began_ns)},
                         {"ended_at_ms", ms(ended_ns)},
                         {"period_ms", ms(settings.period)},
                         {"bytes", std::uint64_t{settings.bytes}},
                         {"port", std::int64_t{settings.port}},
                         {"addresses", list}});
}

std::string ProbeReport::text() const {
    auto text = fmt::format("{:.1f} s, {} bytes every {:g} ms\n",
                            static_cast<double>(ended_ns - began_ns) / ns_per_ms / 1000,
                            settings.bytes, ms(settings.period));
    for (auto const& target : targets) text += target_text(target, settings.period);
    return text;
}

}  // namespace netmove
