// The hashes of --verify: their values for known blocks, the table that keeps them, and the
// requests to the destination.
#include <catch2/catch.hpp>

#include <filesystem>

#include "storage/limits.hpp"
#include "storage/verify.hpp"

namespace storage_verify_cases {

using storage::BlockTable;
using storage::CombinedHash;
using storage::Extent;

namespace {

constexpr std::uint64_t block = storage::limits::bitmap_granularity_bytes;

std::vector<std::byte> bytes_of(std::size_t size, unsigned seed) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = static_cast<std::byte>(seed >> 24);
    }
    return bytes;
}

std::vector<std::uint64_t> hashes_of(std::vector<std::byte> const& bytes) {
    std::vector<std::uint64_t> hashes(storage::block_count(bytes.size()));
    storage::hash_blocks(bytes, hashes);
    return hashes;
}

/// A directory of this test's own, in memory.
struct Directory {
    Directory() {
        std::string name = "/dev/shm/sidecar-unit-XXXXXX";
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Directory() { std::filesystem::remove_all(path); }
    std::string path;
};

}  // namespace

TEST_CASE("verify: one bit changes the hash of its block and of no other", "[storage][verify]") {
    auto bytes = bytes_of(5 * block + 100, 1);
    auto const before = hashes_of(bytes);
    REQUIRE(before.size() == 6);
    for (std::size_t const at :
         {std::size_t{0}, std::size_t{2 * block}, 3 * block - 1, bytes.size() - 1}) {
        bytes[at] ^= std::byte{16};
        auto const after = hashes_of(bytes);
        for (std::size_t i = 0; i < after.size(); ++i) {
            CHECK((after[i] == before[i]) == (i != at / block));
        }
        bytes[at] ^= std::byte{16};
    }
    CHECK(hashes_of(std::vector<std::byte>(2 * block + 5)) == std::vector<std::uint64_t>{0, 0, 0});
    for (auto const hash : before) CHECK(hash != 0);
}

TEST_CASE("verify: the combined hash is XXH3-128 of the hashes, in order", "[storage][verify]") {
    // `printf '\1\0\0\0\0\0\0\0' | xxhsum -H2`, with Debian's xxhsum.
    std::vector<std::uint64_t> const one{1};
    CombinedHash known;
    known.add(one);
    CHECK(known.text() == "bdc94bce2eda264dbc08dc21994df8a2");
    std::vector<std::uint64_t> const all{1, 2, 3};
    CombinedHash whole;
    whole.add(all);
    CombinedHash parts;
    parts.add(std::span(all).first(1));
    parts.add(std::span(all).subspan(1));
    CHECK(whole.text() == parts.text());
    CombinedHash other;
    other.add(std::vector<std::uint64_t>{2, 1, 3});
    CHECK(other.text() != whole.text());
}

TEST_CASE("verify: the table holds what was recorded last", "[storage][verify]") {
    Directory const directory;
    constexpr std::uint64_t size = 10 * block + 512;
    auto const path = directory.path + "/table";
    auto const made = BlockTable::create(path, size);
    REQUIRE(made);
    auto& table = **made;
    auto const first = bytes_of(3 * block, 2);
    auto const second = bytes_of(2 * block, 3);
    auto const last = bytes_of(512, 4);
    table.record(block, first);
    table.record(2 * block, second);
    table.record(10 * block, last);
    std::vector<std::uint64_t> wanted(11, 0);
    wanted[1] = hashes_of(first)[0];
    wanted[2] = hashes_of(second)[0];
    wanted[3] = hashes_of(second)[1];
    wanted[10] = hashes_of(last)[0];
    auto const whole = table.blocks({0, size, false});
    CHECK(std::vector<std::uint64_t>(whole.begin(), whole.end()) == wanted);
    CombinedHash some;
    some.add(std::span(wanted).subspan(2, 1));
    some.add(std::span(wanted).subspan(10, 1));
    CHECK(table.combined({{2 * block, block, false}, {10 * block, 512, false}}) == some.text());
    auto const loop = core::Loop::create();
    REQUIRE(loop);
    CombinedHash all;
    all.add(wanted);
    CHECK((*loop)->run(table.digest(**loop)).value_or("") == all.text());
    {
        INFO("another process opens it, by then without its name");
        auto const again = BlockTable::open(path, size);
        REQUIRE(again);
        std::filesystem::remove(path);
        CHECK((*again)->combined({{0, size, false}}) == all.text());
        CHECK_FALSE(BlockTable::open(path, size));
    }
    table.record_zeroes(2 * block, size - 2 * block);
    wanted.resize(2);
    wanted.resize(11, 0);
    CHECK(std::vector<std::uint64_t>(whole.begin(), whole.end()) == wanted);
}

TEST_CASE("verify: a table is made once, and opened for its own disk alone", "[storage][verify]") {
    Directory const directory;
    auto const path = directory.path + "/table";
    REQUIRE(BlockTable::create(path, 100 * block));
    CHECK_FALSE(BlockTable::create(path, 100 * block));
    CHECK(BlockTable::open(path, 100 * block));
    auto const other = BlockTable::open(path, 101 * block);
    REQUIRE_FALSE(other);
    CHECK(other.error().code == core::Errc::invalid);
}

TEST_CASE("verify: a table that has no room is refused with what to do", "[storage][verify]") {
    Directory const directory;
    auto const made = BlockTable::create(directory.path + "/table", std::uint64_t{1} << 62);
    REQUIRE_FALSE(made);
    CHECK(made.error().code == core::Errc::refused);
    CHECK(made.error().sentence().find("make room there") != std::string::npos);
    CHECK(std::filesystem::is_empty(directory.path));
}

TEST_CASE("verify: a plan asks for everything once, within its limits", "[storage][verify]") {
    constexpr std::uint64_t size = 200 * 1024 * 1024 + 5 * block + 17;
    std::vector<Extent> extents{{0, 150 * 1024 * 1024, false}};
    for (std::uint64_t i = 0; i < 5000; ++i) {
        extents.push_back({151 * 1024 * 1024 + i * 2 * block, block, false});
    }
    extents.push_back({size - block - 17, block + 17, false});
    storage::HashPlan plan(extents);
    std::vector<Extent> joined;
    std::size_t requests = 0;
    for (auto ranges = plan.next(); !ranges.empty(); ranges = plan.next()) {
        ++requests;
        auto const fine = storage::check_ranges(ranges, size);
        INFO((fine ? "" : fine.error().sentence()));
        REQUIRE(fine);
        for (auto const& range : ranges) append(joined, range);
    }
    CHECK(joined == extents);
    CHECK(requests == 4);  // two full requests, one with the maximum of ranges, and the rest
}

TEST_CASE("verify: halving finds any block", "[storage][verify]") {
    constexpr std::uint64_t size = 100 * block + 9;
    std::vector<Extent> const ranges{
        {0, 3 * block, false}, {7 * block, block, false}, {90 * block, 10 * block + 9, false}};
    for (std::uint64_t const wanted : {0u, 2u, 7u, 90u, 99u, 100u}) {
        auto left = ranges;
        for (int turns = 0;; ++turns) {
            REQUIRE(turns < 10);
            REQUIRE(storage::check_ranges(left, size));
            auto split = storage::halves(left);
            if (split.second.empty()) break;
            auto const holds = [&](std::vector<Extent> const& half) {
                return std::ranges::any_of(half, [&](Extent const& range) {
                    return wanted * block >= range.offset && wanted * block < range.end();
                });
            };
            REQUIRE(holds(split.first) != holds(split.second));
            left = holds(split.first) ? split.first : split.second;
        }
        CHECK(left.front().offset == wanted * block);
        CHECK(left.size() == 1);
    }
}

TEST_CASE("verify: allocation in whole blocks never calls data zero", "[storage][verify]") {
    using List = std::vector<Extent>;
    CHECK(storage::in_whole_blocks({{0, 8192, false}, {8192, 4096, true}}, block) ==
          List{{0, 8192, false}, {8192, 4096, true}});
    CHECK(storage::in_whole_blocks({{0, 512, false}, {512, 16384, true}, {16896, 512, false}},
                                   block) ==
          List{{0, 4096, false}, {4096, 12288, true}, {16384, 1024, false}});
    CHECK(storage::in_whole_blocks({{0, 4096, true}, {4096, 512, false}, {4608, 100, true}},
                                   block) == List{{0, 4096, true}, {4096, 612, false}});
    CHECK(storage::in_whole_blocks({{0, 100, false}, {100, 5000, true}}, block) ==
          List{{0, 4096, false}, {4096, 1004, true}});
    CHECK(storage::in_whole_blocks({}, block).empty());
}

}  // namespace storage_verify_cases
