// The loop, its waits and cancels, Json's limits, processes, and TLS between two real sockets.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "core/json.hpp"
#include "core/log.hpp"
#include "core/port_range.hpp"
#include "core/priority.hpp"
#include "core/process.hpp"
#include "core/sync.hpp"
#include "core/tls.hpp"

namespace core_test_cases {

using namespace core;

namespace {

std::unique_ptr<Loop> make_loop() {
    auto loop = Loop::create();
    REQUIRE(loop);
    return std::move(*loop);
}

struct Pipe {
    Fd reader, writer;
    Pipe() {
        int ends[2];
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
        reader.reset(ends[0]);
        writer.reset(ends[1]);
    }
};

Task<Result<int>> read_once(Loop& loop, int fd, Deadline deadline) {
    std::byte buffer[16];
    auto got = co_await loop.read(fd, buffer, deadline);
    co_return got;
}

Task<void> set_later(Loop& loop, Event& event) {
    (void)co_await sleep_for(loop, 5ms);
    event.set();
}

Task<void> stop_later(Loop& loop, std::stop_source& source) {
    (void)co_await sleep_for(loop, 5ms);
    source.request_stop();
}

Task<void> worker(Loop& loop, Semaphore& slots, int& running, int& most, int& finished) {
    REQUIRE(co_await slots.acquire(Deadline::after(5s)));
    most = std::max(most, ++running);
    (void)co_await sleep_for(loop, 1ms);
    --running;
    ++finished;
    slots.release();
}

}  // namespace

TEST_CASE("a read past its deadline times out, and its buffer is free again") {
    auto loop = make_loop();
    Pipe pipe;
    auto const start = Clock::now();
    auto got = loop->run(read_once(*loop, pipe.reader.get(), Deadline::after(20ms)));
    REQUIRE_FALSE(got);
    CHECK(got.error().code == Errc::timed_out);
    CHECK(Clock::now() - start >= 20ms);
    REQUIRE(::write(pipe.writer.get(), "x", 1) == 1);
    auto again = loop->run(read_once(*loop, pipe.reader.get(), Deadline::after(1s)));
    REQUIRE(again);
    CHECK(*again == 1);
}

TEST_CASE("a stop token ends an operation as cancelled, also when it was stopped before") {
    auto loop = make_loop();
    Pipe pipe;
    std::stop_source source;
    TaskGroup scope(*loop);
    scope.spawn(stop_later(*loop, source));
    auto got = loop->run(read_once(*loop, pipe.reader.get(), Deadline::never(source.get_token())));
    REQUIRE_FALSE(got);
    CHECK(got.error().code == Errc::cancelled);
    auto at_once =
        loop->run(read_once(*loop, pipe.reader.get(), Deadline::never(source.get_token())));
    REQUIRE_FALSE(at_once);
    CHECK(at_once.error().code == Errc::cancelled);
    loop->run(scope.join());
}

TEST_CASE("an event wakes its waiters, and waiting has a deadline") {
    auto loop = make_loop();
    Event event(*loop);
    TaskGroup scope(*loop);
    auto wait = [](Event& waited, Deadline deadline) -> Task<Result<>> {
        co_return co_await waited.wait(deadline);
    };
    CHECK(loop->run(wait(event, Deadline::after(5ms))).error().code == Errc::timed_out);
    scope.spawn(set_later(*loop, event));
    CHECK(loop->run(wait(event, Deadline::after(5s))));
    CHECK(loop->run(wait(event, Deadline::after(0s))));
    loop->run(scope.join());
}

TEST_CASE("a semaphore limits what runs at once, and each waiter has its turn") {
    auto loop = make_loop();
    Semaphore slots(*loop, 3);
    TaskGroup scope(*loop);
    int running = 0, most = 0, finished = 0;
    for (int i = 0; i < 50; ++i) scope.spawn(worker(*loop, slots, running, most, finished));
    loop->run(scope.join());
    CHECK(most == 3);
    CHECK(finished == 50);
    CHECK(slots.free() == 3);
}

TEST_CASE("json: limits, exactness, missing members") {
    auto parsed = Json::parse(R"({"a":[1,{"b":"x\u00e4"}],"big":18446744073709551615})");
    REQUIRE(parsed);
    CHECK((*parsed)["a"].elements()[1]["b"].text_or("") == "xä");
    CHECK((*parsed)["nothing"]["further"].is_null());
    CHECK_FALSE(parsed->text("a"));
    CHECK(parsed->text("gone").error().what.find("`gone`") != std::string::npos);
    CHECK_FALSE(Json::parse("{} {}"));
    CHECK_FALSE(Json::parse("{\"a\":1"));
    CHECK_FALSE(Json::parse(""));
    CHECK_FALSE(Json::parse(std::string(100000, '[')));
    CHECK(Json::parse(std::string(60, '[') + std::string(60, ']')));
    CHECK(Json::object({{"n", 5}, {"s", "a/b"}}).dump() == R"({"n":5,"s":"a/b"})");
}

TEST_CASE("log: what a peer sends is one line, without control characters") {
    Pipe pipe;
    Fd const stderr_before(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    REQUIRE(dup2(pipe.writer.get(), STDERR_FILENO) == STDERR_FILENO);
    log::error("peer says \"{}\"", "no\n00:00:00.000Z error a second line\x1b[2J\x7f \xc3\xbc");
    REQUIRE(dup2(stderr_before.get(), STDERR_FILENO) == STDERR_FILENO);
    char text[256] = {};
    auto const got = ::read(pipe.reader.get(), text, sizeof text);
    REQUIRE(got > 0);
    std::string const line(text, static_cast<std::size_t>(got));
    CHECK(
        line.ends_with("peer says \"no\\n00:00:00.000Z error a second line\\x1b[2J\\x7f "
                       "\xc3\xbc\"\n"));
    CHECK(std::ranges::count(line, '\n') == 1);
}

TEST_CASE("a recorded process is opened only while it is that process") {
    auto loop = make_loop();
    auto process = spawn({"/bin/sh", "-c", "exec sleep 100"}, {});
    REQUIRE(process);
    auto recorded = process->identity();
    REQUIRE(recorded);
    auto json = Json::object({{"other", 1}});
    recorded->add_to(json);
    CHECK(ProcessIdentity::from_json(json) == *recorded);
    CHECK(Process::open(*recorded));
    auto started_before = *recorded;
    --started_before.start_ticks;
    auto of_another_boot = *recorded;
    of_another_boot.boot_id.back() = '?';
    for (auto const& other : {started_before, of_another_boot, ProcessIdentity{recorded->pid}}) {
        auto const opened = Process::open(other);
        REQUIRE_FALSE(opened);
        CHECK(opened.error().code == Errc::closed);
    }
    REQUIRE(process->signal(SIGKILL));
    REQUIRE(loop->run(wait_exit(*loop, *process, Deadline::after(std::chrono::seconds(5)))));
    CHECK_FALSE(Process::open(*recorded));
    CHECK_FALSE(process->identity());
}

TEST_CASE("spawn reports what cannot be started, passes descriptors, and waits for the end") {
    auto loop = make_loop();
    auto missing = spawn({"/nonexistent/program"}, {});
    REQUIRE_FALSE(missing);
    CHECK(missing.error().what.find("/nonexistent/program") != std::string::npos);
    Pipe pipe;
    SpawnOptions options;
    options.descriptors = {{pipe.writer.get(), 7}};
    auto process = spawn({"/bin/sh", "-c", "echo hello >&7; exit 3"}, options);
    REQUIRE(process);
    auto status = loop->run(wait_exit(*loop, *process, Deadline::after(10s)));
    REQUIRE(status);
    CHECK(WEXITSTATUS(*status) == 3);
    char text[6] = {};
    CHECK(::read(pipe.reader.get(), text, 5) == 5);
    CHECK(std::string(text) == "hello");
    CHECK_FALSE(process->running());
}

namespace {

int nice_now() { return getpriority(PRIO_PROCESS, 0); }

/// The autogroup of this process's session; empty where the kernel has no autogroups.
std::string session_line() {
    std::ifstream file("/proc/self/autogroup");
    std::string line;
    std::getline(file, line);
    return line;
}

// Runs `check` in a child, so that only the child's nice value changes. Returns its result.
template <class Check>
bool in_a_child(Check const& check) {
    pid_t const pid = fork();
    if (pid == 0) _exit(check() ? 0 : 1);
    int status = -1;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

}  // namespace

TEST_CASE("a raised nice value is set back, and is not raised where that is forbidden") {
    constexpr int steps = 7;
    if (geteuid() != 0) {
        WARN("skipped: only root may come back");
    } else {
        CHECK(in_a_child([] {
            int const before = nice_now();
            bool behind = false;
            {
                core::ScopedNice const give_way(steps);
                behind = nice_now() == std::min(before + steps, 19);
            }
            return behind && nice_now() == before;
        }));
        bool const by_session = !session_line().empty();
        if (!by_session) WARN("not shown: this kernel does not share the processor by session");
        CHECK(in_a_child([by_session] {
            if (setsid() < 0) return false;
            auto const before = session_line();
            std::string meanwhile;
            {
                core::ScopedNice const give_way(steps);
                meanwhile = session_line();
            }
            return session_line() == before && (!by_session || meanwhile.ends_with(" nice 7"));
        }));
        CHECK(in_a_child([] {  // the session of other processes stays as it is
            auto const before = session_line();
            core::ScopedNice const give_way(steps);
            return session_line() == before;
        }));
    }
    CHECK(in_a_child([] {
        rlimit const none{0, 0};
        constexpr uid_t nobody = 65534;
        if (setrlimit(RLIMIT_NICE, &none) != 0) return false;
        if (geteuid() == 0 && setresuid(nobody, nobody, nobody) != 0) return false;
        int const before = nice_now();
        core::ScopedNice const give_way(steps);
        return nice_now() == before;
    }));
}

TEST_CASE("real-time priority ends with the last of several, and children do not inherit it") {
    auto const set_policy = [](int policy, int priority) {
        sched_param parameter{};
        parameter.sched_priority = priority;
        return sched_setscheduler(0, policy, &parameter) == 0;
    };
    bool const allowed = in_a_child([&] { return set_policy(SCHED_RR, 1); });
    if (!allowed) WARN("not shown: real-time priorities are not allowed here");
    CHECK(in_a_child([&] {
        if (!set_policy(SCHED_BATCH, 0)) return false;
        int const before = sched_getscheduler(0);
        auto const there = [&] {
            int const now = sched_getscheduler(0);
            return allowed ? now == (SCHED_RR | SCHED_RESET_ON_FORK) : now == before;
        };
        {
            std::optional<core::ScopedRealtime> first(std::in_place);
            std::optional<core::ScopedRealtime> second(std::in_place);
            if (!there()) return false;
            if (allowed && !in_a_child([] { return sched_getscheduler(0) == SCHED_OTHER; })) {
                return false;
            }
            first.reset();
            if (!there()) return false;
        }
        return sched_getscheduler(0) == before;
    }));
    auto const limited_to = [](rlim_t priority) {
        rlimit const limit{priority, priority};
        return setrlimit(RLIMIT_RTPRIO, &limit) == 0;
    };
    auto const as_nobody_with = [&](rlim_t priority, int wanted) {
        return in_a_child([&] {
            constexpr uid_t nobody = 65534;
            if (!limited_to(priority)) return false;
            if (geteuid() == 0 && setresuid(nobody, nobody, nobody) != 0) return false;
            int meanwhile = 0;
            {
                core::ScopedRealtime const first;
                meanwhile = sched_getscheduler(0);
            }
            return meanwhile == wanted &&
                   (sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_OTHER;
        });
    };
    CHECK(as_nobody_with(0, SCHED_OTHER));
    if (!in_a_child([&] { return limited_to(1); })) {
        WARN("not shown: a limit that allows it cannot be set here");
    } else {
        CHECK(as_nobody_with(1, SCHED_RR | SCHED_RESET_ON_FORK));
    }
}

TEST_CASE("a listener whose queue is full is waited for, until the deadline") {
    auto loop = make_loop();
    std::string directory = "/tmp/sidecar-unit-XXXXXX";
    REQUIRE(mkdtemp(directory.data()) != nullptr);
    auto const path = directory + "/socket";
    auto listener = listen_unix(path, 0600);
    REQUIRE(listener);
    REQUIRE(::listen(listener->get(), 0) == 0);  // backlog for one connection
    auto const first = loop->run(connect_unix(*loop, path, Deadline::after(5s)));
    REQUIRE(first);
    auto const second = loop->run(connect_unix(*loop, path, Deadline::after(30ms)));
    REQUIRE_FALSE(second);
    CHECK(second.error().code == Errc::timed_out);
    CHECK(second.error().what.find("too many connections wait there") != std::string::npos);
    TaskGroup scope(*loop);
    scope.spawn([](Loop& on, int fd) -> Task<void> {
        (void)co_await sleep_for(on, 5ms);
        Fd const served(::accept(fd, nullptr, nullptr));
    }(*loop, listener->get()));
    CHECK(loop->run(connect_unix(*loop, path, Deadline::after(20s))));
    loop->run(scope.join());
    std::filesystem::remove_all(directory);
}

TEST_CASE("a range of ports is read, and its first free port is taken") {
    CHECK(*PortRange::parse("4800-4899") == PortRange{4800, 4899});
    CHECK(*PortRange::parse("7") == PortRange{7, 7});
    CHECK(*PortRange::parse("0") == PortRange{});
    CHECK(PortRange{4800, 4899}.text() == "4800-4899");
    CHECK(PortRange{}.text() == "0");
    for (auto const* bad : {"", "-", "2-1", "0-9", "1-", "65536", "1-70000", "1-2-3", "a"}) {
        INFO(bad);
        CHECK_FALSE(PortRange::parse(bad));
    }
    auto const any = listen_tcp("127.0.0.1", PortRange{});
    REQUIRE(any);
    auto const port = static_cast<std::uint16_t>(*local_port(any->get()));
    auto const next = static_cast<std::uint16_t>(port < 65'535 ? port + 1 : port);
    auto const none = listen_tcp("127.0.0.1", PortRange{port, port});
    REQUIRE_FALSE(none);
    CHECK(none.error().code == Errc::refused);
    auto const other = listen_tcp("127.0.0.1", PortRange{port, next});
    if (other) CHECK(*local_port(other->get()) == next);  // unless another program has it
}

TEST_CASE("host and port are split, and what is neither is refused") {
    CHECK(*split_host_port("h", "1") == std::pair<std::string, std::string>("h", "1"));
    CHECK(*split_host_port("h:2", "1") == std::pair<std::string, std::string>("h", "2"));
    CHECK(*split_host_port("[::1]:2", "1") == std::pair<std::string, std::string>("::1", "2"));
    CHECK(*split_host_port("fd00::1", "1") == std::pair<std::string, std::string>("fd00::1", "1"));
    for (auto const* bad : {"", "h:", ":2", "[::1", "[]", "[::1]x"})
        CHECK_FALSE(split_host_port(bad, "1"));
}

namespace {

struct TlsLab {
    std::filesystem::path directory;
    TlsLab() {
        std::string pattern = std::filesystem::temp_directory_path() / "core-tls-XXXXXX";
        directory = mkdtemp(pattern.data());
    }
    ~TlsLab() { std::filesystem::remove_all(directory); }
    std::string key(std::string const& file, std::string const& text, mode_t mode = 0600) {
        auto const path = directory / file;
        std::ofstream(path) << text;
        chmod(path.c_str(), mode);
        return path;
    }
};

Task<void> serve_one(Loop& loop, int listener, std::shared_ptr<TlsCredentials> credentials,
                     std::string& heard) {
    auto accepted = co_await loop.accept(listener, Deadline::after(5s));
    if (!accepted) co_return;
    auto stream = co_await secure(loop, Fd(*accepted), credentials, TlsCredentials::Side::server,
                                  "", Deadline::after(5s));
    if (!stream) {
        heard = "refused: " + stream.error().what;
        co_return;
    }
    std::byte buffer[5];
    auto got = co_await read_exactly(**stream, buffer, Deadline::after(5s));
    heard = got ? std::string(reinterpret_cast<char const*>(buffer), 5) : got.error().what;
    if (got) (void)co_await (*stream)->write_all(buffer, Deadline::after(5s));
}

Task<Result<>> say_hello(Loop& loop, int port, std::shared_ptr<TlsCredentials> credentials) {
    CO_TRY(auto socket,
           co_await connect_tcp(loop, "127.0.0.1", std::to_string(port), Deadline::after(5s)));
    CO_TRY(auto stream, co_await secure(loop, std::move(socket), credentials,
                                        TlsCredentials::Side::client, "", Deadline::after(5s)));
    auto const text = std::as_bytes(std::span("hello", 5));
    CO_TRY_VOID(co_await stream->write_all(text, Deadline::after(5s)));
    std::byte buffer[5];
    CO_TRY_VOID(co_await read_exactly(*stream, buffer, Deadline::after(5s)));
    if (!std::ranges::equal(buffer, text)) co_return fail(Errc::protocol, "that was no echo");
    co_return Result<>{};
}

Result<> converse(TlsConfig server, TlsConfig client, std::string& heard) {
    auto loop = make_loop();
    auto server_side = TlsCredentials::load(server, TlsCredentials::Side::server);
    auto client_side = TlsCredentials::load(client, TlsCredentials::Side::client);
    REQUIRE(server_side);
    REQUIRE(client_side);
    auto listener = listen_tcp("127.0.0.1", "0");
    REQUIRE(listener);
    TaskGroup scope(*loop);
    scope.spawn(serve_one(*loop, listener->get(), *server_side, heard));
    auto result = loop->run(say_hello(*loop, *local_port(listener->get()), *client_side));
    loop->run(scope.join());
    return result;
}

}  // namespace

TEST_CASE("tls: the same key talks, another key and plaintext are refused with a sentence") {
    TlsLab lab;
    auto const key = lab.key("a.psk", "migration:00112233445566778899aabbccddeeff\n");
    auto const other = lab.key("b.psk", "migration:ff112233445566778899aabbccddeeff\n");
    std::string heard;
    using Mode = TlsConfig::Mode;
    CHECK(converse({Mode::psk, key}, {Mode::psk, key}, heard));
    CHECK(heard == "hello");
    auto wrong = converse({Mode::psk, key}, {Mode::psk, other}, heard);
    REQUIRE_FALSE(wrong);
    INFO(wrong.error().what);
    CHECK(wrong.error().code == Errc::refused);
    CHECK(heard != "hello");
    auto plain = converse({Mode::psk, key}, {Mode::plaintext, ""}, heard);
    CHECK_FALSE(plain);
    CHECK(heard != "hello");
}

TEST_CASE("tls: key files that are no keys, missing, or readable by others are refused") {
    TlsLab lab;
    using Mode = TlsConfig::Mode;
    auto const load = [](std::string const& path) {
        return TlsCredentials::load({Mode::psk, path}, TlsCredentials::Side::client);
    };
    CHECK_FALSE(load(lab.directory / "gone"));
    CHECK_FALSE(load(lab.key("short", "a:0011\n")));
    CHECK_FALSE(load(lab.key("nokey", "hello\n")));
    auto open = load(lab.key("open", "a:00112233445566778899aabbccddeeff\n", 0644));
    REQUIRE_FALSE(open);
    CHECK(open.error().what.find("chmod 600") != std::string::npos);
}

}  // namespace core_test_cases
