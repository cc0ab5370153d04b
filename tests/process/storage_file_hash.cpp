// The hash of a base equals sha256sum's; and when it is cached.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fd.hpp"
#include "storage/file_hash.hpp"
#include "storage/limits.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_file_hash_cases {

using namespace storage_lab;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

Deadline soon() { return Deadline::after(limit); }

std::string sum_of(std::string const& path) {
    return lab::must_run({"sha256sum", path}).substr(0, 64);
}

/// A time from which a file written now counts as old.
std::chrono::system_clock::time_point later() {
    return std::chrono::system_clock::now() + 2 * storage::limits::file_settled;
}

}  // namespace

TEST_CASE("file hash: what sha256sum says, of the whole and of parts", "[storage][hash]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("base");
    for (std::uint64_t const size : {std::uint64_t{0}, std::uint64_t{1}, 3 * mib, 3 * mib + 4711}) {
        make_raw(path, size, {{0, size / 2}});
        std::uint64_t done = 0;
        auto const hash = runner.must(storage::hash_file(runner.loop(), path, done, soon()));
        CHECK(hash.sha256 == sum_of(path));
        CHECK(done == size);
        CHECK(hash.identity == *storage::identity_of(path));
    }
    auto const part = directory.path("part");
    lab::write_file(part, lab::read_file(path).substr(2 * mib));
    auto const tail =
        runner.must(storage::hash_part(runner.loop(), path, 2 * mib, 64 * mib, soon()));
    CHECK(tail == sum_of(part));
    CHECK(
        runner.must_fail(storage::hash_part(runner.loop(), directory.text(), 0, 1, soon())).code ==
        core::Errc::invalid);
    std::uint64_t done = 0;
    auto const none = directory.path("none");
    CHECK(runner.must_fail(storage::hash_file(runner.loop(), none, done, soon())).os == ENOENT);
    REQUIRE(mkfifo(none.c_str(), 0600) == 0);
    CHECK(runner.must_fail(storage::hash_file(runner.loop(), none, done, soon())).code ==
          core::Errc::invalid);
}

TEST_CASE("file hash: a file that is written meanwhile has none", "[storage][hash]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("base");
    make_raw(path, 64 * mib, {});
    std::uint64_t done = 0;
    auto const write_in_the_middle = [&]() -> Task<Result<>> {
        while (done < 8 * mib) CO_TRY_VOID(co_await core::sleep_for(runner.loop(), 1ms));
        core::Fd const file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
        if (pwrite(file.get(), "x", 1, 0) != 1) co_return core::fail_errno(errno, "no write");
        co_return Result<>{};
    };
    core::TaskGroup scope(runner.loop());
    std::optional<Result<storage::FileHash>> hash;
    Result<> written;
    auto const read = [&]() -> Task<void> {
        hash = co_await storage::hash_file(runner.loop(), path, done, soon());
    };
    auto const both = [&]() -> Task<Result<>> {
        scope.spawn(read());
        written = co_await write_in_the_middle();
        co_await scope.join();
        co_return written;
    };
    runner.must(both());
    REQUIRE_FALSE(hash->has_value());
    CHECK(hash->error().code == core::Errc::refused);
}

TEST_CASE("file hash: remembered for exactly this file", "[storage][hash]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("base");
    storage::HashMemory const memory(directory.path("memory"));
    make_raw(path, mib, {{0, mib}});
    std::uint64_t done = 0;
    auto const hash = runner.must(storage::hash_file(runner.loop(), path, done, soon()));
    CHECK_FALSE(memory.find(hash.identity));
    // A file modified just now could change again with the same timestamps.
    memory.remember(hash, std::chrono::system_clock::now());
    CHECK_FALSE(memory.find(hash.identity));
    memory.remember(hash, later());
    CHECK(memory.find(hash.identity) == hash.sha256);
    SECTION("one byte is written, and its time put back") {
        struct stat before{};
        REQUIRE(stat(path.c_str(), &before) == 0);
        core::Fd const file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
        REQUIRE(pwrite(file.get(), "x", 1, 100) == 1);
        timespec const times[] = {before.st_atim, before.st_mtim};
        REQUIRE(futimens(file.get(), times) == 0);
        auto const now = *storage::identity_of(path);
        CHECK(now.mtime_ns == hash.identity.mtime_ns);
        CHECK_FALSE(memory.find(now));
    }
    SECTION("another file gets its name") {
        make_raw(path + ".new", mib, {});
        lab::fs::rename(path + ".new", path);
        CHECK_FALSE(memory.find(*storage::identity_of(path)));
    }
    SECTION("what is remembered is broken") {
        for (auto const& entry : lab::fs::directory_iterator(directory.path("memory"))) {
            lab::write_file(entry.path(), "{\"file\":");
        }
        CHECK_FALSE(memory.find(hash.identity));
    }
    SECTION("it is one of many") {
        auto other = hash;
        for (std::uint64_t i = 0; i < 2 * storage::limits::hashes_remembered_max; ++i) {
            other.identity.inode = 1'000'000 + i;
            memory.remember(other, later());
        }
        std::size_t count = 0;
        for (auto const& entry : lab::fs::directory_iterator(directory.path("memory"))) {
            count += entry.exists() ? 1 : 0;
        }
        CHECK(count == storage::limits::hashes_remembered_max);
        CHECK(memory.find(other.identity) == other.sha256);
    }
}

}  // namespace storage_file_hash_cases
