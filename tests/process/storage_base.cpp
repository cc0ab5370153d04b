// A disk over a base that both hosts have. Only the contents of the layers above the base are
// copied, and the parts of the base that they hide stay hidden. Between two real QEMUs, 7.2 and
// 10.0; every byte is compared.
#include "storage/hasher.hpp"
#include "storage/limits.hpp"
#include "storage/verify.hpp"
#include "storage/when_all.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_base_cases {

using namespace storage_lab;

namespace {

/// Data in the base: two islands, 30 MiB in all.
constexpr std::uint64_t island_bytes = 15 * mib;
std::vector<Range> const islands{{0, island_bytes}, {32 * mib, island_bytes}};

struct Chain {
    std::string base_format = "raw";
    bool middle = false;  ///< A layer between the base and the disk.
    storage::Qcow2Layout layout = {};
    std::uint64_t base_bytes = disk_bytes;  ///< The base may be shorter than the disk.
};

void io(std::string const& image, std::vector<std::string> const& lines) {
    std::vector<std::string> argv{"qemu-io", "-f", "qcow2", "-d", "unmap"};
    for (auto const& line : lines) argv.insert(argv.end(), {"-c", line});
    argv.push_back(image);
    lab::must_run(argv);
}

/// The qemu-io commands for each layer: data, zeroes and discards over the base's data, beside it,
/// and over data of the layer below.
std::vector<std::string> const of_middle{"write -P 11 1M 1M",    "write -z 3M 1M",
                                         "discard 5M 1M",        "write -P 12 7180288 4096",
                                         "write -z -u 7M 65536", "write -P 13 20M 512k",
                                         "write -P 14 33M 192k", "write -z 34M 300k"};
std::vector<std::string> const of_top{"write -P 21 1536k 1M",  "write -P 22 3M 65536",
                                      "write -z 1M 128k",      "discard 8M 1M",
                                      "write -z 9441280 8192", "write -P 23 9961472 2048",
                                      "write -z -u 36M 2M",    "write -P 24 50M 300k",
                                      "discard 20M 256k",      "write -P 25 12M 4096"};

/// All disks of a pair: the base once on each host, and the chain over one of them.
PairOptions over_base(Chain const& chain) {
    auto const make = [chain](TestDisk const& from, TestDisk const& to) {
        auto const base = from.path + ".base";
        make_raw(base, chain.base_bytes, islands);
        convert(base, chain.base_format);
        lab::fs::copy_file(base, to.path + ".base");
        Runner runner;
        storage::CreateOptions above{chain.layout, base, chain.base_format};
        if (chain.middle) {
            auto const middle = from.path + ".middle";
            runner.must(
                storage::create_image(runner.loop(), middle, "qcow2", disk_bytes, above, soon()));
            io(middle, of_middle);
            above.backing_file = middle;
            above.backing_format = "qcow2";
        }
        runner.must(
            storage::create_image(runner.loop(), from.path, "qcow2", disk_bytes, above, soon()));
        io(from.path, of_top);
        runner.must(storage::create_image(runner.loop(), to.path, "qcow2", disk_bytes,
                                          {chain.layout, to.path + ".base", chain.base_format},
                                          soon()));
    };
    return {"qcow2", "qcow2", make, chain.middle ? 2u : 1u};
}

/// A guest that writes data, zeroes and discards where the base has data.
Task<void> write_over_base(TestQemu& qemu, std::size_t, core::Loop& loop, std::stop_token stop,
                           std::optional<core::Error>& error) {
    std::uint64_t seed = 4711;
    while (!stop.stop_requested() && !error) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        std::uint64_t const at = (seed >> 33) % (disk_bytes / 4096 - 512) * 4096;
        std::uint64_t const length = (1 + (seed >> 20) % 48) * 4096;
        char const* const verbs[] = {"write -P 77", "write -z", "write -z -u", "discard"};
        auto written =
            co_await qemu.io(0, fmt::format("{} {} {}", verbs[(seed >> 50) % 4], at, length));
        if (!written) error = written.error();
        (void)co_await core::sleep_for(loop, 1ms);
    }
}

std::vector<std::pair<std::string, Chain>> chains() {
    storage::Qcow2Layout const subclusters{.cluster_bytes = 128 * 1024, .extended_l2 = true};
    return {{"raw base", {}},
            {"qcow2 base", {.base_format = "qcow2"}},
            {"three layers", {.base_format = "qcow2", .middle = true}},
            {"subclusters", {.middle = true, .layout = subclusters}},
            {"compat 0.10", {.middle = true, .layout = {.compat = "0.10"}}},
            {"a short base", {.base_bytes = 40 * mib + 1536}}};
}

/// The node of the source's base.
std::string base_node(Pair& pair) {
    auto const nodes =
        pair.runner().must(qmp::query_named_block_nodes(pair.source().client(), soon()));
    for (auto const& node : nodes) {
        bool const image = node.driver == "raw" || node.driver == "qcow2";
        if (image && node.file_name.ends_with(".base")) return node.node_name;
    }
    FAIL("the source's QEMU has no base");
    return {};
}

}  // namespace

TEST_CASE("base: only what is above it is copied, and nothing of it shows through",
          "[storage][base]") {
    for (auto const& [version, binary] : qemus()) {
        for (auto const& [name, chain] : chains()) {
            DYNAMIC_SECTION("QEMU " << version << ", " << name) {
                Pair pair(binary, over_base(chain));
                auto& mirror = pair.make_mirror();
                pair.runner().must(quiet_move(pair, mirror));
                auto const report = mirror.report().disks.at(0);
                // The commands above write less than 4 MiB of data; in whole clusters 6 MiB.
                CHECK(report.copied_bytes > mib);
                CHECK(report.copied_bytes < 6 * mib);
                CHECK(report.base_bytes > 16 * mib);
                CHECK(report.base_bytes < 2 * island_bytes);
                auto const ours = *storage::allocated_bytes(pair.from(0).path);
                auto const theirs = *storage::allocated_bytes(pair.to(0).path);
                INFO("allocated " << ours << " and " << theirs);
                if (!chain.middle && chain.layout.compat.empty()) {
                    CHECK(theirs <= ours + ours / 100);
                }
                CHECK(mirror.progress().fraction == 1.0);
                pair.nothing_left();
                pair.compare();
            }
        }
    }
}

TEST_CASE("base: rounds that zero and discard blocks of the base", "[storage][base]") {
    for (auto const& [version, binary] : qemus()) {
        for (auto const& [name, chain] : chains()) {
            // The rounds do not look at layers: one chain of each kind is enough.
            if (!chain.middle && chain.base_format == "qcow2") continue;
            if (chain.layout.compat == "0.10") continue;
            DYNAMIC_SECTION("QEMU " << version << ", " << name) {
                Pair pair(binary, over_base(chain));
                storage::MirrorOptions options;
                options.bandwidth_bytes_per_second = 24 * mib;  // leaves time for writes
                auto& mirror = pair.make_mirror(options);
                pair.runner().must(whole_move(pair, mirror, 1, write_over_base));
                CHECK(mirror.report().disks[0].base_bytes > 8 * mib);
                pair.nothing_left();
                pair.compare();
            }
        }
    }
}

TEST_CASE("base: what was not sent is verified with the rest", "[storage][base][verify]") {
    for (auto const& [version, binary] : qemus()) {
        for (bool const same_base : {true, false}) {
            DYNAMIC_SECTION("QEMU " << version << ", the same base: " << same_base) {
                auto options = over_base({.middle = true});
                auto const make = options.make;
                constexpr std::uint64_t changed = 40 * mib + 4711;
                options.make = [&](TestDisk const& from, TestDisk const& to) {
                    make(from, to);
                    if (same_base) return;
                    auto const line = fmt::format("write -P 99 {} 1", changed);
                    lab::must_run({"qemu-io", "-f", "raw", "-c", line, to.path + ".base"});
                };
                Pair pair(binary, options);
                pair.set_base_node(base_node(pair));
                auto const& where = pair.where();
                storage::Hasher hasher(pair.runner().loop(), {"", where.host, where.port, "", ""},
                                       [] {
                                           std::vector<storage::HashedDisk> list;
                                           list.push_back({"disk0", {}});
                                           return list;
                                       }());
                pair.runner().must(hasher.open(soon()));
                storage::MirrorOptions settings;
                settings.hash = [&](std::size_t disk, std::vector<storage::Extent> ranges,
                                    Deadline deadline) {
                    return hasher.hash(disk, std::move(ranges), std::move(deadline));
                };
                auto const table =
                    storage::BlockTable::create(pair.directory().path("table"), disk_bytes);
                REQUIRE(table);
                auto& mirror = pair.make_mirror(settings, {*table});
                auto const moved =
                    pair.runner().loop().run(whole_move(pair, mirror, 1, write_over_base));
                INFO((moved ? "moved" : moved.error().sentence()));
                auto const verified = mirror.report().verify;
                REQUIRE(verified);
                CHECK(verified->identical == same_base);
                CHECK(moved.has_value() == same_base);
                if (!same_base) CHECK(verified->difference_offset == changed / 4096 * 4096);
                CHECK(mirror.report().disks[0].copied_bytes < 16 * mib);
                if (!same_base) pair.runner().must(mirror.drop(soon()));
                pair.runner().loop().run(hasher.close());
                if (same_base) pair.compare();
            }
        }
    }
}

TEST_CASE("base: another QEMU of the destination gets no more than what is above it",
          "[storage][base]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Pair pair(binary, over_base({.middle = true}));
            storage::MirrorOptions options;
            options.bandwidth_bytes_per_second = 2 * mib;
            options.reexport = [&](Deadline deadline) {
                return pair.reexport(std::move(deadline));
            };
            auto& mirror = pair.make_mirror(options);
            auto const kill_in_the_middle = [&]() -> Task<Result<>> {
                while (mirror.progress().copied_bytes < mib) {
                    CO_TRY_VOID(co_await core::sleep_for(pair.runner().loop(), 1ms));
                }
                CO_TRY_VOID(co_await pair.replace_destination());
                mirror.set_bandwidth(0);
                co_return Result<>{};
            };
            std::vector<Task<Result<>>> both;
            both.push_back(quiet_move(pair, mirror));
            both.push_back(kill_in_the_middle());
            pair.runner().must(storage::when_all(pair.runner().loop(), std::move(both)));
            CHECK(mirror.report().cuts == 1);
            CHECK(mirror.report().disks[0].copied_bytes < 10 * mib);
            pair.nothing_left();
            pair.compare();
        }
    }
}

}  // namespace storage_base_cases
