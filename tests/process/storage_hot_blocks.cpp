// Blocks that a pass leaves to later passes: blocks that are dirty again already, and hot blocks.
// Real QEMUs, a writer during the copy, and every byte compared afterwards.
#include "storage/limits.hpp"
#include "storage/when_all.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_hot_blocks_cases {

using namespace storage_lab;

namespace {

/// Slow enough that a pass takes several looks at the bitmap.
constexpr std::uint64_t slow_bytes_per_second = 24 * mib;
/// Data that the bulk pass reaches after some looks at the bitmap, far from its end.
constexpr std::uint64_t late_offset = 24 * mib;
constexpr std::uint64_t late_bytes = 20 * mib;
constexpr std::uint64_t hot_offset = 8 * mib;
constexpr std::uint64_t hot_bytes = 1 * mib;

storage::MirrorOptions slow() {
    storage::MirrorOptions options;
    options.bandwidth_bytes_per_second = slow_bytes_per_second;
    return options;
}

/// Written before the copy begins, so that the first bitmap has it from the start.
Task<void> write_late(TestQemu& qemu, std::size_t count, core::Loop& loop, std::stop_token stop,
                      std::optional<core::Error>& error) {
    auto const line = fmt::format("write -P 201 {} {}", late_offset, late_bytes);
    if (auto written = co_await qemu.io(0, line); !written) error = written.error();
    co_await write_blocks(qemu, count, loop, std::move(stop), error);
}

/// Writes one place again and again, and blocks anywhere in between.
Task<void> write_hot(TestQemu& qemu, std::size_t count, core::Loop& loop, std::stop_token stop,
                     std::optional<core::Error>& error) {
    core::TaskGroup scope(loop);
    scope.spawn(write_blocks(qemu, count, loop, stop, error));
    for (int turn = 0; !stop.stop_requested() && !error; ++turn) {
        auto written = co_await qemu.io(
            0, fmt::format("write -P {} {} {}", 1 + turn % 250, hot_offset, hot_bytes));
        if (!written) error = written.error();
        (void)co_await core::sleep_for(loop, 2ms);
    }
    co_await scope.join();
}

}  // namespace

TEST_CASE("hot_blocks: the bulk pass leaves out what is dirty already, and nothing is lost",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            DYNAMIC_SECTION("QEMU " << version << ", " << format) {
                Pair pair(binary, format, 1);
                pair.write(0, fmt::format("write -P 200 {} {}", 16 * mib, 44 * mib));
                auto& mirror = pair.make_mirror(slow());
                pair.runner().must(whole_move(pair, mirror, 1, write_late));
                auto const report = mirror.report().disks.at(0);
                CHECK(report.rounds.at(0).left_out_bytes >= late_bytes * 3 / 4);
                CHECK(report.rounds.at(0).copied_bytes + report.rounds.at(0).left_out_bytes <=
                      report.rounds.at(0).dirty_bytes);
                REQUIRE(report.rounds.size() >= 2);
                CHECK(report.rounds.at(1).dirty_bytes >= late_bytes);
                CHECK(mirror.progress().fraction == 1.0);
                pair.nothing_left();
                pair.compare();
            }
        }
    }
}

TEST_CASE("hot_blocks: what the bulk pass left out is still dirty after its link was cut",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            pair.write(0, fmt::format("write -P 200 {} {}", 16 * mib, 44 * mib));
            auto options = slow();
            options.reexport = [&](Deadline deadline) {
                return pair.reexport(std::move(deadline));
            };
            auto& mirror = pair.make_mirror(options);
            // Late enough that the pass has left out blocks, and before its end.
            auto const cut_late = [&]() -> Task<Result<>> {
                while (mirror.progress().copied_bytes < 24 * mib) {
                    CO_TRY_VOID(co_await core::sleep_for(pair.runner().loop(), 1ms));
                }
                co_return co_await pair.cut_connections();
            };
            std::vector<Task<Result<>>> both;
            both.push_back(whole_move(pair, mirror, 1, write_late));
            both.push_back(cut_late());
            pair.runner().must(storage::when_all(pair.runner().loop(), std::move(both)));
            CHECK(mirror.report().cuts == 1);
            CHECK(mirror.report().disks.at(0).rounds.at(0).left_out_bytes >= late_bytes * 3 / 4);
            pair.compare();
        }
    }
}

TEST_CASE("hot_blocks: hot blocks wait for the last delta while it holds them",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            auto& mirror = pair.make_mirror(slow());
            pair.runner().must(whole_move(pair, mirror, 1, write_hot));
            auto const report = mirror.report().disks.at(0);
            REQUIRE(report.rounds.size() >= 3);
            // The first round cannot know the hot blocks yet.
            CHECK(report.rounds.at(1).copied_bytes >= hot_bytes);
            for (std::size_t i = 2; i < report.rounds.size(); ++i) {
                CHECK(report.rounds.at(i).left_out_bytes >= hot_bytes);
                CHECK(report.rounds.at(i).copied_bytes < hot_bytes);
            }
            CHECK(report.final_bytes >= hot_bytes);
            CHECK(mirror.convergence().hot_bytes >= hot_bytes);
            CHECK(mirror.convergence().converged);
            pair.nothing_left();
            pair.compare();
        }
    }
}

TEST_CASE("hot_blocks: hot blocks that the last delta cannot hold are copied in the rounds",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            auto options = slow();
            options.downtime_limit = 10ms;  // 240 KiB at that rate
            auto& mirror = pair.make_mirror(options);
            pair.runner().must(whole_move(pair, mirror, 1, write_hot));
            auto const report = mirror.report().disks.at(0);
            REQUIRE(report.rounds.size() >= 3);
            for (std::size_t i = 1; i < report.rounds.size(); ++i) {
                CHECK(report.rounds.at(i).dirty_bytes >= hot_bytes);
                CHECK(report.rounds.at(i).copied_bytes >= hot_bytes / 2);
            }
            pair.compare();
        }
    }
}

TEST_CASE("hot_blocks: a bulk pass that left out too much to know the rate makes no disk converged",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            storage::MirrorOptions options;
            options.bandwidth_bytes_per_second = 4 * mib;
            auto& mirror = pair.make_mirror(options);
            pair.runner().must(mirror.prepare(soon()));
            // One large write: the number of requests alone would not count it as hot.
            pair.write(0, fmt::format("write -P 77 {} {}", 4 * mib, 16 * mib));
            auto const converged = pair.runner().must(mirror.copy_until_converged(soon()));
            auto const report = mirror.report().disks.at(0);
            CHECK(report.rounds.at(0).copied_bytes < storage::limits::rate_bytes_min);
            REQUIRE(report.rounds.size() >= 2);
            CHECK(report.rounds.at(1).copied_bytes >= 14 * mib);
            CHECK(converged.converged);
            CHECK(converged.delta_bytes == 0);
            CHECK(converged.rate_bytes_per_second < 6 * mib);
            pair.runner().must(mirror.list_final(soon()));
            pair.runner().must(mirror.copy_final(soon()));
            pair.runner().must(pair.target().seal(soon()));
            pair.runner().must(mirror.drop(soon()));
            pair.compare();
        }
    }
}

TEST_CASE("hot_blocks: a hot block that is not written again is still dirty",
          "[storage][hot_blocks]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            auto& mirror = pair.make_mirror(slow());
            pair.runner().must(mirror.prepare(soon()));
            pair.write(0, fmt::format("write -P 1 {} {}", hot_offset, hot_bytes));
            (void)pair.runner().must(mirror.copy_until_converged(soon()));
            pair.write(0, fmt::format("write -P 2 {} {}", hot_offset, hot_bytes));
            pair.write(0, fmt::format("write -P 3 {} {}", 30 * mib, 2 * mib));
            (void)pair.runner().must(mirror.copy_until_converged(soon()));
            CHECK(mirror.report().disks.at(0).rounds.back().left_out_bytes == hot_bytes);
            pair.runner().must(mirror.list_final(soon()));
            pair.runner().must(mirror.copy_final(soon()));
            CHECK(mirror.report().disks.at(0).final_bytes == hot_bytes);
            pair.runner().must(pair.target().seal(soon()));
            pair.runner().must(mirror.drop(soon()));
            pair.compare();
        }
    }
}

}  // namespace storage_hot_blocks_cases
