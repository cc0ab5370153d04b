// The copier between nbdkit servers that fail, stall and crawl on purpose: the copy is correct, its
// memory is limited, and an error names the disk and says what to do.
#include <signal.h>

#include <cerrno>

#include "storage/copier.hpp"
#include "storage/limits.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_copier_cases {

using namespace storage_lab;
using storage::NbdPool;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

Deadline soon() { return Deadline::after(limit); }

/// A source and a target, each a pool of connections.
struct Line {
    Line(storage::NbdAddress from, storage::NbdAddress to)
        : source(runner.loop()), target(runner.loop()) {
        runner.must(source.open(from, "", {"base:allocation"}, 4, soon()));
        runner.must(target.open(to, "", {}, 4, soon()));
    }
    ~Line() {
        runner.loop().run(source.close());
        runner.loop().run(target.close());
    }
    Task<Result<>> copy(Deadline deadline, storage::RateLimiter* pace = nullptr) {
        storage::AllocationScan scan(source, target);
        storage::Copier copier(runner.loop(), {"vda", reader, target}, buffers, pace, counters);
        co_return co_await copier.run(scan, deadline);
    }
    Runner runner;
    storage::Buffers buffers{runner.loop(), 16 * mib, storage::limits::in_flight_requests_max};
    NbdPool source;
    storage::NbdReader reader{source};
    NbdPool target;
    storage::CopyCounters counters;
};

std::string url(Server const& server) {
    return "nbd+unix:///?socket=" + server.address().unix_path;
}

}  // namespace

TEST_CASE("copier: identical, holes left alone, memory bounded", "[storage][copier]") {
    Directory directory;
    auto const from = Server::nbdkit(directory, {"sparse-random", "512M", "seed=1", "percent=10"});
    auto const to = Server::nbdkit(directory, {"memory", "512M"});
    Line line(from.address(), to.address());
    line.runner.must(line.copy(soon()));
    CHECK(line.counters.data_bytes > 10 * mib);
    CHECK(line.counters.data_bytes < 200 * mib);
    CHECK(line.counters.data_bytes + line.counters.zero_bytes == 512 * mib);
    CHECK(line.buffers.bytes_taken_max() <= 16 * mib);
    CHECK(line.buffers.bytes_taken() == 0);
    CHECK(same(url(from), "raw", url(to), "raw"));
}

TEST_CASE("copier: servers that lack a feature or fail", "[storage][copier]") {
    Directory directory;
    auto const make_source = [&](std::vector<std::string> const& words) {
        // Filters first, then the plugin, then the parameters of both.
        std::vector<std::string> argv;
        for (auto const& word : words) {
            if (word.starts_with("--")) argv.push_back(word);
        }
        argv.insert(argv.end(), {"sparse-random", "32M", "seed=2", "percent=50"});
        for (auto const& word : words) {
            if (!word.starts_with("--")) argv.push_back(word);
        }
        return Server::nbdkit(directory, argv);
    };
    SECTION("the target knows no zeroes, the source no extents") {
        auto const from = make_source({"--filter=noextents"});
        auto const to = Server::nbdkit(directory, {"--filter=nozero", "memory", "32M"});
        Line line(from.address(), to.address());
        line.runner.must(line.copy(soon()));
        CHECK(same(url(from), "raw", url(to), "raw"));
    }
    SECTION("block status fails: everything is read") {
        auto const from =
            make_source({"--filter=error", "error-extents-rate=100%", "error-extents=EIO"});
        auto const to = Server::nbdkit(directory, {"memory", "32M"});
        Line line(from.address(), to.address());
        line.runner.must(line.copy(soon()));
        CHECK(line.counters.data_bytes > 5 * mib);
        CHECK(line.counters.data_bytes + line.counters.zero_bytes == 32 * mib);
    }
    SECTION("large requests are refused") {
        auto const from = make_source({"--filter=blocksize-policy", "blocksize-preferred=64K",
                                       "blocksize-maximum=128K", "blocksize-error-policy=error"});
        auto const to = Server::nbdkit(
            directory, {"--filter=blocksize-policy", "memory", "32M", "blocksize-preferred=64K",
                        "blocksize-maximum=256K", "blocksize-error-policy=error"});
        Line line(from.address(), to.address());
        line.runner.must(line.copy(soon()));
        CHECK(same(url(from), "raw", url(to), "raw"));
    }
    SECTION("every answer comes late") {
        auto const from = make_source({"--filter=delay", "rdelay=20ms"});
        auto const to =
            Server::nbdkit(directory, {"--filter=delay", "memory", "32M", "wdelay=20ms"});
        Line line(from.address(), to.address());
        auto const begun = core::Clock::now();
        line.runner.must(line.copy(soon()));
        // One after the other, 128 requests take 5 s.
        CHECK(core::Clock::now() - begun < 2s);
    }
    SECTION("the bandwidth asked for is kept") {
        auto const from = make_source({});
        auto const to = Server::nbdkit(directory, {"memory", "32M"});
        Line line(from.address(), to.address());
        storage::RateLimiter pace(line.runner.loop());
        pace.set(32 * mib);
        auto const begun = core::Clock::now();
        line.runner.must(line.copy(soon(), &pace));
        double const took = std::chrono::duration<double>(core::Clock::now() - begun).count();
        double const asked = static_cast<double>(line.counters.data_bytes) / (32.0 * mib);
        CHECK(took > asked * 0.8);
    }
}

TEST_CASE("copier: a full destination is reported by disk, with what to do", "[storage][copier]") {
    Directory directory;
    auto const from = Server::nbdkit(directory, {"pattern", "64M"});
    auto const to = Server::nbdkit(directory, {"--filter=error", "memory", "64M",
                                               "error-pwrite=ENOSPC", "error-pwrite-rate=20%"});
    Line line(from.address(), to.address());
    auto const error = line.runner.must_fail(line.copy(soon()));
    INFO(error.sentence());
    CHECK(error.code == core::Errc::nbd);
    CHECK(error.os == ENOSPC);
    CHECK(error.sentence().find("no space left: make room there") != std::string::npos);
    CHECK(error.sentence().find("vda") != std::string::npos);
    CHECK(line.target.alive());
}

TEST_CASE("copier: a source that cannot be read is reported as such", "[storage][copier]") {
    Directory directory;
    auto const from = Server::nbdkit(
        directory, {"--filter=error", "pattern", "64M", "error-pread=EIO", "error-pread-rate=20%"});
    auto const to = Server::nbdkit(directory, {"memory", "64M"});
    Line line(from.address(), to.address());
    auto const error = line.runner.must_fail(line.copy(soon()));
    CHECK(error.os == EIO);
    CHECK(error.sentence().find("source's image cannot be read") != std::string::npos);
}

TEST_CASE("copier: stopped before a frozen destination, it ends within its limit",
          "[storage][copier]") {
    Directory directory;
    auto const from = Server::nbdkit(directory, {"pattern", "64M"});
    auto to = Server::nbdkit(directory, {"memory", "64M"});
    Line line(from.address(), to.address());
    to.daemon().signal(SIGSTOP);
    auto const begun = core::Clock::now();
    auto const error = line.runner.must_fail(line.copy(Deadline::after(300ms)));
    CHECK(error.code == core::Errc::timed_out);
    CHECK(core::Clock::now() - begun < storage::limits::wind_down + 2s);
    // No write is left that could still reach the disk after a later one.
    CHECK_FALSE(line.target.alive());
    CHECK(line.buffers.bytes_taken() == 0);
    to.daemon().signal(SIGCONT);
}

}  // namespace storage_copier_cases
