// The mirror between two real QEMUs, 7.2 and 10.0, without a guest. Compares every byte.
#include <signal.h>

#include <algorithm>

#include "qmp/block.hpp"
#include "storage/exports.hpp"
#include "storage/limits.hpp"
#include "storage/when_all.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_mirror_cases {

using namespace storage_lab;

namespace {

void check_report(Mirror const& mirror, std::size_t count, bool image) {
    auto const report = mirror.report();
    REQUIRE(report.disks.size() == count);
    for (auto const& disk : report.disks) {
        CHECK(disk.virtual_bytes == disk_bytes);
        CHECK(disk.rounds.size() >= 1);
        CHECK(disk.rounds[0].dirty_bytes >= 15 * mib);
        CHECK(disk.rounds[0].dirty_bytes < 20 * mib);  // holes were not copied
        CHECK(disk.copied_bytes < 40 * mib);
        CHECK(disk.reads_image == image);
        std::uint64_t written = disk.final_bytes;
        for (std::size_t i = 1; i < disk.rounds.size(); ++i) written += disk.rounds[i].dirty_bytes;
        CHECK(written > 0);
    }
    CHECK(report.in_flight_bytes_peak <= storage::limits::in_flight_bytes_max);
    auto const progress = mirror.progress();
    CHECK(progress.done_bytes == progress.total_bytes);
    CHECK(progress.fraction == 1.0);
}

/// A guest that allocates nothing, so that the size of the bulk pass is known.
Task<void> write_in_data(TestQemu& qemu, std::size_t, core::Loop& loop, std::stop_token stop,
                         std::optional<core::Error>& error) {
    for (std::uint64_t block = 0; !stop.stop_requested() && !error; block = (block + 1) % 512) {
        auto written = co_await qemu.io(0, fmt::format("write -P 77 {} 4096", block * 4096));
        if (!written) error = written.error();
        (void)co_await core::sleep_for(loop, 5ms);
    }
}

}  // namespace

TEST_CASE("mirror: after a cut the connections are made again, and nothing is copied twice",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::size_t const count : {1u, 2u}) {
            DYNAMIC_SECTION("QEMU " << version << ", disks: " << count) {
                Pair pair(binary, "raw", count);
                storage::MirrorOptions options;
                options.bandwidth_bytes_per_second = 40 * mib * count;  // slow enough to be met
                options.reexport = [&](core::Deadline deadline) {
                    return pair.reexport(std::move(deadline));
                };
                Mirror& mirror = pair.make_mirror(options);
                bool cut = false;
                auto const cut_in_the_middle = [&]() -> Task<Result<>> {
                    while (mirror.progress().copied_bytes < 5 * mib * count) {
                        CO_TRY_VOID(co_await core::sleep_for(pair.runner().loop(), 1ms));
                    }
                    cut = true;
                    co_return co_await pair.cut_connections();
                };
                std::vector<Task<Result<>>> both;
                both.push_back(whole_move(pair, mirror, count));
                both.push_back(cut_in_the_middle());
                pair.runner().must(storage::when_all(pair.runner().loop(), std::move(both)));
                CHECK(cut);
                CHECK(mirror.report().cuts == 1);
                check_report(mirror, count, true);
                pair.compare();
            }
        }
    }
}

TEST_CASE("mirror: the destination's QEMU is killed, and another continues with its disks",
          "[storage][mirror]") {
    struct Death {
        char const* format;
        std::uint64_t bytes_per_second;
        std::uint64_t after_bytes;
        std::uint64_t twice_bytes;  ///< The most that may be copied twice.
    };
    // Raw: the writes in flight, because the kernel keeps the rest. Qcow2: the data that was not
    // flushed. In the first case nothing had been flushed; in the second, all but the data of the 5
    // s before the last flush and the data since.
    auto const death = GENERATE(Death{"raw", 20 * mib, 6 * mib, 4 * mib},
                                Death{"qcow2", 20 * mib, 6 * mib, 12 * mib},
                                Death{"qcow2", 2 * mib, 13 * mib, 7 * mib});
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version << ", " << death.format << ", after "
                                << death.after_bytes / mib << " MiB") {
            Pair pair(binary, death.format, 1);
            storage::MirrorOptions options;
            options.bandwidth_bytes_per_second = death.bytes_per_second;
            options.reexport = [&](core::Deadline deadline) {
                return pair.reexport(std::move(deadline));
            };
            Mirror& mirror = pair.make_mirror(options);
            auto const kill_in_the_middle = [&]() -> Task<Result<>> {
                while (mirror.progress().copied_bytes < death.after_bytes) {
                    CO_TRY_VOID(co_await core::sleep_for(pair.runner().loop(), 1ms));
                }
                CO_TRY_VOID(co_await pair.replace_destination());
                mirror.set_bandwidth(0);
                co_return Result<>{};
            };
            std::vector<Task<Result<>>> both;
            both.push_back(whole_move(pair, mirror, 1, write_in_data));
            both.push_back(kill_in_the_middle());
            pair.runner().must(storage::when_all(pair.runner().loop(), std::move(both)));
            auto const report = mirror.report();
            CHECK(report.cuts == 1);
            auto const& bulk = report.disks.at(0).rounds.at(0);
            constexpr std::uint64_t data_bytes = 15 * mib + 8192;
            CHECK(bulk.copied_bytes <= data_bytes + death.twice_bytes);
            pair.nothing_left();
            pair.compare();
        }
    }
}

TEST_CASE("mirror: after two concurrent reexports of a destination the next one succeeds",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 3);
            for (int i = 0; i < 5; ++i) {
                std::vector<Task<Result<>>> both;
                both.push_back(pair.target().reexport(soon()));
                both.push_back(pair.target().reexport(soon()));
                // One of them may find the other's exports in place; that is harmless.
                (void)pair.runner().loop().run(
                    storage::when_all(pair.runner().loop(), std::move(both)));
                pair.runner().must(pair.target().reexport(soon()));
            }
            auto& mirror = pair.make_mirror();
            pair.runner().must(whole_move(pair, mirror, 3));
            pair.compare();
        }
    }
}

TEST_CASE("mirror: every byte arrives while the disks are being written", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            for (std::size_t const count : {1u, 3u}) {
                DYNAMIC_SECTION("QEMU " << version << ", " << format << ", disks: " << count) {
                    Pair pair(binary, format, count);
                    auto& mirror = pair.make_mirror();
                    pair.runner().must(whole_move(pair, mirror, count));
                    check_report(mirror, count, format == "raw");
                    pair.nothing_left();
                    auto const ours = *storage::allocated_bytes(pair.from(0).path);
                    auto const theirs = *storage::allocated_bytes(pair.to(0).path);
                    CHECK(theirs <= ours + ours / 100 + mib / 4);
                    pair.compare();
                }
            }
        }
    }
}

TEST_CASE("mirror: one raw disk is read past the page cache, one over NBD", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version << ", cache.direct=on") {
            Pair pair(binary, "raw", 2, false, false, true);
            auto& mirror = pair.make_mirror();
            pair.runner().must(whole_move(pair, mirror, 2));
            check_report(mirror, 2, true);
            pair.compare();
        }
        DYNAMIC_SECTION("QEMU " << version << ", images by NBD") {
            Pair pair(binary, "raw", 2);
            storage::MirrorOptions options;
            options.images_by_nbd = true;
            auto& mirror = pair.make_mirror(options);
            pair.runner().must(whole_move(pair, mirror, 2));
            check_report(mirror, 2, false);
            pair.compare();
        }
        DYNAMIC_SECTION("QEMU " << version << ", another file has the image's name") {
            Pair pair(binary, "raw", 1);
            auto const path = pair.from(0).path;
            lab::fs::rename(path, path + ".in_backing");
            make_raw(path, disk_bytes, {{0, mib}});
            auto& mirror = pair.make_mirror();
            pair.runner().must(whole_move(pair, mirror, 1));
            check_report(mirror, 1, false);
            lab::fs::rename(path + ".in_backing", path);
            pair.compare();
        }
    }
}

TEST_CASE("mirror: over TLS-PSK, and never without the right key", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1, false, true);
            auto const right = pair.where();
            pair.where().psk_file =
                make_psk(pair.directory(), "other", "sidecar", 'd') + "/keys.psk";
            auto* mirror = &pair.make_mirror();
            auto error = pair.runner().must_fail(mirror->prepare(soon()));
            CHECK(error.code == core::Errc::nbd);
            pair.runner().must(mirror->drop(soon()));
            pair.nothing_left();
            pair.where() = {right.host, right.port, "", ""};
            mirror = &pair.make_mirror();
            error = pair.runner().must_fail(mirror->prepare(soon()));
            INFO(error.sentence());
            CHECK(error.code == core::Errc::nbd);
            pair.runner().must(mirror->drop(soon()));
            pair.nothing_left();
            pair.where() = right;
            mirror = &pair.make_mirror();
            pair.runner().must(whole_move(pair, *mirror, 1));
            pair.compare();
        }
    }
}

TEST_CASE("mirror: leftovers of an earlier try are removed and reported", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1);
            auto& client = pair.source().client();
            // The leftovers of a killed sidecar: its server, an export in use, two bitmaps.
            storage::SourceExports old(pair.runner().loop(), client, pair.directory().text(), "e0");
            pair.runner().must(old.start_server(10, soon()));
            pair.runner().must(old.add_bitmaps({"drive0"}, 3, soon()));
            pair.runner().must(old.add_bitmaps({"drive0"}, 4, soon()));
            pair.runner().must(
                old.add_export(old.export_id("b3", 0), "drive0", old.bitmap_name(3), soon()));
            auto& mirror = pair.make_mirror();
            pair.runner().must(whole_move(pair, mirror, 1));
            auto cleared = mirror.report().cleared;
            std::ranges::sort(cleared);
            CHECK(cleared == std::vector<std::string>{"bitmap sidecar-e0-b3 of drive0",
                                                      "bitmap sidecar-e0-b4 of drive0",
                                                      "export sidecar-e0-b3-0"});
            pair.nothing_left();
            pair.compare();
        }
    }
}

TEST_CASE("mirror: an NBD server of another program is not touched", "[storage][mirror]") {
    Pair pair(oldest_qemu(), "raw", 1);
    auto& client = pair.source().client();
    auto const address = qmp::unix_address(pair.directory().path("backup"));
    pair.runner().must(qmp::nbd_server_start(client, {address, "", 0}, soon()));
    auto error = pair.runner().must_fail(pair.make_mirror().prepare(soon()));
    CHECK(error.code == core::Errc::refused);
    qmp::NbdExport backup;
    backup.id = "backup";
    backup.name = "backup";
    backup.node = "drive0";
    pair.runner().must(qmp::block_export_add(client, backup, soon()));
    error = pair.runner().must_fail(pair.make_mirror().prepare(soon()));
    CHECK(error.code == core::Errc::refused);
    CHECK(error.sentence().find("backup") != std::string::npos);
    auto const exports = pair.runner().must(qmp::query_block_exports(client, soon()));
    CHECK(exports.size() == 1);
}

TEST_CASE("mirror: drop undoes everything at every stage, twice over", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "qcow2", 2);
            for (int stage = 0; stage < 4; ++stage) {
                auto& mirror = pair.make_mirror();
                if (stage >= 1) pair.runner().must(mirror.prepare(soon()));
                if (stage >= 2) (void)pair.runner().must(mirror.copy_until_converged(soon()));
                if (stage >= 3) pair.runner().must(mirror.list_final(soon()));
                if (stage >= 3) pair.runner().must(mirror.copy_final(soon()));
                pair.runner().must(mirror.drop(soon()));
                pair.runner().must(mirror.drop(soon()));
                pair.nothing_left();
            }
        }
    }
}

TEST_CASE("mirror: a destination killed in the middle leaves the source as it was",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 2);
            storage::MirrorOptions options;
            options.bandwidth_bytes_per_second = 16 * mib;  // slow enough for a kill
            auto& mirror = pair.make_mirror(options);
            pair.runner().must(mirror.prepare(soon()));
            struct Kill {
                static Task<void> soon_after(core::Loop& loop, Mirror& one, lab::Daemon& daemon) {
                    while (one.progress().copied_bytes < 4 * mib) {
                        (void)co_await core::sleep_for(loop, 1ms);
                    }
                    daemon.signal(SIGKILL);
                }
                static Task<Result<storage::ConvergenceReport>> beside(core::Loop& loop,
                                                                       Mirror& one,
                                                                       lab::Daemon& daemon) {
                    core::TaskGroup scope(loop);
                    scope.spawn(soon_after(loop, one, daemon));
                    auto converged = co_await one.copy_until_converged(Deadline::after(limit));
                    co_await scope.join();
                    co_return converged;
                }
            };
            auto const error = pair.runner().must_fail(
                Kill::beside(pair.runner().loop(), mirror, pair.destination().daemon()));
            CHECK(error.code == core::Errc::closed);
            CHECK(error.sentence().find("disk") != std::string::npos);
            pair.runner().must(mirror.drop(soon()));
            pair.nothing_left();
            pair.write(0, "write -P 9 0 4096");
            pair.source().quit();
        }
    }
}

TEST_CASE("mirror: a stop ends the copy at once and nothing of it is lost", "[storage][mirror]") {
    Pair pair(oldest_qemu(), "raw", 1);
    storage::MirrorOptions options;
    options.bandwidth_bytes_per_second = 4 * mib;
    auto& mirror = pair.make_mirror(options);
    pair.runner().must(mirror.prepare(soon()));
    std::stop_source stop;
    struct Stop {
        static Task<void> soon_after(core::Loop& loop, Mirror& one, std::stop_source& source) {
            while (one.progress().copied_bytes < 1 * mib) {
                (void)co_await core::sleep_for(loop, 1ms);
            }
            source.request_stop();
        }
        static Task<Result<storage::ConvergenceReport>> beside(core::Loop& loop, Mirror& one,
                                                               std::stop_source& source) {
            core::TaskGroup scope(loop);
            scope.spawn(soon_after(loop, one, source));
            auto converged =
                co_await one.copy_until_converged(Deadline::after(limit, source.get_token()));
            co_await scope.join();
            co_return converged;
        }
    };
    auto const error = pair.runner().must_fail(Stop::beside(pair.runner().loop(), mirror, stop));
    CHECK(error.code == core::Errc::cancelled);
    // Continued, now without a limit.
    mirror.set_bandwidth(0);
    pair.write(0, "write -P 77 8192 65536");
    (void)pair.runner().must(mirror.copy_until_converged(soon()));
    pair.write(0, "write -P 78 16384 4096");
    pair.runner().must(mirror.list_final(soon()));
    pair.runner().must(mirror.copy_final(soon()));
    pair.runner().must(pair.target().seal(soon()));
    pair.runner().must(mirror.drop(soon()));
    pair.compare();
}

TEST_CASE("mirror: a disk owned by an iothread, twenty full cycles", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, "raw", 1, true);
            pair.source().wait_for_bios();
            for (int cycle = 0; cycle < 20; ++cycle) {
                storage::MirrorOptions options;
                options.migration_id = fmt::format("cycle{}", cycle);
                auto& mirror = pair.make_mirror(options);
                pair.runner().must(mirror.prepare(soon()));
                pair.write(0, fmt::format("write -P {} {} 65536", 1 + cycle, cycle * 65536));
                (void)pair.runner().must(mirror.copy_until_converged(soon()));
                pair.runner().must(mirror.arm(soon()));
                pair.write(0, fmt::format("write -P {} {} 4096", 101 + cycle, cycle * 8192));
                pair.runner().must(mirror.list_final(soon()));
                pair.runner().must(mirror.copy_final(soon()));
                REQUIRE(mirror.report().disks[0].final_bytes >= 4096);
                pair.runner().must(mirror.drop(soon()));
                REQUIRE(pair.source().daemon().running());
            }
            pair.nothing_left();
            pair.runner().must(pair.target().seal(soon()));
            pair.compare();
        }
    }
}

}  // namespace storage_mirror_cases
