// A registry in files: compare-and-swap between processes, watch, signs of life, damaged files.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sidecar/registry/file_registry.hpp"
#include "tests/process/registry_lab.hpp"

namespace registry_file_cases {

using namespace registry_lab;
using core::Errc;
using sidecar::registry::FileRegistry;

namespace {

constexpr std::uint64_t tokens = 200;

Task<int> race(FileRegistry& registry, std::string id) {
    int won = 0;
    for (std::uint64_t token = 1; token <= tokens; ++token) {
        auto const done = co_await registry.commit(entry_of({id}, token), token - 1, soon());
        if (!done) co_return -1;
        if (done->done) ++won;
    }
    co_return won;
}

/// In a process of its own; its exit status is the number of its successes, 255: a failure.
pid_t start_racer(std::string const& directory, std::string const& id) {
    pid_t const child = fork();
    if (child != 0) return child;
    auto loop = core::Loop::create();
    if (!loop) _exit(255);
    FileRegistry registry(**loop, directory);
    int const won = (*loop)->run(race(registry, id));
    _exit(won < 0 ? 255 : won);
}

int status_of(pid_t child) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("registry: files: an entry is replaced by the one who knows its token", "[registry]") {
    Directory directory;
    Runner runner;
    FileRegistry registry(runner.loop(), directory.path("registry"));
    CHECK_FALSE(runner.must(registry.read("web1", soon())));
    auto const first = entry_of({"a"}, 1);
    CHECK(runner.must(registry.commit(first, 0, soon())).done);
    CHECK(runner.must(registry.commit(first, 0, soon())).done);
    auto const late = runner.must(registry.commit(entry_of({"b"}, 1), 0, soon()));
    CHECK_FALSE(late.done);
    CHECK(late.stored == first);
    CHECK(runner.must(registry.commit(entry_of({"b"}, 2), 1, soon())).done);
    CHECK(runner.must(registry.read("web1", soon())) == entry_of({"b"}, 2));
}

TEST_CASE("registry: files: of two processes one wins each token", "[registry]") {
    Directory directory;
    auto const where = directory.path("registry");
    auto const one = start_racer(where, "a");
    auto const two = start_racer(where, "b");
    int const won_one = status_of(one);
    int const won_two = status_of(two);
    INFO(won_one << " and " << won_two);
    CHECK(won_one + won_two == static_cast<int>(tokens));
    Runner runner;
    FileRegistry registry(runner.loop(), where);
    CHECK(runner.must(registry.read("web1", soon()))->token == tokens);
}

TEST_CASE("registry: files: a lock that another holds ends the request in time", "[registry]") {
    Directory directory;
    Runner runner;
    FileRegistry registry(runner.loop(), directory.text());
    core::Fd holder(open(directory.path(".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(holder);
    struct flock whole{};
    whole.l_type = F_WRLCK;
    REQUIRE(fcntl(holder.get(), F_OFD_SETLK, &whole) == 0);
    auto const error =
        runner.must_fail(registry.commit(entry_of({"a"}, 1), 0, Deadline::after(200ms)));
    CHECK(error.code == Errc::timed_out);
    holder.reset();
    CHECK(runner.must(registry.commit(entry_of({"a"}, 1), 0, soon())).done);
}

TEST_CASE("registry: files: a damaged file is reported and not overwritten", "[registry]") {
    Directory directory;
    Runner runner;
    FileRegistry registry(runner.loop(), directory.text());
    lab::write_file(directory.path("web1.json"), "{\"guest\":\"web1\"");
    CHECK(runner.must_fail(registry.read("web1", soon())).code == Errc::protocol);
    CHECK(runner.must_fail(registry.commit(entry_of({"a"}, 1), 0, soon())).code == Errc::protocol);
}

TEST_CASE("registry: files: a watch reports each change, and a host its signs of life",
          "[registry]") {
    Directory directory;
    Runner runner;
    FileRegistry registry(runner.loop(), directory.path("registry"));
    std::vector<std::optional<Entry>> seen;
    {
        Beside beside(runner);
        beside.spawn(registry.watch(
            "web1",
            {.changed = [&](std::optional<Entry> const& entry) { seen.push_back(entry); },
             .unreachable = [](core::Error const&) {}},
            Deadline::never(beside.token())));
        beside.spawn(
            registry.hold_host({"0123456789abcdef", "hosta", ""}, Deadline::never(beside.token())));
        run_until(runner, "the first report", [&] { return seen.size() == 1; });
        runner.must(registry.commit(entry_of({"a"}, 1), 0, soon()));
        run_until(runner, "the change", [&] { return seen.size() == 2; });
        CHECK(seen[1] == entry_of({"a"}, 1));
        auto const host = runner.must(registry.read_host("0123456789abcdef", soon()));
        REQUIRE(host);
        CHECK(host->alive);
        CHECK(host->host.name == "hosta");
    }
    CHECK_FALSE(runner.must(registry.read_host("0123456789abcdef", soon())));
    CHECK_FALSE(runner.must(registry.read_host("../web1", soon())));
}

}  // namespace registry_file_cases
