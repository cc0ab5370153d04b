// The arithmetic on extents, and counted memory.
#include <catch2/catch.hpp>

#include "core/sync.hpp"
#include "storage/buffers.hpp"
#include "storage/extents.hpp"
#include "storage/hot_blocks.hpp"
#include "storage/limits.hpp"
#include "storage/scan.hpp"

namespace storage_extents_cases {

using storage::Extent;

TEST_CASE("touching extents of one kind become one", "[storage]") {
    std::vector<Extent> list;
    append(list, {0, 4096, false});
    append(list, {4096, 4096, false});
    append(list, {8192, 4096, true});
    append(list, {16384, 4096, true});
    append(list, {30000, 0, true});
    REQUIRE(list == std::vector<Extent>{{0, 8192, false}, {8192, 4096, true}, {16384, 4096, true}});
    REQUIRE(storage::total_bytes(list) == 16384);
}

TEST_CASE("coarsening bridges the smallest gaps and loses nothing", "[storage]") {
    std::vector<Extent> list;
    for (std::uint64_t i = 0; i < 1000; ++i) append(list, {i * 100 + (i / 10) * 5000, 50, false});
    auto const before = list;
    storage::coarsen(list, 100);
    REQUIRE(list.size() <= 100);
    for (auto const& small : before) {
        bool inside = false;
        for (auto const& large : list) {
            inside = inside || (large.offset <= small.offset && small.end() <= large.end());
        }
        REQUIRE(inside);
    }
    REQUIRE(list.front().length == 950);
}

TEST_CASE("zeroes are found wherever they are", "[storage]") {
    std::vector<std::byte> bytes(100'000);
    REQUIRE(storage::is_zero(bytes));
    REQUIRE(storage::is_zero({}));
    for (std::size_t at : {0u, 1u, 7u, 8u, 15u, 16u, 17u, 4095u, 65'536u, 99'999u}) {
        bytes[at] = std::byte{1};
        REQUIRE_FALSE(storage::is_zero(bytes));
        bytes[at] = std::byte{0};
    }
}

TEST_CASE("a read is split into data and runs of zeroes", "[storage]") {
    std::vector<std::byte> bytes(10 * 4096 + 100);
    bytes[5 * 4096] = std::byte{1};
    auto parts = storage::split_zeroes(bytes, 4096);
    REQUIRE(parts == std::vector<Extent>{{0, 5 * 4096, true},
                                         {5 * 4096, 4096, false},
                                         {6 * 4096, 4 * 4096 + 100, true}});
    // A short hole after data stays with the data: a separate request would cost more.
    bytes[9 * 4096] = std::byte{1};
    parts = storage::split_zeroes(bytes, 4096);
    REQUIRE(parts.back() == Extent{9 * 4096, 4096 + 100, false});
}

TEST_CASE("pieces end at multiples of the request size", "[storage]") {
    auto const unit = std::uint64_t{storage::limits::request_bytes_max};
    Extent extent{unit - 4096, 2 * unit, false};
    REQUIRE(storage::cut_piece(extent) == Extent{unit - 4096, 4096, false});
    REQUIRE(storage::cut_piece(extent) == Extent{unit, unit, false});
    REQUIRE(storage::cut_piece(extent) == Extent{2 * unit, unit - 4096, false});
    REQUIRE(extent.length == 0);
}

namespace {

core::Task<core::Result<>> hold_and_wait(storage::Buffers& buffers) {
    constexpr auto size = storage::limits::request_bytes_max;
    CO_TRY(auto first, co_await buffers.take(size, core::Deadline::never()));
    CO_TRY(auto second, co_await buffers.take(size, core::Deadline::never()));
    auto const third = co_await buffers.take(1, core::Deadline::after(core::milliseconds(20)));
    CHECK_FALSE(third.has_value());
    CHECK(third.error().code == core::Errc::timed_out);
    auto shared = first;
    first = {};
    CHECK(buffers.bytes_taken() == 2 * size);
    shared = {};
    CHECK(buffers.bytes_taken() == size);
    CO_TRY(auto again, co_await buffers.take(size, core::Deadline::never()));
    CHECK(buffers.bytes_taken_max() == 2 * size);
    co_return core::Result<>{};
}

}  // namespace

TEST_CASE("memory in flight is bounded and comes back with its last owner", "[storage]") {
    auto loop = core::Loop::create();
    REQUIRE(loop);
    storage::Buffers buffers(**loop, 2 * storage::limits::request_bytes_max, 100);
    REQUIRE((*loop)->run(hold_and_wait(buffers)));
    REQUIRE(buffers.bytes_taken() == 0);
}

TEST_CASE("two lists united hold what either holds", "[storage]") {
    std::vector<Extent> const one{{0, 10, false}, {20, 10, true}, {50, 5, false}};
    std::vector<Extent> const other{{5, 20, false}, {55, 5, false}, {100, 1, false}};
    std::vector<Extent> const both{{0, 30, false}, {50, 10, false}, {100, 1, false}};
    REQUIRE(storage::united(one, other) == both);
    REQUIRE(storage::united(other, one) == both);
    REQUIRE(storage::united(one, {}).size() == 3);
    REQUIRE(storage::united({}, {}).empty());
}

TEST_CASE("dividing loses no byte and invents none", "[storage]") {
    // Every pair of subsets of six blocks, as bit masks.
    auto const listed = [](unsigned bits) {
        std::vector<Extent> list;
        for (std::uint64_t i = 0; i < 6; ++i) {
            if ((bits >> i & 1) != 0) append(list, {i * 10, 10, false});
        }
        return list;
    };
    for (unsigned bits = 0; bits < 64; ++bits) {
        for (unsigned by = 0; by < 64; ++by) {
            auto const parts = storage::divide(listed(bits), listed(by));
            REQUIRE(parts.inside == listed(bits & by));
            REQUIRE(parts.outside == listed(bits & ~by));
        }
    }
    auto const parts = storage::divide({{0, 100, true}}, {{3, 4, false}});
    REQUIRE(parts.inside == std::vector<Extent>{{3, 4, true}});
    REQUIRE(parts.outside == std::vector<Extent>{{0, 3, true}, {7, 93, true}});
}

TEST_CASE("a block is hot when one of the last rounds had it too, and cools off", "[storage]") {
    storage::HotBlocks hot_blocks;
    std::vector<Extent> const now{{0, 4096, false}, {40960, 8192, false}};
    REQUIRE(hot_blocks.divide(now).inside.empty());
    hot_blocks.note({{40960, 4096, false}});
    REQUIRE(hot_blocks.divide(now).inside == std::vector<Extent>{{40960, 4096, false}});
    REQUIRE(hot_blocks.divide(now).outside ==
            std::vector<Extent>{{0, 4096, false}, {45056, 4096, false}});
    for (std::size_t i = 0; i < storage::limits::heat_rounds_max; ++i) {
        REQUIRE_FALSE(hot_blocks.divide(now).inside.empty());
        hot_blocks.note({});
    }
    REQUIRE(hot_blocks.divide(now).inside.empty());
}

TEST_CASE("what is remembered of a round is bounded", "[storage]") {
    storage::HotBlocks hot_blocks;
    std::vector<Extent> many;
    for (std::uint64_t i = 0; i <= storage::limits::heat_extents_max; ++i) {
        many.push_back({i * 8192, 4096, false});
    }
    hot_blocks.note(many);
    auto const parts = hot_blocks.divide(many);
    REQUIRE(parts.inside.size() == storage::limits::heat_extents_max);
    REQUIRE(parts.outside.size() == 1);
}

}  // namespace storage_extents_cases
