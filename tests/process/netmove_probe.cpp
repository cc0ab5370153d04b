// `sidecar probe` against `sidecar probe --echo`, over a line with adjustable loss and delay: the
// report gives the losses, delays and gaps that the test caused.
#include <catch2/catch.hpp>

#include <csignal>

#include "tests/support/lab.hpp"
#include "tests/support/packet_line.hpp"

namespace netmove_probe_cases {

using namespace std::chrono_literals;
using core::Json;
using lab::Argv;
using lab::PacketLine;

namespace {

/// Frames that are not probes: IPv6's own, and the request for results at the end.
constexpr std::int64_t other_frames_max = 8;

struct Scene {
    explicit Scene(std::chrono::microseconds round_trip, double loss)
        : line(hosts.a().netns, hosts.b().netns, round_trip, loss) {
        start_echo();
    }
    void start_echo() {
        echo.emplace("echo", Argv{lab::program("sidecar"), "probe", "--echo"}, hosts.b().place(),
                     hosts.b().logs);
        lab::wait_until("the echo to listen", 20s,
                        [&] { return lab::accepts(hosts.b().netns, "127.0.0.1", 4798); });
    }
    lab::Daemon start(Argv more) {
        Argv argv{lab::program("sidecar"), "probe", PacketLine::far_address, "--json", "-"};
        argv.insert(argv.end(), more.begin(), more.end());
        return {"probe", std::move(argv), hosts.a().place(), hosts.a().logs};
    }
    /// The report of a probe that ends by itself, for its only address.
    static Json finish(lab::Daemon& probe) {
        auto const status = probe.wait(60s);
        INFO(probe.err());
        REQUIRE(status == 0);
        return lab::parse_json(probe.out())["addresses"].elements().at(0);
    }
    Json probe(Argv more) {
        auto running = start(std::move(more));
        return finish(running);
    }

    lab::Lab hosts;
    PacketLine line;
    std::optional<lab::Daemon> echo;
};

std::int64_t count(Json const& of, char const* what) { return of[what].integer_or(-1); }

}  // namespace

TEST_CASE("probe: over a line without faults nothing is lost, and the delay is the line's",
          "[probe]") {
    Scene scene(30ms, 0);
    auto const seen = scene.probe({"--period", "2", "--duration", "2"});
    auto const udp = seen["udp"];
    INFO(seen.dump());
    CHECK(count(udp, "sent") > 900);
    CHECK(count(udp, "answered") == count(udp, "sent"));
    for (auto const* way : {"there", "back"}) {
        CHECK(count(udp[way], "lost") == 0);
        CHECK(count(udp[way], "duplicated") == 0);
        CHECK(count(udp[way], "reordered") == 0);
        CHECK(count(udp[way], "sent") == count(udp, "sent"));
    }
    CHECK(udp["echo_told"].boolean_or(false));
    CHECK(udp["delay_ms"]["min"].number_or(0) >= 30);
    CHECK(udp["delay_ms"]["median"].number_or(1000) < 45);
    CHECK(udp["losses"].size() == 0);
    auto const tcp = seen["tcp"];
    CHECK(count(tcp, "sessions") == 1);
    CHECK(count(tcp, "ended") == 0);
    CHECK(count(tcp, "wrong") == 0);
    CHECK(count(tcp, "answered") > 800);
    CHECK(count(tcp, "answered") == count(tcp, "sent"));
}

TEST_CASE("probe: what a line loses is found, in each direction", "[probe]") {
    Scene scene(2ms, 0.1);
    auto const udp = scene.probe({"--period", "2", "--duration", "6", "--no-tcp"})["udp"];
    INFO(udp.dump());
    auto const there = count(udp["there"], "lost");
    auto const back = count(udp["back"], "lost");
    auto const lost_by_line = static_cast<std::int64_t>(scene.line.lost());
    CHECK(std::abs(there + back - lost_by_line) <= other_frames_max);
    CHECK(count(udp, "sent") - count(udp, "answered") == there + back);
    // Of about 3000 and 2700, one in ten is lost at random: six standard deviations each way.
    CHECK((there > 200 && there < 400));
    CHECK((back > 176 && back < 364));
    CHECK(count(udp["there"], "duplicated") == 0);
    CHECK(count(udp["there"], "reordered") == 0);
    std::int64_t listed_there = 0;
    std::int64_t listed_back = 0;
    for (auto const& loss : udp["losses"].elements()) {
        listed_there += count(loss, "there");
        listed_back += count(loss, "back");
    }
    CHECK(listed_there == there);
    CHECK(listed_back == back);
}

TEST_CASE("probe: a pause is a gap and a delay, and no loss", "[probe]") {
    constexpr auto pause = 400ms;
    Scene scene(2ms, 0);
    auto probe = scene.start({"--period", "5", "--duration", "4"});
    lab::wait_until("the first probes", 20s, [&] { return scene.line.carried() > 100; });
    scene.line.hold();
    auto const until = core::Clock::now() + pause;
    lab::wait_until("the end of the pause", 2 * pause, [&] { return core::Clock::now() >= until; });
    scene.line.release();
    auto const seen = Scene::finish(probe);
    INFO(seen.dump());
    auto const udp = seen["udp"];
    CHECK(count(udp, "answered") == count(udp, "sent"));
    for (auto const* way : {"there", "back"}) {
        CHECK(udp[way]["longest_gap_ms"].number_or(0) >= 390);
        CHECK(udp[way]["longest_gap_ms"].number_or(9999) < 700);
    }
    CHECK(udp["delay_ms"]["added"].number_or(0) >= 380);
    CHECK(seen["tcp"]["longest_stall_ms"].number_or(0) >= 390);
    CHECK(count(seen["tcp"], "ended") == 0);
}

TEST_CASE("probe: a session that ends is reported, and a new one is made", "[probe]") {
    Scene scene(2ms, 0);
    auto probe = scene.start({"--period", "5", "--duration", "4"});
    lab::wait_until("the first probes", 20s, [&] { return scene.line.carried() > 100; });
    CHECK(scene.echo->end() == 0);
    scene.start_echo();
    auto const seen = Scene::finish(probe);
    INFO(seen.dump());
    CHECK(count(seen["tcp"], "ended") == 1);
    CHECK(count(seen["tcp"], "sessions") == 2);
    CHECK(count(seen["tcp"], "wrong") == 0);
}

TEST_CASE("probe: without an echo nothing is measured, and an interrupt ends with a report",
          "[probe]") {
    Scene scene(2ms, 0);
    auto const alone = lab::run({lab::program("sidecar"), "probe", PacketLine::far_address,
                                 "--port", "4799", "--duration", "0.5"},
                                scene.hosts.a().place());
    CHECK(alone.exit_status == 1);
    CHECK(alone.err.find("never answered") != std::string::npos);
    auto probe = scene.start({"--svg", scene.hosts.a().logs / "probe.svg"});
    lab::wait_until("the first probes", 20s, [&] { return scene.line.carried() > 100; });
    probe.signal(SIGINT);
    auto const seen = Scene::finish(probe);
    CHECK(count(seen["udp"], "answered") == count(seen["udp"], "sent"));
    auto const svg = lab::read_file(scene.hosts.a().logs / "probe.svg");
    CHECK(svg.ends_with("</svg>\n"));
    for (auto const& wrong : {Argv{"probe"},
                              {"probe", "host"},
                              {"probe", "--echo", "10.0.0.1"},
                              {"probe", "10.0.0.1", "--size", "95"},
                              {"probe", "10.0.0.1", "--period", "1", "--duration", "100000"}}) {
        auto argv = wrong;
        argv.insert(argv.begin(), lab::program("sidecar"));
        CHECK(lab::run(argv).exit_status == 2);
    }
}

TEST_CASE("probe: the moments of a migration are marked", "[probe]") {
    Scene scene(2ms, 0);
    auto const report = scene.hosts.a().logs / "report.json";
    auto const svg = scene.hosts.a().logs / "probe.svg";
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    auto const soon = std::chrono::duration<double, std::milli>(now).count() + 500;
    lab::write_file(report, Json::object({{"stopped_at_ms", soon},
                                          {"fired_at_ms", soon + 0.5},
                                          {"resumed_at_ms", soon + 50}})
                                .dump());
    auto probe = scene.start({"--duration", "2", "--svg", svg, "--report", report});
    (void)Scene::finish(probe);
    auto const marks = lab::parse_json(probe.out())["marks"].elements();
    REQUIRE(marks.size() == 3);
    CHECK(marks[0]["name"].text_or("") == "STOP");
    CHECK(std::abs(marks[2]["at_ms"].number_or(0) - soon - 50) < 1);
    auto const picture = lab::read_file(svg);
    for (auto const* name : {">STOP<", ">fired<", ">RESUME<"}) {
        INFO(name);
        CHECK(picture.find(name) != std::string::npos);
    }
    lab::write_file(report, "{}");
    auto const refused = lab::run({lab::program("sidecar"), "probe", PacketLine::far_address,
                                   "--duration", "0.5", "--report", report},
                                  scene.hosts.a().place());
    CHECK(refused.exit_status == 1);
    CHECK(refused.err.find("not the report of a migration") != std::string::npos);
}

}  // namespace netmove_probe_cases
