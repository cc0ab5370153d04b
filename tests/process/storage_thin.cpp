// Thin stays thin, in both directions. What is a hole, zero or discarded at the source takes no
// space at the destination; every byte is still equal; and nothing is zeroed that is zero already.
// The disks are in a file system that punches holes (tmpfs).
#include <algorithm>
#include <regex>

#include "storage/limits.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_thin_cases {

using namespace storage_lab;

namespace {

/// Islands of data: large ones, and single blocks far from any other.
std::vector<Range> islands() {
    std::vector<Range> all{{0, 4 * mib}, {8 * mib + 4096, mib}, {disk_bytes - 8192, 8192}};
    for (std::uint64_t at = 20; at < 36; ++at) all.push_back({at * mib + 12288, 4096});
    return all;
}

void io(TestDisk const& disk, std::vector<std::string> const& lines) {
    std::vector<std::string> argv{"qemu-io", "-f", disk.format};
    for (auto const& line : lines) argv.insert(argv.end(), {"-c", line});
    argv.push_back(disk.path);
    lab::must_run(argv);
}

/// Zeroes that are written as data.
constexpr std::uint64_t allocated_zeroes = 4 * mib + 64 * 1024;

/// Islands, zeroes that take space, and partly written clusters.
PairOptions thin(std::string const& from_format, std::string const& to_format) {
    auto const make = [](TestDisk const& from, TestDisk const& to) {
        make_raw(from.path, disk_bytes, islands());
        convert(from.path, from.format);
        io(from, {"write -P 0 44M 4M", "write -P 0 12M 64k", "write -P 5 38M 4096",
                  "write -P 6 40001536 2560", "write -P 7 14M 100k"});
        Runner runner;
        runner.must(
            storage::create_image(runner.loop(), to.path, to.format, disk_bytes, {}, soon()));
    };
    return {from_format, to_format, make};
}

/// A guest that discards data copied long ago, data written just now, and places never written.
Task<void> discard_here_and_there(TestQemu& qemu, std::size_t, core::Loop& loop,
                                  std::stop_token stop, std::optional<core::Error>& error) {
    std::vector<std::string> const lines{
        "discard 1M 1M",       "write -P 9 50M 2M",   "discard 50M 1M",   "discard 2560k 300k",
        "write -z -u 14M 64k", "write -P 8 10M 128k", "discard 9M 2M",    "discard 56M 2M",
        "write -P 3 1M 64k",   "discard 20M 512k",    "write -P 4 57M 4k"};
    for (auto const& line : lines) {
        auto done = co_await qemu.io(0, line);
        if (!done) error = done.error();
        if (error) co_return;
        if (!co_await core::sleep_for(loop, 20ms)) co_return;
    }
    // Again and again, the same place: written, then discarded.
    while (!stop.stop_requested() && !error) {
        for (auto const* line : {"write -P 2 52M 256k", "discard 52M 256k"}) {
            auto done = co_await qemu.io(0, line);
            if (!done) error = done.error();
        }
        (void)co_await core::sleep_for(loop, 1ms);
    }
}

}  // namespace

TEST_CASE("thin: the destination takes no more space than the source", "[storage][thin]") {
    for (auto const& [version, binary] : qemus()) {
        for (auto const& [from, to] : {std::pair{"raw", "raw"}, std::pair{"qcow2", "qcow2"},
                                       std::pair{"qcow2", "raw"}, std::pair{"raw", "qcow2"}}) {
            for (bool const quiet : {true, false}) {
                DYNAMIC_SECTION("QEMU " << version << ", " << from << " to " << to << ", quiet "
                                        << quiet) {
                    Pair pair(binary, thin(from, to));
                    storage::MirrorOptions options;
                    if (!quiet) options.bandwidth_bytes_per_second = 12 * mib;
                    auto& mirror = pair.make_mirror(options);
                    if (quiet) {
                        pair.runner().must(quiet_move(pair, mirror));
                    } else {
                        pair.runner().must(whole_move(pair, mirror, 1, discard_here_and_there));
                    }
                    pair.nothing_left();
                    pair.compare();
                    auto const ours = *storage::allocated_bytes(pair.from(0).path);
                    auto const theirs = *storage::allocated_bytes(pair.to(0).path);
                    INFO("allocated " << ours << " and " << theirs);
                    // Zeroes that take space at the source take none there.
                    auto const thin_bytes = ours - allocated_zeroes;
                    // A single block takes a whole cluster in qcow2, so from raw to qcow2 only the
                    // bytes are compared. A migration does not change the format.
                    if (std::string(from) == "raw" && std::string(to) == "qcow2") continue;
                    CHECK(theirs <= thin_bytes + thin_bytes / 100);
                }
            }
        }
    }
}

namespace {

/// The ranges of each `verb` that nbdkit's log reports.
std::vector<storage::Extent> logged(std::string const& log, std::string const& verb) {
    std::vector<storage::Extent> all;
    std::regex const line(" " + verb + R"( id=\d+ offset=0x([0-9a-f]+) count=0x([0-9a-f]+))");
    for (std::sregex_iterator at(log.begin(), log.end(), line), end; at != end; ++at) {
        all.push_back({std::stoull((*at)[1], nullptr, 16), std::stoull((*at)[2], nullptr, 16)});
    }
    std::ranges::sort(all, {}, &storage::Extent::offset);
    return all;
}

}  // namespace

TEST_CASE("thin: what is zero on both sides is not touched, and the whole is never zeroed first",
          "[storage][thin]") {
    std::vector<Range> const data{{0, 3 * mib}, {8 * mib, 12 * mib}, {40 * mib + 8192, 4096}};
    std::uint64_t data_bytes = 0;
    for (auto const& range : data) data_bytes += range.length;
    for (auto const& [version, binary] : qemus()) {
        for (bool const used_before : {false, true}) {
            DYNAMIC_SECTION("QEMU " << version << ", used before: " << used_before) {
                Directory directory;
                Runner runner;
                auto const from = directory.path("source");
                auto const to = directory.path("target");
                auto const log = directory.path("log");
                make_raw(from, disk_bytes, data);
                make_raw(to, disk_bytes, {});
                if (used_before) make_raw(to, disk_bytes, {{0, disk_bytes}});
                auto server =
                    Server::nbdkit_tcp(directory, {"--filter=log", "file", to, "logfile=" + log});
                TestQemu source(runner, directory, binary, TestQemu::Role::source, {{from, "raw"}});
                storage::MirrorOptions options;
                options.directory = directory.text();
                options.migration_id = migration_id;
                Mirror mirror(runner.loop(), source.client(),
                              {{"disk0", TestQemu::node(0), "raw", disk_bytes, "disk0"}},
                              server.destination(), options);
                auto const move = [&]() -> Task<Result<>> {
                    auto moved = co_await mirror.prepare(soon());
                    if (moved) CO_TRY_VOID(co_await mirror.copy_until_converged(soon()));
                    if (moved) moved = co_await mirror.list_final(soon());
                    if (moved) moved = co_await mirror.copy_final(soon());
                    auto dropped = co_await mirror.drop(soon());
                    co_return moved ? dropped : moved;
                };
                runner.must(move());
                source.quit();
                CHECK(server.daemon().end() == 0);
                CHECK(same(from, "raw", to, "raw"));
                auto const text = lab::read_file(log);
                auto const written = logged(text, "Write");
                auto const zeroed = logged(text, "Zero");
                // Each byte once, as data or as zeroes, and never both.
                CHECK(storage::total_bytes(written) == data_bytes);
                CHECK(storage::total_bytes(zeroed) == (used_before ? disk_bytes - data_bytes : 0));
                CHECK(logged(text, "Trim").empty());
                auto all = written;
                all.insert(all.end(), zeroed.begin(), zeroed.end());
                std::ranges::sort(all, {}, &storage::Extent::offset);
                for (std::size_t i = 1; i < all.size(); ++i) {
                    CHECK(all[i].offset >= all[i - 1].end());
                }
            }
        }
    }
}

}  // namespace storage_thin_cases
