// Verification between two real QEMUs. Identical disks are reported as identical, with a hash that
// can be computed from the image alone. A byte changed at the destination, and a write at the
// source that is in no bitmap, are found and named.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "storage/hasher.hpp"
#include "storage/limits.hpp"
#include "storage/verify.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_verify_cases {

using namespace storage_lab;
using storage::Extent;
using storage::Mirror;

namespace {

/// The part of the destination's sidecar that hashes; a test can act before each of its answers.
class Destination {
public:
    using Asked = std::function<Task<Result<>>(std::size_t disk, std::vector<Extent> const&)>;

    explicit Destination(Pair& pair, std::size_t count) : pair_(pair), count_(count) {}
    ~Destination() { close(); }
    void close() {
        if (hasher_) pair_.runner().loop().run(hasher_->close());
        hasher_.reset();
    }
    storage::Hasher& hasher() {
        if (hasher_) return *hasher_;
        auto& client = pair_.destination().client();
        auto const nodes = pair_.runner().must(qmp::query_named_block_nodes(client, soon()));
        std::vector<storage::HashedDisk> disks;
        for (std::size_t i = 0; i < count_; ++i) {
            storage::HashedDisk disk{fmt::format("disk{}", i), {}};
            auto const node =
                std::ranges::find(nodes, TestQemu::node(i), &qmp::BlockNode::node_name);
            REQUIRE(node != nodes.end());
            auto image = storage::ImageFile::open(*node, pair_.destination().daemon().pid());
            CHECK(image.has_value() == (pair_.to(i).format == "raw"));
            if (image) disk.image = std::move(*image);
            disks.push_back(std::move(disk));
        }
        auto const& where = pair_.where();
        hasher_ = std::make_unique<storage::Hasher>(
            pair_.runner().loop(),
            storage::NbdAddress{"", where.host, where.port, where.psk_username, where.psk_file},
            std::move(disks));
        pair_.runner().must(hasher_->open(soon()));
        return *hasher_;
    }
    /// A mirror that verifies. It calls `asked` before each question to the destination.
    Mirror& make_mirror(Asked asked = {}, storage::MirrorOptions options = {}) {
        (void)hasher();
        asked_ = std::move(asked);
        options.hash = [this](std::size_t disk, std::vector<Extent> ranges, Deadline deadline) {
            return answer(disk, std::move(ranges), std::move(deadline));
        };
        std::vector<std::shared_ptr<storage::BlockTable>> tables;
        for (std::size_t i = 0; i < count_; ++i) {
            auto table = storage::BlockTable::create(
                pair_.directory().path("table-" + lab::unique_suffix()), disk_bytes);
            REQUIRE(table);
            tables.push_back(*table);
        }
        return pair_.make_mirror(options, tables);
    }
    [[nodiscard]] std::size_t questions() const { return questions_; }

    /// Changes one byte of a disk through the export, unknown to the mirror.
    Task<Result<>> change_byte(std::size_t disk, std::uint64_t offset) {
        std::uint64_t const block = offset / 4096 * 4096;
        auto const& where = pair_.where();
        CO_TRY(auto const nbd, co_await storage::Nbd::connect(
                                   pair_.runner().loop(),
                                   {"", where.host, where.port, where.psk_username, where.psk_file},
                                   fmt::format("disk{}", disk), {}, soon()));
        CO_TRY(auto buffer, co_await stray_.take(4096, soon()));
        auto done = co_await nbd->pread(buffer, 4096, block, soon());
        buffer.bytes()[offset - block] ^= std::byte{1};
        if (done) done = co_await nbd->pwrite(buffer, 0, 4096, block, soon());
        if (done) done = co_await nbd->flush(soon());
        co_await nbd->close();
        co_return done;
    }

private:
    Task<Result<std::string>> answer(std::size_t disk, std::vector<Extent> ranges,
                                     Deadline deadline) {
        ++questions_;
        if (asked_) CO_TRY_VOID(co_await asked_(disk, ranges));
        co_return co_await hasher_->hash(disk, std::move(ranges), std::move(deadline));
    }

    Pair& pair_;
    std::size_t count_;
    Asked asked_;
    std::size_t questions_ = 0;
    storage::Buffers stray_{pair_.runner().loop(), storage::limits::request_bytes_max, 1};
    std::unique_ptr<storage::Hasher> hasher_;
};

/// The hash of an image, computed without any of the code that copied it.
std::string hash_of_image(Runner& runner, Directory const& directory, TestDisk const& disk) {
    auto const raw = directory.path("compared.raw");
    lab::must_run({"qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.path, raw});
    auto const text = lab::read_file(raw);
    auto const table =
        storage::BlockTable::create(directory.path("table-" + lab::unique_suffix()), text.size());
    REQUIRE(table);
    (*table)->record(0, std::as_bytes(std::span(text)));
    lab::fs::remove(raw);
    return runner.must((*table)->digest(runner.loop()));
}

/// Checks progress repeatedly: it never decreases.
struct Forward {
    Task<Result<>> look() {
        auto const now = mirror->progress();
        CHECK(now.phase >= before.phase);
        CHECK(now.done_bytes >= before.done_bytes);
        CHECK(now.total_bytes >= before.total_bytes);
        CHECK(now.fraction >= before.fraction);
        CHECK((!before.eta || now.eta <= before.eta));
        // The pass over everything is half of the work.
        if (phases.empty()) CHECK(now.fraction < 0.75);
        before = now;
        phases.push_back(now.phase);
        co_return Result<>{};
    }
    Mirror* mirror = nullptr;
    storage::Progress before;
    std::vector<storage::MirrorPhase> phases;
};

/// Sets `code` to the error, or to invalid when there was none.
Task<void> hash_whole(storage::Hasher& hasher, core::Errc& code) {
    auto const made = co_await hasher.hash(0, {{0, disk_bytes, false}}, soon());
    code = made ? core::Errc::invalid : made.error().code;
}

void change_file(std::string const& path, std::uint64_t offset) {
    core::Fd const file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(file);
    char byte = 0;
    REQUIRE(pread(file.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
    byte = static_cast<char>(byte ^ 1);
    REQUIRE(pwrite(file.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
}

}  // namespace

TEST_CASE("verify: disks that are being written arrive, and are known to be identical",
          "[storage][verify]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            for (std::size_t const count : {1u, 3u}) {
                DYNAMIC_SECTION("QEMU " << version << ", " << format << ", disks: " << count) {
                    Pair pair(binary, format, count, false, format == "qcow2" && count == 1);
                    Destination destination(pair, count);
                    Forward forward;
                    auto& mirror = destination.make_mirror(
                        [&](std::size_t, std::vector<Extent> const&) { return forward.look(); });
                    forward.mirror = &mirror;
                    pair.runner().must(whole_move(pair, mirror, count));
                    CHECK(forward.phases.front() == storage::MirrorPhase::verifying);
                    CHECK(forward.phases.back() == storage::MirrorPhase::final_delta);
                    auto const report = mirror.report();
                    REQUIRE(report.verify);
                    CHECK(report.verify->identical);
                    CHECK(report.verify->bytes == count * disk_bytes);
                    CHECK(report.verify->difference.empty());
                    CHECK(destination.questions() > count);
                    auto const progress = mirror.progress();
                    CHECK(progress.done_bytes == progress.total_bytes);
                    pair.nothing_left();
                    destination.close();
                    pair.compare();
                    for (std::size_t i = 0; i < count; ++i) {
                        CHECK(report.disks[i].hash ==
                              hash_of_image(pair.runner(), pair.directory(), pair.to(i)));
                    }
                }
            }
        }
    }
}

TEST_CASE("verify: without it nothing is hashed", "[storage][verify]") {
    Pair pair(oldest_qemu(), "raw", 1);
    auto& mirror = pair.make_mirror();
    pair.runner().must(whole_move(pair, mirror, 1));
    CHECK_FALSE(mirror.report().verify);
    CHECK(mirror.report().disks[0].hash.empty());
}

TEST_CASE("verify: a byte changed at the destination is found by the pass over everything",
          "[storage][verify]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            // In data, in a hole of ours, and in the last bytes.
            for (std::uint64_t const offset :
                 {9 * mib + 4096 * 3 + 7, 40 * mib + 4095, disk_bytes - 1}) {
                DYNAMIC_SECTION("QEMU " << version << ", " << format << ", byte " << offset) {
                    Pair pair(binary, format, 2);
                    Destination destination(pair, 2);
                    bool done = false;
                    auto& mirror = destination.make_mirror([&](std::size_t disk,
                                                               std::vector<Extent> const&) {
                        auto const change = [](Destination& there, bool wanted,
                                               std::uint64_t at) -> Task<Result<>> {
                            if (!wanted) co_return Result<>{};
                            co_return co_await there.change_byte(1, at);
                        };
                        return change(destination, disk == 1 && !std::exchange(done, true), offset);
                    });
                    pair.runner().must(mirror.prepare(soon()));
                    auto const error = pair.runner().must_fail(mirror.copy_until_converged(soon()));
                    INFO(error.sentence());
                    CHECK(error.code == core::Errc::io);
                    CHECK(error.sentence().find("disk disk1") != std::string::npos);
                    CHECK(error.sentence().find(fmt::format("at byte {};", offset / 4096 * 4096)) !=
                          std::string::npos);
                    auto const report = mirror.report();
                    CHECK_FALSE(report.verify->identical);
                    CHECK(report.verify->difference == "disk1");
                    CHECK(report.verify->difference_offset == offset / 4096 * 4096);
                    pair.runner().must(mirror.drop(soon()));
                    pair.nothing_left();
                }
            }
        }
    }
}

TEST_CASE("verify: a byte changed in a block of the last delta is found before the end",
          "[storage][verify]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            DYNAMIC_SECTION("QEMU " << version << ", " << format) {
                Pair pair(binary, format, 1);
                Destination destination(pair, 1);
                constexpr std::uint64_t block = 50 * mib + 4096;
                bool last = false;
                std::vector<Extent> asked;
                auto& mirror =
                    destination.make_mirror([&](std::size_t, std::vector<Extent> const& ranges) {
                        auto const change = [](Destination& there, bool wanted) -> Task<Result<>> {
                            if (!wanted) co_return Result<>{};
                            co_return co_await there.change_byte(0, block + 100);
                        };
                        if (last && asked.empty()) asked = ranges;
                        return change(destination, std::exchange(last, false));
                    });
                pair.runner().must(mirror.prepare(soon()));
                (void)pair.runner().must(mirror.copy_until_converged(soon()));
                pair.runner().must(mirror.arm(soon()));
                pair.write(0, fmt::format("write -P 5 {} 4096", block));
                pair.write(0, fmt::format("write -P 6 {} 4096", 2 * mib));
                pair.runner().must(mirror.list_final(soon()));
                last = true;
                auto const error = pair.runner().must_fail(mirror.copy_final(soon()));
                INFO(error.sentence());
                CHECK(asked == std::vector<Extent>{{2 * mib, 4096, false}, {block, 4096, false}});
                CHECK(error.code == core::Errc::io);
                CHECK(error.sentence().find(fmt::format("at byte {};", block)) !=
                      std::string::npos);
                CHECK_FALSE(mirror.report().verify->identical);
                pair.runner().must(mirror.drop(soon()));
                pair.nothing_left();
            }
        }
    }
}

TEST_CASE("verify: a write to the source's image that no bitmap records is found",
          "[storage][verify]") {
    Pair pair(oldest_qemu(), "raw", 1);
    Destination destination(pair, 1);
    bool done = false;
    auto& mirror = destination.make_mirror([&](std::size_t, std::vector<Extent> const&) {
        // At the first question nothing of the source has been read again yet.
        if (!std::exchange(done, true)) change_file(pair.from(0).path, 10 * mib + 5);
        return []() -> Task<Result<>> { co_return Result<>{}; }();
    });
    pair.runner().must(mirror.prepare(soon()));
    auto const error = pair.runner().must_fail(mirror.copy_until_converged(soon()));
    INFO(error.sentence());
    CHECK(error.code == core::Errc::io);
    CHECK(error.sentence().find(fmt::format("at byte {},", 10 * mib)) != std::string::npos);
    pair.runner().must(mirror.drop(soon()));
}

TEST_CASE("verify: after a cut in the middle of it the connections are made again",
          "[storage][verify]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 2);
            Destination destination(pair, 2);
            storage::MirrorOptions options;
            options.reexport = [&](Deadline deadline) {
                return pair.reexport(std::move(deadline));
            };
            bool done = false;
            auto& mirror = destination.make_mirror(
                [&](std::size_t, std::vector<Extent> const&) {
                    auto const cut = [](Pair& both, bool wanted) -> Task<Result<>> {
                        if (!wanted) co_return Result<>{};
                        CO_TRY_VOID(co_await both.cut_connections());
                        co_return core::fail(core::Errc::closed, "cut");
                    };
                    return cut(pair, !std::exchange(done, true));
                },
                options);
            // The hasher's own connections are cut too. Raw images need them only to look up what
            // is allocated. They are made again as the destination's sidecar does.
            pair.runner().must(mirror.prepare(soon()));
            auto converged = pair.runner().loop().run(mirror.copy_until_converged(soon()));
            if (!converged) {  // the second question found the hasher's connections dead
                destination.close();
                (void)destination.hasher();
                (void)pair.runner().must(mirror.copy_until_converged(soon()));
            }
            CHECK(mirror.report().cuts == 1);
            pair.runner().must(mirror.list_final(soon()));
            pair.runner().must(mirror.copy_final(soon()));
            CHECK(mirror.report().verify->identical);
            pair.runner().must(pair.target().seal(soon()));
            pair.runner().must(mirror.drop(soon()));
            destination.close();
            pair.compare();
        }
    }
}

TEST_CASE("verify: the destination answers no more than it should", "[storage][verify]") {
    Pair pair(oldest_qemu(), "qcow2", 1);
    Destination destination(pair, 1);
    auto& hasher = destination.hasher();
    auto const refuses = [&](std::size_t disk, std::vector<Extent> const& ranges) {
        auto const error = pair.runner().must_fail(hasher.hash(disk, ranges, soon()));
        INFO(error.sentence());
        CHECK(error.code == core::Errc::invalid);
    };
    refuses(1, {{0, 4096, false}});
    refuses(0, {});
    refuses(0, {{0, 100, false}});
    refuses(0, {{1, 4096, false}});
    refuses(0, {{disk_bytes, 4096, false}});
    refuses(0, {{0, disk_bytes + 4096, false}});
    refuses(0, {{4096, 4096, false}, {0, 4096, false}});
    refuses(0, {{0, 8192, false}, {4096, 4096, false}});
    refuses(0, {{4096, UINT64_MAX - 4095, false}});

    core::TaskGroup scope(pair.runner().loop());
    std::vector<core::Errc> codes(storage::limits::hash_requests_max + 1);
    for (auto& code : codes) scope.spawn(hash_whole(hasher, code));
    pair.runner().loop().run(scope.join());
    CHECK(std::ranges::count(codes, core::Errc::refused) == 1);

    // Closed in the middle: no caller waits forever.
    core::Errc code{};
    scope.spawn(hash_whole(hasher, code));
    destination.close();
    pair.runner().loop().run(scope.join());
    CHECK(code != core::Errc::invalid);
}

}  // namespace storage_verify_cases
