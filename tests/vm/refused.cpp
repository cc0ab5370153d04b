// Invalid input gives one sentence that says what to do, and exit status 2 (usage) or 3 (refused
// before anything was touched). Nothing is touched: not the guest, not its QEMU, not one file or
// port of either host.
#include <sys/stat.h>

#include <algorithm>

#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// The longest until a host is as it was before a refused command.
constexpr Milliseconds refusal_limit = 10s;

/// The state that must not change during a refusal.
struct Untouched {
    explicit Untouched(Scene& over) : scene(over) {
        before_a = traces_of(scene.a());
        before_b = traces_of(scene.b());
    }
    /// The journal may note a refusal, and the log and socket of a QEMU that could not start may
    /// stay. Processes that inspect the host for the refused command end soon after it.
    void check() const {
        std::vector<std::string> const allowed = {R"(state/.*)", R"(run/.*/qemu\.log)",
                                                  R"(.*-probe\.sock)"};
        auto const changes = [&] {
            return new_since(before_a, traces_of(scene.a()), allowed) +
                   lost_since(before_a, traces_of(scene.a())) +
                   new_since(before_b, traces_of(scene.b()), allowed) +
                   lost_since(before_b, traces_of(scene.b()));
        };
        std::string last;
        try {
            wait_until("the end of a refused command", refusal_limit,
                       [&] { return (last = changes()).empty(); });
        } catch (Failure const&) {
            CHECK(last == "");
        }
        if (scene.guest().qemu_pid(scene.a()) < 0) return;
        CHECK(left_in_qemu(scene.guest(), scene.a()) == "");
        CHECK(scene.guest().runs_on(scene.a()));
    }
    Scene& scene;
    Traces before_a;
    Traces before_b;
};

/// `error: One sentence`, perhaps with a hint on its own line; contains `words`.
void check_sentence(std::string const& err, std::string const& words) {
    INFO(err);
    CHECK(err.starts_with("error: "));
    CHECK(std::ranges::count(err, '\n') <= 2);
    CHECK(err.size() > 20);
    CHECK(err.find(words) != std::string::npos);
}

void refused(Scene& scene, Host const& host, Argv const& arguments,
             std::vector<int> const& statuses, std::string const& words) {
    std::string line;
    for (auto const& argument : arguments) line += " " + argument;
    INFO("sidecar" << line);
    Untouched const untouched(scene);
    auto const done = scene.sidecar(host, arguments);
    INFO("exit status " << done.exit_status << ", stdout " << done.out);
    CHECK(std::ranges::find(statuses, done.exit_status) != statuses.end());
    check_sentence(done.err, words);
    untouched.check();
}

Argv migrate(std::string const& guest, std::string const& to, Argv const& more) {
    Argv argv{"migrate", "--with-storage", guest, to, "--progress=none"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
}

std::string destination(Scene& scene) { return scene.b().address(); }

Argv key(Scene& scene) { return {"--key", scene.key_file()}; }

}  // namespace

TEST_CASE("refused: usage", "[vm][refused]") {
    Scene scene({.start_guest = false});
    auto const with = [&](Argv const& argv, std::string const& words) {
        refused(scene, scene.a(), argv, {2}, words);
    };
    refused(scene, scene.a(), migrate("web1", destination(scene), {"--key", "/nowhere/keys.psk"}),
            {2, 3}, "/nowhere/keys.psk");
    auto const to = destination(scene);
    with(migrate("web1", to, {}), "--key");
    with(migrate("web1", to, {"--plaintext", "--key", scene.key_file()}), "--");
    with(migrate("../web1", to, key(scene)), "guest name");
    with(migrate("web1", to, {"--key", scene.key_file(), "--downtime-limit", "0"}), "downtime");
    with({"serve", "--key", scene.key_file(), "--map-path", "nonsense"}, "FROM=TO");
    with({"run", "web1", "--"}, "QEMU");
    with({"nonsense"}, "");
}

TEST_CASE("refused: what does not exist", "[vm][refused]") {
    Scene scene({});
    auto const to = destination(scene);
    auto const with = [&](Argv const& argv, std::vector<int> const& statuses,
                          std::string const& words) {
        refused(scene, scene.a(), argv, statuses, words);
    };
    with(migrate("nobody", to, key(scene)), {2, 3}, "nobody");
    with({"migrate", "web1", to, "--key", scene.key_file()}, {3}, "--with-storage");
    with({"attach", "other", "--qmp", "/nowhere/qmp.sock"}, {2, 3}, "/nowhere/qmp.sock");
    with({"attach", "other"}, {2, 3}, "other");
    with({"cancel", "nobody"}, {2, 3}, "nobody");
    with({"cancel", "web1"}, {2, 3}, "");
    with(migrate("web1", "[" + scene.b().ip6 + "]:9", key(scene)), {1}, scene.b().ip6);
    with(migrate("web1", "[fd77::99]", key(scene)), {1}, "fd77::99");
    with(migrate("web1", "host.invalid", key(scene)), {2, 3}, "host.invalid");
    scene.guest().must_be_whole();
}

TEST_CASE("refused: a path that is not a QMP socket", "[vm][refused]") {
    Scene scene({.start_guest = false});
    auto const socket = scene.a().directory / "nbd.sock";
    Daemon nbdkit("nbdkit", {"nbdkit", "--foreground", "-U", socket, "memory", "1M"},
                  scene.a().place(), scene.a().logs);
    wait_until("nbdkit to listen", 10s, [&] { return accepts(socket); });
    refused(scene, scene.a(), {"attach", "other", "--qmp", socket}, {2, 3}, "QMP");
}

TEST_CASE("refused: a wrong key", "[vm][refused]") {
    Scene scene({});
    auto const wrong = scene.net().directory() / "wrong.psk";
    write_file(wrong, "lab:0000000000000000000000000000000000000000000000000000000000000000\n");
    chmod(wrong.c_str(), 0600);
    auto const stranger = scene.net().directory() / "stranger.psk";
    write_file(stranger, "evil:8a1f0c5de4b7296370d1c9ab52e8f3460a9d7be15c24f8036e7da1b5940c3f62\n");
    chmod(stranger.c_str(), 0600);
    auto const to = destination(scene);
    refused(scene, scene.a(), migrate("web1", to, {"--key", wrong}), {3}, "key");
    refused(scene, scene.a(), migrate("web1", to, {"--key", stranger}), {3}, "");
    refused(scene, scene.a(), migrate("web1", to, {"--plaintext"}), {3}, "");
    expect::moves(scene, scene.a());
}

TEST_CASE("refused: a disk that is missing", "[vm][refused]") {
    Scene scene({.start_guest = false});
    fs::remove(scene.guest().image(scene.a(), 0));
    Argv argv{"run", "web1", "--bridge", bridge, "--"};
    auto const qemu = scene.guest().command_line(scene.a());
    argv.insert(argv.end(), qemu.begin(), qemu.end());
    refused(scene, scene.a(), argv, {2, 3}, "web1-0.raw");
}

TEST_CASE("refused: no space for the disk at the destination", "[vm][refused]") {
    Scene scene({});
    scene.end_serve(scene.b());
    scene.start_serve_on_small_disk(scene.b(), 16);
    refused(scene, scene.a(), migrate("web1", destination(scene), key(scene)), {3},
            "16 MiB are free");
    refused(scene, scene.a(),
            migrate("web1", destination(scene), {"--check", "--key", scene.key_file()}), {3},
            "16 MiB are free");
}

TEST_CASE("refused: an image of that name at the destination is never overwritten",
          "[vm][refused]") {
    Scene scene({});
    auto const image = scene.guest().image(scene.b(), 0);
    write_file(image, "precious");
    refused(scene, scene.a(), migrate("web1", destination(scene), key(scene)), {3}, "web1-0.raw");
    CHECK(read_file(image) == "precious");
    fs::remove(image);
    expect::moves(scene, scene.a());
}

TEST_CASE("refused: a QEMU at the destination that cannot take the guest", "[vm][refused]") {
    Scene scene({.guest = {.qemu = "10.0"}});
    scene.end_serve(scene.b());
    auto const old = deps() / "bin" / "qemu-system-x86_64-7.2";
    scene.start_serve(scene.b(), {}, {"--qemu", old});
    refused(scene, scene.a(), migrate("web1", destination(scene), key(scene)), {3}, "machine");
    scene.end_serve(scene.b());
    scene.start_serve(scene.b(), {}, {"--qemu", "/nowhere/qemu"});
    refused(scene, scene.a(), migrate("web1", destination(scene), key(scene)), {3},
            "/nowhere/qemu");
}

TEST_CASE("refused: no privilege for taps", "[vm][refused]") {
    Scene scene({.start_guest = false});
    Argv argv{
        "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", program("sidecar"),
        "run",     "web1",           "--bridge",   bridge,       "--"};
    auto const qemu = scene.guest().command_line(scene.a());
    argv.insert(argv.end(), qemu.begin(), qemu.end());
    Untouched const untouched(scene);
    auto const done = run(argv, scene.a().place());
    CHECK((done.exit_status == 2 || done.exit_status == 3));
    check_sentence(done.err, "CAP_NET_ADMIN");
    untouched.check();
}

TEST_CASE("refused: --check looks at everything and touches nothing", "[vm][refused]") {
    Scene scene({});
    Untouched const untouched(scene);
    auto const done = scene.sidecar(
        scene.a(), migrate("web1", destination(scene), {"--check", "--key", scene.key_file()}));
    INFO(done.err);
    CHECK(done.exit_status == 0);
    untouched.check();
    scene.guest().must_be_whole();
}
