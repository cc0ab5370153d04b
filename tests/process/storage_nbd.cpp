// Nbd against nbdkit and qemu-nbd: every request, every kind of failure, and an abandoned request.
#include <signal.h>

#include <cstring>

#include "storage/limits.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_nbd_cases {

using namespace storage_lab;
using storage::Buffers;
using storage::Nbd;
using storage::NbdPool;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

Deadline soon() { return Deadline::after(limit); }

Task<Result<>> fill(Nbd& nbd, Buffers& buffers, std::uint64_t offset, std::size_t length,
                    char value) {
    CO_TRY(auto buffer, co_await buffers.take(length, soon()));
    std::memset(buffer.bytes().data(), value, length);
    co_return co_await nbd.pwrite(buffer, 0, length, offset, soon());
}

Task<Result<bool>> holds(Nbd& nbd, Buffers& buffers, std::uint64_t offset, std::size_t length,
                         char value) {
    CO_TRY(auto buffer, co_await buffers.take(length, soon()));
    CO_TRY_VOID(co_await nbd.pread(buffer, length, offset, soon()));
    for (auto byte : buffer.bytes()) {
        if (byte != static_cast<std::byte>(value)) co_return false;
    }
    co_return true;
}

struct Bench {
    Directory directory;
    Runner runner;
    Buffers buffers{runner.loop(), 64 * mib, 1000};
    std::unique_ptr<Nbd> connect(storage::NbdAddress address, std::string name = "",
                                 std::vector<std::string> contexts = {}) {
        return runner.must(Nbd::connect(runner.loop(), std::move(address), std::move(name),
                                        std::move(contexts), soon()));
    }
    void close(Nbd& nbd) { runner.loop().run(nbd.close()); }
};

Task<Result<>> in_many_requests(Nbd& nbd, Buffers& buffers, core::Loop& loop, std::size_t count) {
    std::optional<core::Error> first;
    core::TaskGroup scope(loop);
    for (std::size_t i = 0; i < count; ++i) {
        struct One {
            static Task<void> run(Nbd& one, Buffers& memory, std::uint64_t at,
                                  std::optional<core::Error>& error) {
                auto const value = static_cast<char>(1 + at / 65536 % 250);
                auto written = co_await fill(one, memory, at, 65536, value);
                if (!written && !error) error = written.error();
            }
        };
        scope.spawn(One::run(nbd, buffers, i * 65536, first));
    }
    co_await scope.join();
    if (first) co_return std::unexpected(*first);
    co_return Result<>{};
}

}  // namespace

TEST_CASE("NBD: what is written is read, zeroed, trimmed and reported", "[storage][nbd]") {
    Bench bench;
    auto server = Server::nbdkit(bench.directory, {"memory", "64M"});
    auto nbd = bench.connect(server.address(), "", {"base:allocation"});
    REQUIRE(nbd->traits().size == 64 * mib);
    REQUIRE(nbd->traits().can_multi_conn);
    bench.runner.must(fill(*nbd, bench.buffers, mib, 256 * 1024, 'x'));
    REQUIRE(bench.runner.must(holds(*nbd, bench.buffers, mib, 256 * 1024, 'x')));
    bench.runner.must(nbd->flush(soon()));
    auto status = bench.runner.must(nbd->block_status("base:allocation", 0, 64 * mib, soon()));
    REQUIRE(status.size() == 3);
    REQUIRE(status[1].offset == mib);
    REQUIRE(status[1].flags == 0);
    REQUIRE(status[2].offset + status[2].length == 64 * mib);
    bench.runner.must(nbd->zero(mib, 256 * 1024, soon()));
    REQUIRE(bench.runner.must(holds(*nbd, bench.buffers, mib, 256 * 1024, 0)));
    bench.runner.must(nbd->trim(mib, 256 * 1024, soon()));
    status = bench.runner.must(nbd->block_status("base:allocation", 0, 64 * mib, soon()));
    REQUIRE(status.size() == 1);
    bench.close(*nbd);
    REQUIRE_FALSE(nbd->alive());
}

TEST_CASE("NBD: a thousand requests at once over one connection", "[storage][nbd]") {
    Bench bench;
    auto server = Server::nbdkit(bench.directory, {"memory", "64M"});
    auto nbd = bench.connect(server.address());
    bench.runner.must(in_many_requests(*nbd, bench.buffers, bench.runner.loop(), 1000));
    for (std::uint64_t i : {0u, 1u, 499u, 998u, 999u}) {
        REQUIRE(bench.runner.must(
            holds(*nbd, bench.buffers, i * 65536, 65536, static_cast<char>(1 + i % 250))));
    }
    bench.close(*nbd);
    REQUIRE(bench.buffers.bytes_taken() == 0);
}

TEST_CASE("NBD: an error of the server is reported with its reason", "[storage][nbd]") {
    Bench bench;
    auto const trigger = bench.directory.path("trigger");
    auto server =
        Server::nbdkit(bench.directory, {"--filter=error", "memory", "64M", "error-pwrite=ENOSPC",
                                         "error-pwrite-rate=100%", "error-pwrite-file=" + trigger});
    auto nbd = bench.connect(server.address());
    bench.runner.must(fill(*nbd, bench.buffers, 0, 4096, 'a'));
    lab::write_file(trigger, "");
    auto const error = bench.runner.must_fail(fill(*nbd, bench.buffers, 0, 4096, 'b'));
    REQUIRE(error.code == core::Errc::nbd);
    REQUIRE(error.os == ENOSPC);
    REQUIRE(error.sentence().find("No space left") != std::string::npos);
    lab::fs::remove(trigger);
    bench.runner.must(fill(*nbd, bench.buffers, 0, 4096, 'c'));  // the connection still works
    bench.close(*nbd);
}

TEST_CASE("NBD: a request past its deadline is abandoned", "[storage][nbd]") {
    Bench bench;
    auto server =
        Server::nbdkit(bench.directory, {"--filter=delay", "memory", "1M", "delay-read=400ms"});
    auto nbd = bench.connect(server.address());
    {
        auto buffer = bench.runner.must(bench.buffers.take(65536, soon()));
        auto const error = bench.runner.must_fail(
            nbd->pread(buffer, 65536, 0, Deadline::after(core::milliseconds(20))));
        REQUIRE(error.code == core::Errc::timed_out);
    }
    // The request is abandoned, but libnbd may still write into the buffer.
    REQUIRE(nbd->in_flight() == 1);
    REQUIRE(bench.buffers.bytes_taken() == 65536);
    std::stop_source stop;
    stop.request_stop();
    auto const stopped = bench.runner.must_fail(nbd->flush(Deadline::never(stop.get_token())));
    REQUIRE(stopped.code == core::Errc::cancelled);
    bench.runner.must(fill(*nbd, bench.buffers, 0, 4096, 'y'));
    REQUIRE(bench.runner.must(holds(*nbd, bench.buffers, 0, 4096, 'y')));
    REQUIRE(bench.buffers.bytes_taken() == 0);
    bench.close(*nbd);
}

TEST_CASE("NBD: a server that is killed fails everything in flight", "[storage][nbd]") {
    Bench bench;
    auto server =
        Server::nbdkit(bench.directory, {"--filter=delay", "memory", "64M", "delay-write=30"});
    auto nbd = bench.connect(server.address());
    struct Kill {
        static Task<void> later(core::Loop& loop, Nbd& one, lab::Daemon& daemon) {
            while (one.in_flight() < 5) (void)co_await core::sleep_for(loop, 1ms);
            daemon.signal(SIGKILL);
        }
        static Task<Result<>> beside(core::Loop& loop, Nbd& one, Buffers& buffers,
                                     lab::Daemon& daemon) {
            core::TaskGroup scope(loop);
            scope.spawn(later(loop, one, daemon));
            auto result = co_await in_many_requests(one, buffers, loop, 100);
            co_await scope.join();
            co_return result;
        }
    };
    auto const error = bench.runner.must_fail(
        Kill::beside(bench.runner.loop(), *nbd, bench.buffers, server.daemon()));
    REQUIRE(error.code == core::Errc::closed);
    REQUIRE_FALSE(nbd->alive());
    REQUIRE(nbd->in_flight() == 0);
    auto const after = bench.runner.must_fail(nbd->flush(soon()));
    REQUIRE(after.code == core::Errc::closed);
    bench.close(*nbd);
}

TEST_CASE("NBD: no server, no such export, no such context", "[storage][nbd]") {
    Bench bench;
    storage::NbdAddress const nowhere{bench.directory.path("none"), "", "", "", ""};
    auto error = bench.runner.must_fail(Nbd::connect(bench.runner.loop(), nowhere, "", {}, soon()));
    REQUIRE(error.sentence().find("none") != std::string::npos);
    make_raw(bench.directory.path("disk"), mib, {});
    auto server = Server::qemu_nbd(bench.directory,
                                   {"-f", "raw", "-x", "disk", bench.directory.path("disk")});
    error = bench.runner.must_fail(
        Nbd::connect(bench.runner.loop(), server.address(), "other", {}, soon()));
    REQUIRE(error.code == core::Errc::nbd);
    REQUIRE(error.sentence().find("other") != std::string::npos);
    error = bench.runner.must_fail(Nbd::connect(bench.runner.loop(), server.address(), "disk",
                                                {"qemu:dirty-bitmap:none"}, soon()));
    REQUIRE(error.sentence().find("qemu:dirty-bitmap:none") != std::string::npos);
}

TEST_CASE("NBD: TLS-PSK with the right key only", "[storage][nbd]") {
    Bench bench;
    auto const right = make_psk(bench.directory, "right", "sidecar", 'a') + "/keys.psk";
    auto const wrong = make_psk(bench.directory, "wrong", "sidecar", 'b') + "/keys.psk";
    auto server =
        Server::nbdkit(bench.directory, {"--tls=require", "--tls-psk=" + right, "memory", "1M"});
    auto address = server.address();
    auto error = bench.runner.must_fail(Nbd::connect(bench.runner.loop(), address, "", {}, soon()));
    INFO(error.sentence());
    REQUIRE(error.code == core::Errc::nbd);
    address.psk_username = "sidecar";
    address.psk_file = wrong;
    error = bench.runner.must_fail(Nbd::connect(bench.runner.loop(), address, "", {}, soon()));
    REQUIRE(error.code == core::Errc::nbd);
    address.psk_file = right;
    auto nbd = bench.connect(address);
    REQUIRE(nbd->traits().tls);
    bench.runner.must(fill(*nbd, bench.buffers, 0, 256 * 1024, 't'));
    REQUIRE(bench.runner.must(holds(*nbd, bench.buffers, 0, 256 * 1024, 't')));
    bench.close(*nbd);
    // The other way round: a client that has a key never talks to a server without one.
    auto plain = Server::nbdkit(bench.directory, {"memory", "1M"});
    address.unix_path = plain.address().unix_path;
    error = bench.runner.must_fail(Nbd::connect(bench.runner.loop(), address, "", {}, soon()));
    REQUIRE(error.code == core::Errc::nbd);
}

TEST_CASE("NBD: a pool spreads requests over its connections", "[storage][nbd]") {
    Bench bench;
    auto server = Server::nbdkit(bench.directory, {"memory", "64M"});
    NbdPool pool(bench.runner.loop());
    bench.runner.must(pool.open(server.address(), "", {}, 4, soon()));
    REQUIRE(pool.size() == 4);
    REQUIRE(&pool.least_loaded() != &pool.least_loaded());
    pool.first().abort("was cut by this test");
    lab::wait_until("the cut is seen", 5s, [&] {
        (void)bench.runner.loop().run(core::sleep_for(bench.runner.loop(), 1ms));
        return !pool.alive();
    });
    for (int i = 0; i < 8; ++i) REQUIRE(pool.least_loaded().alive());
    auto const said = bench.runner.must_fail(pool.first().flush(soon()));
    REQUIRE(said.code == core::Errc::closed);
    REQUIRE(said.sentence().find("the connection was cut by this test") != std::string::npos);
    bench.runner.loop().run(pool.close());
    // A server that does not support multi-conn gets one connection.
    auto single = Server::nbdkit(
        bench.directory, {"--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"});
    NbdPool alone(bench.runner.loop());
    bench.runner.must(alone.open(single.address(), "", {}, 4, soon()));
    REQUIRE(alone.size() == 1);
    bench.runner.loop().run(alone.close());
}

}  // namespace storage_nbd_cases
