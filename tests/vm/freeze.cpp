// The guest agent freezes the guest's ext4 while a point is taken. Such a point needs no journal
// replay; a point without a freeze needs one. If a process dies or is silent meanwhile, the guest
// does not stay frozen.
#include <signal.h>

#include <algorithm>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr Milliseconds round_limit = 90s;
/// Longer than the guest's pause between two files; a frozen guest writes nothing in this time.
constexpr Milliseconds stillness = 1500ms;

GuestOptions with_agent(std::string const& qemu, std::string const& format) {
    return {.qemu = qemu, .format = format, .agent = true};
}

Argv mirror_line(Scene& scene, Argv const& more) {
    Argv argv{"replicate", "web1", scene.b().address(), "--key", scene.key_file().string()};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
}

core::Json status_on(Scene& scene, Host const& host) {
    auto const said = scene.sidecar(host, {"status", "web1", "--json"});
    auto const parsed = core::Json::parse(said.out);
    return parsed ? *parsed : core::Json();
}

/// The newest point at the destination, as a raw file of its own.
fs::path newest_point(Scene& scene) {
    fs::path newest = scene.guest().image(scene.b(), 0);
    int last = 0;
    for (auto const& entry : fs::directory_iterator(scene.b().images)) {
        auto const name = entry.path().string();
        if (name.find(".point-") == std::string::npos) continue;  // IMAGE.point-ID-N
        auto const number = std::stoi(name.substr(name.rfind('-') + 1));
        if (number > last) newest = entry.path();
        last = std::max(last, number);
    }
    auto const raw = scene.net().directory() / ("point-" + unique_suffix() + ".raw");
    must_run({"qemu-img", "convert", "-O", "raw", newest, raw});
    return raw;
}

/// Whether the file system of the newest point needs its journal; otherwise it must be intact.
bool needs_recovery(Scene& scene) {
    auto const point = newest_point(scene);
    auto const head = must_run({"/sbin/dumpe2fs", "-h", point});
    bool const needed = head.find("needs_recovery") != std::string::npos;
    if (!needed) {
        auto const checked = run({"/sbin/e2fsck", "-f", "-n", point});
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 0);
    }
    return needed;
}

std::int64_t file_writes(Scene& scene) {
    return scene.guest().ask(core::Json::object({{"cmd", "report"}}))["file_writes"].integer_or(0);
}

bool is_stopped(Scene& scene) {
    auto const before = file_writes(scene);
    auto const until = std::chrono::steady_clock::now() + stillness;
    while (std::chrono::steady_clock::now() < until) {
        if (file_writes(scene) != before) return false;
    }
    return true;
}

void wait_frozen(Scene& scene) {
    wait_until("the guest's writes to stop", round_limit, [&] { return is_stopped(scene); });
}

void agent(Scene& scene, char const* command) {
    (void)scene.guest().ask(core::Json::object({{"cmd", command}}));
}

pid_t watchdog(Scene& scene) {
    for (auto const& seen : processes_in(scene.a().netns)) {
        if (std::ranges::find(seen.argv, "watchdog") != seen.argv.end()) return seen.pid;
    }
    return -1;
}

bool mark_is_there(Scene& scene) { return fs::exists(scene.a().run_dir / "web1" / "frozen"); }

/// One round, as a user starts it; returns its output.
std::string once(Scene& scene, Argv const& more = {}) {
    Argv words{"--once"};
    words.insert(words.end(), more.begin(), more.end());
    auto const done = scene.sidecar(scene.a(), mirror_line(scene, words));
    INFO(done.err);
    CHECK(done.exit_status == 0);
    CHECK_FALSE(mark_is_there(scene));
    CHECK(watchdog(scene) == -1);
    scene.guest().must_be_alive();
    return done.out;
}

bool says(std::string const& text, char const* words) {
    return text.find(words) != std::string::npos;
}

/// A mirror whose sidecar stops itself while the guest is frozen.
struct FrozenScene {
    explicit FrozenScene(std::string const& qemu)
        : scene({.guest = with_agent(qemu, "raw"),
                 .run_environment = {"SIDECAR_TEST_STOP_AT=frozen"}}),
          command("replicate", command_at_sidecar(), scene.a().place(), scene.a().logs) {
        sidecar = scene.wait_stopped(scene.a());
        wait_frozen(scene);
        CHECK(mark_is_there(scene));
    }
    Argv command_at_sidecar() {
        auto argv = mirror_line(scene, {"--every", "2s"});
        argv.insert(argv.begin(), program("sidecar"));
        return argv;
    }
    void must_go_on() {
        scene.guest().must_be_alive();
        wait_until("the end of the mark", round_limit, [&] { return !mark_is_there(scene); });
    }
    /// Waits until the mirror has a point of that kind.
    void wait_point(char const* kind) {
        wait_until("the next point", round_limit, [&] {
            auto const point = status_on(scene, scene.a())["replicate"]["last_point"];
            return point["consistency"].text_or("") == kind;
        });
    }
    Scene scene;
    Daemon command;
    pid_t sidecar = -1;
};

}  // namespace

TEST_CASE("freeze: a point taken of a frozen guest needs no recovery", "[vm][freeze]") {
    for (auto const& qemu : qemus("7.2")) {
        std::string const format = qemu == "7.2" ? "raw" : "qcow2";
        DYNAMIC_SECTION("QEMU " << qemu << ", " << format) {
            Scene scene({.guest = with_agent(qemu, format)});
            CHECK(says(once(scene), "filesystem-consistent"));
            CHECK_FALSE(needs_recovery(scene));
            CHECK(says(once(scene, {"--no-freeze"}), "crash-consistent, because --no-freeze"));
            CHECK(needs_recovery(scene));
            auto const by_hand = scene.guest().agent_socket(scene.a()).string();
            CHECK(says(once(scene, {"--guest-agent", by_hand}), "filesystem-consistent"));
            CHECK_FALSE(needs_recovery(scene));
            auto const points = status_on(scene, scene.b())["copy"]["points"].elements();
            REQUIRE(points.size() == 2);
            CHECK(points[0]["consistency"].text_or("") == "crash");
            CHECK(points[1]["consistency"].text_or("") == "filesystem");
            agent(scene, "agent-stop");
            CHECK(says(once(scene), "does not answer"));
            agent(scene, "agent-continue");
            CHECK(says(once(scene), "filesystem-consistent"));
            CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
        }
    }
}

TEST_CASE("freeze: a sidecar that is killed leaves no frozen guest", "[vm][freeze]") {
    FrozenScene frozen("7.2");
    auto& scene = frozen.scene;
    CHECK(watchdog(scene) > 0);
    scene.first_sidecar().kill();
    frozen.must_go_on();
    scene.attach_guest(scene.a());
    frozen.wait_point("filesystem");
    scene.guest().must_be_alive();
}

TEST_CASE("freeze: a sidecar that is killed with its watchdog leaves no frozen guest after attach",
          "[vm][freeze]") {
    FrozenScene frozen("10.0");
    auto& scene = frozen.scene;
    kill_process(watchdog(scene));
    scene.first_sidecar().kill();
    CHECK(is_stopped(scene));
    scene.attach_guest(scene.a());
    frozen.must_go_on();
    frozen.wait_point("filesystem");
    scene.guest().must_be_alive();
}

TEST_CASE("freeze: an agent that stops answering in between leaves no frozen guest",
          "[vm][freeze]") {
    FrozenScene frozen("7.2");
    auto& scene = frozen.scene;
    agent(scene, "agent-stop");
    signal_process(frozen.sidecar, SIGCONT);
    // The round continues without the agent; its point is crash-consistent.
    wait_until("the word of it", round_limit, [&] {
        auto const mirror = status_on(scene, scene.a())["replicate"];
        return mirror["may_be_frozen"].boolean_or(false) && mirror.has("last_point");
    });
    auto const point = status_on(scene, scene.a())["replicate"]["last_point"];
    CHECK(point["consistency"].text_or("") == "crash");
    CHECK(says(point["why"].text_or(""), "thaw"));
    CHECK(mark_is_there(scene));
    agent(scene, "agent-continue");
    frozen.must_go_on();
}

TEST_CASE("freeze: a sidecar that hangs leaves no frozen guest", "[vm][freeze][waits]") {
    FrozenScene frozen("7.2");
    auto& scene = frozen.scene;
    wait_until("the watchdog to kill it", round_limit,
               [&] { return !scene.first_sidecar().running(); });
    frozen.must_go_on();
    CHECK(scene.guest().runs_on(scene.a()));
}
