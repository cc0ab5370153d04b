// Launching: real QEMUs and other programs, taps by descriptor in a network namespace of our own,
// and the table of options compared with what both QEMUs accept.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "tests/process/qmp_support.hpp"

namespace qmp_launch_cases {

using namespace qmp_test;

namespace {

std::string text_of(std::string const& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Attempt {
    Directory directory;
    std::unique_ptr<Loop> loop = make_loop();

    qmp::LaunchRequest request(std::vector<std::string> argv) {
        auto const line = get(qmp::CommandLine::parse(std::move(argv)));
        return {get(line.for_launch({qmp::qmp_fd_in_qemu})),
                {},
                directory.file("qmp.sock"),
                directory.file("log")};
    }
    core::Error fails(qmp::LaunchRequest const& request, Deadline deadline = soon()) {
        auto launched = loop->run(qmp::launch(*loop, request, deadline));
        REQUIRE_FALSE(launched);
        CHECK_FALSE(std::filesystem::exists(directory.file("qmp.sock")));
        return launched.error();
    }
    // A program that writes its pid and then runs `what`.
    std::string program(std::string const& what) {
        auto const path = directory.file("program");
        std::ofstream(path) << "#!/bin/sh\necho $$ >" << directory.file("pid") << "\n"
                            << what << "\n";
        REQUIRE(chmod(path.c_str(), 0700) == 0);
        return path;
    }
    [[nodiscard]] bool program_is_gone() {
        auto const pid = std::atoi(text_of(directory.file("pid")).c_str());
        return pid > 0 && kill(pid, 0) != 0;
    }
};

// Puts this thread into a network namespace of its own until the end of the scope.
class OwnNetwork {
public:
    OwnNetwork() : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
        entered_ = before_ && unshare(CLONE_NEWNET) == 0;
    }
    ~OwnNetwork() {
        if (entered_) setns(before_.get(), CLONE_NEWNET);
    }
    OwnNetwork(OwnNetwork const&) = delete;
    OwnNetwork& operator=(OwnNetwork const&) = delete;
    [[nodiscard]] bool entered() const { return entered_; }

private:
    core::Fd before_;
    bool entered_ = false;
};

core::Fd open_tap(char const* name, bool multi_queue) {
    core::Fd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    REQUIRE(fd);
    ifreq request{};
    std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                           (multi_queue ? IFF_MULTI_QUEUE : 0));
    REQUIRE(ioctl(fd.get(), TUNSETIFF, &request) == 0);
    return fd;
}

std::string output_of(std::string const& command) {
    std::FILE* pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string text;
    std::array<char, 4096> buffer{};
    for (std::size_t got = 0; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
        text.append(buffer.data(), got);
    }
    pclose(pipe);
    return text;
}

}  // namespace

TEST_CASE("a launched QEMU is its own, with its log and its monitor", "[qmp][launch]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto const pid = qemu.process().pid();
        CHECK(getsid(pid) == pid);
        CHECK(qemu.process().running());
        struct stat status{};
        REQUIRE(stat(qemu.socket().c_str(), &status) == 0);
        CHECK((status.st_mode & 0777) == 0600);
        CHECK(std::filesystem::exists(qemu.file("log")));

        // A second guest of that name is refused, and the first is not affected.
        auto const line = get(qmp::CommandLine::parse(Qemu::words(program)));
        auto const second = qemu.run(qmp::launch(
            qemu.loop(),
            {get(line.for_launch({qmp::qmp_fd_in_qemu})), {}, qemu.socket(), qemu.file("log2")},
            soon()));
        REQUIRE_FALSE(second);
        CHECK(second.error().code == Errc::refused);
        CHECK(second.error().what.find("is this guest running?") != std::string::npos);
        CHECK_FALSE(get(qemu.run(qmp::query_status(qemu.client(), soon()))).running);
        qemu.disconnect();
        Connected again(qemu.loop(), qemu.socket());
        CHECK(again->open());
    }
}

TEST_CASE("a QEMU that dies early is quoted", "[qmp][launch]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Attempt attempt;
        auto const error =
            attempt.fails(attempt.request({program, "-nodefaults", "-display", "none", "-drive",
                                           "file=/no/such/disk.qcow2,if=virtio"}));
        CHECK(error.code == Errc::closed);
        CHECK(error.what.find("ended before its guest could run (exit status 1): ") !=
              std::string::npos);
        CHECK(error.what.find("Could not open '/no/such/disk.qcow2': No such file or directory") !=
              std::string::npos);
        CHECK(error.what.find('\n') == std::string::npos);
    }
}

TEST_CASE("a QEMU that closes its monitor and hangs is ended, and the error says so",
          "[qmp][launch]") {
    Attempt attempt;
    auto const script = attempt.directory.file("hangs");
    std::ofstream(script) << "#!/bin/sh\necho last words >&2\nexec " << qmp::qmp_fd_in_qemu
                          << "<&-\nexec tail -f /dev/null\n";
    std::filesystem::permissions(script, std::filesystem::perms::owner_all);
    auto const error = attempt.fails(attempt.request({script}));
    CHECK(error.code == Errc::closed);
    CHECK(error.what.find("closed its monitor (") != std::string::npos);
    CHECK(error.what.find("did not end in 5 s, and was killed: last words") != std::string::npos);
}

TEST_CASE("a stale socket is no obstacle", "[qmp][launch]") {
    Attempt attempt;
    get(core::listen_unix(attempt.directory.file("qmp.sock"), 0600)).reset();
    auto launched = attempt.loop->run(
        qmp::launch(*attempt.loop, attempt.request(Qemu::words(qemus().front())), soon()));
    REQUIRE(launched);
    attempt.loop->run(launched->client->close());
    must(launched->process.signal(SIGKILL));
    get(attempt.loop->run(core::wait_exit(*attempt.loop, launched->process, soon())));
}

TEST_CASE("a program that is not QEMU is reported", "[qmp][launch]") {
    Attempt attempt;
    auto const missing = attempt.fails(attempt.request({"/no/such/qemu"}));
    CHECK(missing.what == "cannot start /no/such/qemu: No such file or directory");

    auto const silent = attempt.fails(attempt.request({attempt.program("exit 7")}));
    CHECK(silent.what.find("(exit status 7); it said nothing") != std::string::npos);
    CHECK(attempt.program_is_gone());

    auto const killed = attempt.fails(attempt.request({attempt.program("kill -SEGV $$")}));
    CHECK(killed.what.find("(killed by signal 11)") != std::string::npos);

    auto const wordy = attempt.fails(attempt.request(
        {attempt.program("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exit 1")}));
    CHECK(wordy.what.ends_with(": line 4 / line 5 / line 6 / line 7 / line 8 / line 9"));
}

TEST_CASE("a program that hangs is ended", "[qmp][launch]") {
    Attempt attempt;
    auto const program = attempt.program("exec sleep 1000");
    auto const error = attempt.fails(attempt.request({program}), Deadline::after(300ms));
    CHECK(error.code == Errc::timed_out);
    CHECK(error.sentence().find("while starting " + program) != std::string::npos);
    CHECK(attempt.program_is_gone());
}

TEST_CASE("a launch is cancelled, nothing is left", "[qmp][launch]") {
    struct Cancel {
        static Task<void> later(Loop& loop, std::stop_source& stop, std::string path) {
            // The program runs once it has written its pid; before that there is nothing to kill.
            while (text_of(path).empty()) (void)co_await core::sleep_for(loop, 2ms);
            stop.request_stop();
        }
        static Task<Result<qmp::Launched>> beside(Loop& loop, qmp::LaunchRequest request,
                                                  std::string path) {
            std::stop_source stop;
            core::TaskGroup scope(loop);
            scope.spawn(later(loop, stop, path));
            auto launched =
                co_await qmp::launch(loop, request, Deadline::after(30s, stop.get_token()));
            co_await scope.join();
            co_return launched;
        }
    };
    Attempt attempt;
    auto const request = attempt.request({attempt.program("exec sleep 1000")});
    auto const launched =
        attempt.loop->run(Cancel::beside(*attempt.loop, request, attempt.directory.file("pid")));
    REQUIRE_FALSE(launched);
    CHECK(launched.error().code == Errc::cancelled);
    CHECK(attempt.program_is_gone());
    CHECK_FALSE(std::filesystem::exists(attempt.directory.file("qmp.sock")));
}

TEST_CASE("a log that cannot be written stops the launch", "[qmp][launch]") {
    Attempt attempt;
    auto request = attempt.request({attempt.program("exit 0")});
    request.log_file = attempt.directory.file("none/log");
    CHECK(attempt.fails(request).what.starts_with("cannot write QEMU's log"));
    CHECK_FALSE(std::filesystem::exists(attempt.directory.file("pid")));
}

TEST_CASE("relative paths start at the given working directory", "[qmp][launch]") {
    Attempt attempt;
    auto request = attempt.request({attempt.program("pwd; exit 1")});
    request.working_directory = "/usr";
    CHECK(attempt.fails(request).what.ends_with(": /usr"));
}

TEST_CASE("taps are handed over by descriptor", "[qmp][launch]") {
    OwnNetwork const network;
    if (!network.entered()) {
        std::cout << "skipped: no privilege for a network namespace of its own: run as root\n";
        return;
    }
    for (auto const& program : qemus()) {
        INFO(program);
        core::Fd const single = open_tap("qmptap0", false);
        core::Fd const first = open_tap("qmptap1", true);
        core::Fd const second = open_tap("qmptap1", true);
        auto words = Qemu::words(
            program,
            {"-netdev", "tap,id=n0,ifname=qmptap0,script=no,downscript=no", "-device",
             "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01", "-netdev",
             R"({"type":"tap","id":"n1","ifname":"qmptap1","queues":2,)"
             R"("script":"no","downscript":"no"})",
             "-device", R"({"driver":"virtio-net-pci","netdev":"n1","mq":true,"vectors":6})"});
        auto const line = get(qmp::CommandLine::parse(words));
        int const at = qmp::first_tap_fd_in_qemu;
        auto const prepared =
            get(line.for_launch({qmp::qmp_fd_in_qemu, {{"n0", {at}}, {"n1", {at + 1, at + 2}}}}));
        Directory const directory;
        auto loop = make_loop();
        auto launched = get(loop->run(
            qmp::launch(*loop,
                        {prepared,
                         {{single.get(), at}, {first.get(), at + 1}, {second.get(), at + 2}},
                         directory.file("qmp.sock"),
                         directory.file("log")},
                        soon())));
        auto const owner = [&](int fd) {
            return text_of(fmt::format("/proc/{}/fdinfo/{}", launched.process.pid(), fd));
        };
        CHECK(owner(at).find("iff:\tqmptap0") != std::string::npos);
        CHECK(owner(at + 1).find("iff:\tqmptap1") != std::string::npos);
        CHECK(owner(at + 2).find("iff:\tqmptap1") != std::string::npos);
        CHECK(text_of(directory.file("log")).empty());
        loop->run(launched.client->close());
        must(launched.process.signal(SIGKILL));
        get(loop->run(core::wait_exit(*loop, launched.process, soon())));
    }
}

TEST_CASE("the table of options is what QEMU says", "[qmp][launch]") {
    for (auto const& program : qemus()) {
        std::set<std::string> names{"M",
                                    "g",
                                    "shim",
                                    "qtest",
                                    "qtest-log",
                                    "semihosting",
                                    "semihosting-config",
                                    "prom-env",
                                    "old-param",
                                    "h",
                                    "usbdevice",
                                    "preconfig"};
        auto const help = output_of(program + " -help");
        std::regex const option("(?:^|\\n|/|or )--?([A-Za-z][A-Za-z0-9_-]*)");
        for (std::sregex_iterator match(help.begin(), help.end(), option), end; match != end;
             ++match) {
            names.insert((*match)[1]);
        }
        CHECK(names.size() > 100);
        for (auto const& name : names) {
            // The last word of the line: an option that takes a value complains before anything
            // else happens.
            auto const said = output_of(program + " -version -" + name + " 2>&1 </dev/null");
            auto arity = qmp::Arity::flag;
            if (said.find("invalid option") != std::string::npos) continue;  // a word of the text
            if (said.find("requires an argument") != std::string::npos) arity = qmp::Arity::value;
            INFO(program << " -" << name);
            CHECK(qmp::arity_of(name) == arity);
        }
    }
}

}  // namespace qmp_launch_cases
