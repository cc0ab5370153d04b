// `sidecar probe` without a network: its wire format, the accounting of numbered streams, the
// answers of an echo, and the report.
#include <catch2/catch.hpp>

#include "netmove/probe/echo.hpp"
#include "netmove/probe/probe.hpp"

namespace netmove_probe_cases {

using namespace netmove;
using namespace std::chrono_literals;
using Kind = ProbeDatagram::Kind;
using Seen = NumberTracker::Seen;

namespace {

constexpr std::uint64_t ms = 1'000'000;

ProbeDatagram probe_of(std::uint64_t session, std::uint64_t number) {
    ProbeDatagram made;
    made.session = session;
    made.number = number;
    return made;
}

/// A prober and an echo. The test carries the datagrams. One probe is sent each millisecond.
struct Pair {
    ProbeSessions echo;
    ProbeAccount account;
    std::uint64_t now = 1000 * ms;

    ProbeDatagram send() {
        now += ms;
        auto made = probe_of(7, account.sent(now));
        made.sent_ns = now;
        return made;
    }
    /// Both ways, or one of them.
    void round() { come(*arrive(send())); }
    std::optional<ProbeDatagram> arrive(ProbeDatagram const& one) { return echo.answer(one, now); }
    void come(ProbeDatagram const& answer) { account.answered(answer, now + ms / 2); }
    void tell() {
        auto ask = probe_of(7, 0);
        ask.kind = Kind::ask;
        account.told(echo.answer(ask, now)->known);
    }
};

}  // namespace

TEST_CASE("probe: datagrams are read as they were written", "[probe]") {
    ProbeDatagram made;
    made.kind = Kind::answer;
    made.session = 0x0123456789abcdef;
    made.number = UINT64_MAX;
    made.sent_ns = 3;
    made.serial = 4;
    made.received_ns = 5;
    made.known = {6, 7, 8, 9, 10, 11};
    std::vector<std::byte> room(210, std::byte{0xff});
    write_probe(made, room);
    CHECK(parse_probe(room) == made);
    CHECK(parse_probe(std::span(room).first(probe_bytes_min)) == made);
    CHECK(std::ranges::all_of(room.begin() + probe_bytes_min, room.end(),
                              [](auto byte) { return byte == std::byte{0}; }));
    CHECK_FALSE(parse_probe(std::span(room).first(probe_bytes_min - 1)));
    for (auto const [at, value] : {std::pair(0, 'X'), {8, '\0'}, {8, '\5'}}) {
        auto spoilt = room;
        spoilt[static_cast<std::size_t>(at)] = std::byte(value);
        CHECK_FALSE(parse_probe(spoilt));
    }
}

TEST_CASE("probe: lines of TCP", "[probe]") {
    CHECK(probe_line(255) == "00000000000000ff\n");
    CHECK(probe_line(0).size() == probe_line_bytes);
    CHECK(parse_probe_line(probe_line(UINT64_MAX)) == UINT64_MAX);
    for (auto const* wrong : {"", "00000000000000ff", "00000000000000fg\n", "0x000000000000ff\n",
                              "-000000000000001\n", "00000000000000ff0\n"}) {
        INFO(wrong);
        CHECK_FALSE(parse_probe_line(wrong));
    }
}

TEST_CASE("probe: what a stream lost, duplicated and reordered is reported", "[probe]") {
    NumberTracker tracker;
    CHECK(tracker.arrived(0, 10 * ms) == Seen::in_order);
    CHECK(tracker.arrived(1, 20 * ms) == Seen::in_order);
    CHECK(tracker.arrived(4, 50 * ms) == Seen::in_order);
    CHECK(tracker.arrived(3, 51 * ms) == Seen::reordered);
    CHECK(tracker.arrived(3, 90 * ms) == Seen::duplicate);
    CHECK(tracker.arrived(4, 90 * ms) == Seen::duplicate);
    CHECK(tracker.seen() == 4);
    CHECK(tracker.duplicated() == 2);
    CHECK(tracker.reordered() == 1);
    CHECK(tracker.highest() == 4);
    CHECK(tracker.gap().longest_ns == 30 * ms);
    CHECK(tracker.gap().longest_began_ns == 20 * ms);
}

TEST_CASE("probe: the window moves on, and what is older than it is reported as too late",
          "[probe]") {
    constexpr auto window = NumberTracker::window;
    NumberTracker tracker;
    // Each slot of the window is used several times; every third number is lost.
    for (std::uint64_t number = 0; number < 3 * window; ++number) {
        if (number % 3 != 0) REQUIRE(tracker.arrived(number, number) == Seen::in_order);
    }
    CHECK(tracker.seen() == 2 * window);
    CHECK(tracker.highest() == 3 * window - 1);
    // 2 * window is not a multiple of 3; nor is the number before it.
    CHECK(tracker.arrived(2 * window, 1) == Seen::duplicate);
    CHECK(tracker.arrived(2 * window - 1, 1) == Seen::too_late);
    CHECK(tracker.arrived(3 * window - 3, 1) == Seen::reordered);
    CHECK(tracker.arrived(UINT64_MAX, 1) == Seen::in_order);
    CHECK(tracker.arrived(UINT64_MAX - window + 1, 1) == Seen::reordered);
    CHECK(tracker.arrived(3 * window, 1) == Seen::too_late);
    CHECK(tracker.too_late() == 2);
}

TEST_CASE("probe: a clock that is set back makes no gap", "[probe]") {
    ArrivalGap gap;
    for (std::uint64_t const at : {100U, 110U, 50U, 115U}) gap.arrived(at);
    CHECK(gap.longest_ns == 10);
    CHECK(gap.longest_began_ns == 100);
}

TEST_CASE("probe: what is lost on the way there is distinguished from what is lost on the way back",
          "[probe]") {
    Pair pair;
    for (int i = 0; i < 10; ++i) pair.round();
    for (int i = 0; i < 3; ++i) (void)pair.send();  // lost on the way there
    pair.round();
    for (int i = 0; i < 2; ++i) (void)pair.arrive(pair.send());  // lost on the way back
    pair.round();
    (void)pair.send();
    (void)pair.arrive(pair.send());
    pair.tell();

    auto const there = pair.account.there();
    auto const back = pair.account.back();
    CHECK(there.sent == 19);
    CHECK(there.lost == 4);
    CHECK(back.sent == 15);
    CHECK(back.lost == 3);
    CHECK(there.duplicated + there.reordered + back.duplicated + back.reordered == 0);
    CHECK(there.longest_gap_ns == 4 * ms);
    CHECK(back.longest_gap_ns == 4 * ms);
    auto const losses = pair.account.losses();
    REQUIRE(losses.size() == 3);
    CHECK(losses[0].first == 10);
    CHECK((losses[0].there == 3 && losses[0].back == 0));
    CHECK((losses[1].there == 0 && losses[1].back == 2));
    CHECK((losses[2].there == 1 && losses[2].back == 1));
    CHECK_FALSE(pair.account.complete());
}

TEST_CASE("probe: a silence is a time without any answer", "[probe]") {
    Pair pair;
    for (int i = 0; i < 10; ++i) pair.round();
    auto const quiet = pair.account.samples().back().sent_ns;
    for (int i = 0; i < 29; ++i) (void)pair.send();
    pair.round();
    pair.round();
    auto const silences = pair.account.silences(10 * ms);
    REQUIRE(silences.size() == 1);
    CHECK(silences[0].at_ns == quiet + pair.account.samples().front().delay_us * 1000);
    CHECK(silences[0].ns == 30 * ms);
    CHECK(pair.account.silences(30 * ms).empty());
}

TEST_CASE("probe: duplicated and reordered, in each direction", "[probe]") {
    Pair pair;
    pair.round();
    auto const first = pair.send();
    auto const second = pair.send();
    auto const answer_two = *pair.arrive(second);
    auto const answer_one = *pair.arrive(first);
    auto const answer_again = *pair.arrive(first);
    CHECK(answer_again.serial == answer_one.serial + 1);
    pair.come(answer_one);  // overtakes the one before it
    pair.come(answer_two);
    pair.come(answer_two);
    pair.come(answer_again);
    pair.tell();
    CHECK(pair.account.there().lost == 0);
    CHECK(pair.account.there().duplicated == 1);
    CHECK(pair.account.there().reordered == 1);
    CHECK(pair.account.back().sent == 4);
    CHECK(pair.account.back().lost == 0);
    CHECK(pair.account.back().duplicated == 1);
    CHECK(pair.account.back().reordered == 1);
    CHECK(pair.account.complete());
}

TEST_CASE("probe: what is lost after the echo's last answer counts as lost on the way there",
          "[probe]") {
    Pair pair;
    pair.round();
    (void)pair.arrive(pair.send());
    CHECK_FALSE(pair.account.was_told());
    CHECK(pair.account.there().lost == 1);
    CHECK(pair.account.back().lost == 0);
    pair.tell();
    CHECK(pair.account.there().lost == 0);
    CHECK(pair.account.back().lost == 1);
    // A gap that is still open when the sending ends is counted.
    pair.account.ended(pair.now + 500 * ms);
    CHECK(pair.account.back().longest_gap_ns == 500 * ms + ms / 2);
}

TEST_CASE("probe: answers to no probe are counted and otherwise ignored", "[probe]") {
    Pair pair;
    pair.round();
    auto forged = probe_of(7, 99);
    forged.kind = Kind::answer;
    forged.serial = 1;
    forged.known.seen = UINT64_MAX;
    pair.come(forged);
    CHECK(pair.account.foreign() == 1);
    CHECK(pair.account.there().lost == 0);
    CHECK(pair.account.back().lost == 0);
}

TEST_CASE("probe: delays", "[probe]") {
    Pair pair;
    for (int i = 0; i < 99; ++i) pair.round();
    auto const slow = *pair.arrive(pair.send());
    pair.now += 200 * ms;
    pair.come(slow);
    auto const delay = pair.account.delay();
    CHECK(delay.min_ms == Approx(0.5));
    CHECK(delay.median_ms == Approx(0.5));
    CHECK(delay.max_ms == Approx(200.5));
    CHECK(delay.added_ms() == Approx(200));
}

TEST_CASE("probe: an echo answers probes and questions, and no answers", "[probe]") {
    ProbeSessions echo;
    auto one = probe_of(1, 0);
    one.kind = Kind::ask;
    CHECK_FALSE(echo.answer(one, ms));  // of an unknown session
    one.kind = Kind::probe;
    CHECK(echo.answer(one, ms)->kind == Kind::answer);
    one.kind = Kind::ask;
    CHECK(echo.answer(one, ms)->kind == Kind::told);
    for (auto const kind : {Kind::answer, Kind::told}) {
        one.kind = kind;
        CHECK_FALSE(echo.answer(one, ms));
    }
    echo.unsent(1);
    echo.overflowed(5);
    one.kind = Kind::ask;
    CHECK(echo.answer(one, ms)->known == ProbeDatagram::Known{1, 0, 0, 0, 5, 1});
}

TEST_CASE("probe: an echo has a limit of sessions, and forgets those that are silent", "[probe]") {
    ProbeSessions echo;
    std::uint64_t now = ms;
    for (std::uint64_t i = 0; i < ProbeSessions::sessions_max; ++i) {
        REQUIRE(echo.answer(probe_of(i, 0), now + i));
    }
    CHECK_FALSE(echo.answer(probe_of(1000, 0), now + ProbeSessions::idle_ns - 1));
    CHECK(echo.answer(probe_of(0, 1), now + ProbeSessions::idle_ns)->serial == 2);
    CHECK(echo.answer(probe_of(1000, 0), now + ProbeSessions::idle_ns + 1));
    CHECK(echo.size() == ProbeSessions::sessions_max);
    CHECK(echo.answer(probe_of(0, 2), now + ProbeSessions::idle_ns + 2)->serial == 3);
    auto ask = probe_of(1, 0);
    ask.kind = Kind::ask;
    CHECK_FALSE(echo.answer(ask, now + ProbeSessions::idle_ns + 3));  // it was removed to make room
}

TEST_CASE("probe: the pace keeps its deadlines, and does not catch up after a standstill",
          "[probe]") {
    ProbePace pace(20ms);
    ProbeHiccups hiccups;
    auto const start = pace.next();
    CHECK(pace.take(start, hiccups));
    CHECK_FALSE(pace.take(start + 19ms, hiccups));
    CHECK(pace.take(start + 25ms, hiccups));  // late; the next one is still due at its own time
    CHECK(pace.next() == start + 40ms);
    CHECK(hiccups.late_max == 5ms);
    CHECK(hiccups.skipped == 0);
    CHECK(pace.take(start + 40ms + 10s, hiccups));
    CHECK(hiccups.skipped == 500);
    CHECK_FALSE(pace.take(start + 40ms + 10s, hiccups));
}

TEST_CASE("probe: the report as JSON, as text and as a picture", "[probe]") {
    Pair pair;
    pair.round();
    (void)pair.send();
    pair.round();
    pair.tell();
    ProbeReport report;
    report.began_ns = 1000 * ms;
    report.ended_ns = 1010 * ms;
    report.targets.push_back({Address::parse("fd77::10").value(), pair.account, {}, {}});
    report.targets.back().tcp = ProbeTcpFigures{.sessions = 1, .sent = 3, .answered = 3};
    CHECK(report.measured());
    auto const json = report.json()["addresses"].elements().at(0);
    CHECK(json["address"].text_or("") == "fd77::10");
    CHECK(json["udp"]["there"]["lost"].integer_or(0) == 1);
    CHECK(json["udp"]["back"]["lost"].integer_or(1) == 0);
    CHECK(json["udp"]["losses"].elements().at(0)["at_ms"].number_or(0) == Approx(1002));
    CHECK(report.text().find("there  1 of 3 lost") != std::string::npos);
    auto const svg = probe_svg(report, {{"STOP", 1001 * ms}, {"RESUME", 2000 * ms}});
    CHECK(svg.find(">STOP<") != std::string::npos);
    CHECK(svg.find(">RESUME<") == std::string::npos);  // after the end of the picture
    CHECK(svg.find("class=\"there\" d=\"M") != std::string::npos);
    CHECK(svg.find("class=\"back\" d=") == std::string::npos);
}

}  // namespace netmove_probe_cases
