// Outer fragments of Mobile IPv6: fragment() of netmove/mobile_ipv6/packet.hpp makes them,
// netmove/mobile_ipv6/reassembly.hpp puts them together.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>

#include "netmove/mobile_ipv6/packet.hpp"
#include "netmove/mobile_ipv6/reassembly.hpp"
#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_ipv6_fragments_cases {

namespace {

using namespace netmove::mobile_ipv6;
using namespace mobile;
using namespace std::chrono_literals;

Address const agent = ip("2001:db8:1::1");
Address const care_of = ip("2001:db8:2::1");
constexpr auto agent_hex = "20010db8000100000000000000000001";
constexpr auto care_of_hex = "20010db8000200000000000000000001";
core::Clock::time_point const start{};

/// An inner packet whose bytes differ, and the outer one around it.
Bytes outer_packet(std::size_t inner_size, Address const& from = care_of) {
    Bytes inner =
        bytes(fmt::format("60000000 {:04x} 11 40 {} {}", inner_size - 40, care_of_hex, agent_hex));
    for (std::size_t i = inner.size(); i < inner_size; ++i) {
        inner.push_back(static_cast<std::uint8_t>(i * 7 + i / 256));
    }
    auto const header = outer_header(from, agent, inner);
    return Bytes(header.begin(), header.end()) + inner;
}

/// A fragment written by hand. Its bytes continue a pattern, so that fragments agree.
struct Part {
    std::size_t offset = 0;
    std::size_t size = 16;
    bool more = true;
    std::uint32_t identification = 1;
    std::uint8_t next = 41;
    std::uint8_t change = 0;  ///< Of its bytes.
    std::string_view traffic_class = "00";
};
Bytes written(Part const& part) {
    Bytes data;
    for (std::size_t i = part.offset; i < part.offset + part.size; ++i) {
        data.push_back(static_cast<std::uint8_t>(i ^ part.change));
    }
    return bytes(fmt::format("6{}00000 {:04x} 2c 40 {} {} {:02x} 00 {:04x} {:08x}",
                             part.traffic_class, part.size + 8, care_of_hex, agent_hex, part.next,
                             part.offset | (part.more ? 1U : 0U), part.identification)) +
           data;
}
/// The packet that such fragments are of.
Bytes whole(std::size_t size, std::uint8_t next = 41, std::string_view traffic_class = "00") {
    Bytes data;
    for (std::size_t i = 0; i < size; ++i) data.push_back(static_cast<std::uint8_t>(i));
    return bytes(fmt::format("6{}00000 {:04x} {:02x} 40 {} {}", traffic_class, size, next,
                             care_of_hex, agent_hex)) +
           data;
}

/// What the last of these completes. None of the others completes anything.
std::optional<Bytes> after(Reassembly& reassembly, std::vector<Part> const& parts) {
    std::optional<Bytes> last;
    for (auto const& part : parts) {
        CHECK_FALSE(last);
        last = reassembly.add(written(part), start);
    }
    return last;
}
std::optional<Bytes> after(std::vector<Part> const& parts) {
    Reassembly reassembly;
    return after(reassembly, parts);
}

}  // namespace

TEST_CASE("mobile ipv6 fragments: they are cut as the RFC draws them") {
    auto const packet = outer_packet(1'500);
    auto const parts = fragment(packet, 1'500, 0x01020304);
    REQUIRE(parts.size() == 2);
    // 1,452 bytes of room: 1,448 is the multiple of 8.
    CHECK(Bytes(parts[0].begin(), parts[0].begin() + 48) ==
          bytes(fmt::format("60000000 05b0 2c 40 {} {} 29 00 0001 01020304", care_of_hex,
                            agent_hex)));
    CHECK(Bytes(parts[1].begin(), parts[1].begin() + 48) ==
          bytes(fmt::format("60000000 003c 2c 40 {} {} 29 00 05a8 01020304", care_of_hex,
                            agent_hex)));
    CHECK(parts[0].size() == 1'496);
    CHECK(parts[1].size() == 100);
}

TEST_CASE("mobile ipv6 fragments: a packet that fits stays as it is") {
    auto const packet = outer_packet(1'240);
    REQUIRE(packet.size() == 1'280);
    CHECK((fragment(packet, 1'280, 1) == std::vector<Bytes>{packet}));
    CHECK(fragment(outer_packet(1'241), 1'280, 1).size() == 2);
}

TEST_CASE("mobile ipv6 fragments: each size comes together again at each MTU") {
    for (std::size_t const size : {1'241U, 1'400U, 1'500U, 2'464U, 2'465U, 9'000U, 65'535U}) {
        for (std::size_t const mtu : {1'280U, 1'281U, 1'420U, 1'500U, 9'000U}) {
            auto const packet = outer_packet(size);
            Reassembly reassembly;
            std::optional<Bytes> joined;
            auto const parts = fragment(packet, mtu, 7);
            if (parts.size() == 1) continue;
            for (auto const& part : parts) {
                CHECK(part.size() <= mtu);
                CHECK_FALSE(joined);
                CHECK_FALSE(decapsulate(part));
                joined = reassembly.add(part, start);
            }
            CHECK((joined == packet));
            CHECK(reassembly.packets() == 0);
            CHECK(reassembly.bytes() == 0);
            CHECK(reassembly.incomplete() == 0);
        }
    }
}

TEST_CASE("mobile ipv6 fragments: they come together in any order, and repeated") {
    std::vector<Part> parts{{0, 16}, {16, 8}, {24, 24}, {48, 8}, {56, 5, false}};
    std::vector<std::size_t> order(parts.size());
    std::iota(order.begin(), order.end(), 0U);
    do {
        Reassembly once;
        Reassembly twice;
        for (std::size_t i = 0; i < order.size(); ++i) {
            bool const last = i + 1 == order.size();
            auto const part = written(parts[order[i]]);
            auto const joined = once.add(part, start);
            CHECK(joined.has_value() == last);
            if (last) CHECK(joined == whole(61));
            // All that came so far comes again.
            for (std::size_t before = 0; before < i; ++before) {
                CHECK_FALSE(twice.add(written(parts[order[before]]), start));
            }
            CHECK(twice.add(part, start) == joined);
        }
        CHECK(once.bytes() == 0);
        CHECK(twice.incomplete() == 0);
    } while (std::ranges::next_permutation(order).found);
}

TEST_CASE("mobile ipv6 fragments: those that overlap abandon their packet") {
    std::vector<Part> const first{{0, 16}, {32, 16}};
    for (Part const& overlapping : std::vector<Part>{{8, 8},
                                                     {8, 16},
                                                     {8, 64},
                                                     {16, 24},
                                                     {24, 16},
                                                     {40, 8},
                                                     {40, 16},
                                                     {0, 8},
                                                     {0, 24},
                                                     {32, 8},
                                                     {24, 40, false},
                                                     {40, 3, false}}) {
        Reassembly reassembly;
        CHECK_FALSE(after(reassembly, first));
        CHECK_FALSE(reassembly.add(written(overlapping), start));
        CHECK(reassembly.incomplete() == 1);
        // What would have completed it comes too late.
        CHECK_FALSE(after(reassembly, {{0, 16}, {16, 16}, {32, 16}, {48, 4, false}}));
        CHECK(reassembly.packets() == 1);
        // Another packet is not concerned.
        CHECK(after(reassembly, {{0, 8, true, 2}, {8, 1, false, 2}}) == whole(9));
        // After its age the number may be used again.
        CHECK_FALSE(reassembly.add(written({0, 16}), start + 2'001ms));
        CHECK(reassembly.add(written({16, 4, false}), start + 2'001ms) == whole(20));
        CHECK(reassembly.incomplete() == 1);
    }
}

TEST_CASE("mobile ipv6 fragments: those that contradict each other abandon their packet") {
    // Other bytes at the same place.
    CHECK_FALSE(after({{0, 16}, {0, 16, true, 1, 41, 1}, {16, 4, false}}));
    // Two ends; an end before others; others beyond the end.
    CHECK_FALSE(after({{16, 8, false}, {24, 8, false}, {0, 16}}));
    CHECK_FALSE(after({{16, 8, false}, {8, 8, false}, {0, 8}}));
    CHECK_FALSE(after({{32, 8}, {16, 8, false}, {0, 16}}));
    CHECK_FALSE(after({{16, 8, false}, {24, 8}, {0, 16}}));
    // The same fragment, now the last; and no longer the last.
    CHECK_FALSE(after({{8, 8}, {8, 8, false}, {0, 8}}));
    CHECK_FALSE(after({{8, 8, false}, {8, 8}, {0, 8}}));
    // All of these without the contradiction.
    CHECK(after({{0, 16}, {0, 16}, {16, 4, false}}) == whole(20));
    CHECK(after({{8, 8, false}, {8, 8, false}, {0, 8}}) == whole(16));
}

TEST_CASE("mobile ipv6 fragments: malformed ones are ignored") {
    Reassembly reassembly;
    auto const ignored = [&](Bytes const& packet) {
        CHECK_FALSE(reassembly.add(packet, start));
        return reassembly.packets() == 0 && reassembly.bytes() == 0;
    };
    CHECK(ignored(written({0, 15})));
    CHECK(ignored(written({0, 0})));
    CHECK(ignored(written({8, 0, false})));
    CHECK(ignored(written({65'528, 8, false})));
    CHECK(ignored(written({65'528, 8})));
    CHECK(ignored(outer_packet(1'240)));
    CHECK(ignored({}));
    CHECK(ignored(bytes("45")));
    auto const good = written({0, 16});
    for (std::size_t size = 0; size < good.size(); ++size) {
        Bytes part(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK(ignored(part));
        if (size < 40 || size > 48) continue;
        part[5] = static_cast<std::uint8_t>(size - 40);
        CHECK(ignored(part));
    }
    CHECK_FALSE(ignored(good));
    CHECK(reassembly.incomplete() == 0);
}

TEST_CASE("mobile ipv6 fragments: the largest packet, and one that would be larger") {
    CHECK((after({{0, 32'768}, {32'768, 32'760}, {65'528, 7, false}}) == whole(65'535)));
    // With a header before the Fragment header the sum does not fit: it is known only at the end.
    auto first =
        bytes(fmt::format("60000000 0018 00 40 {} {} 2c00 01040000 0000 2900 0001 00000001",
                          care_of_hex, agent_hex)) +
        Bytes(8);
    Reassembly reassembly;
    CHECK_FALSE(reassembly.add(first, start));
    CHECK_FALSE(reassembly.add(written({8, 65'520}), start));
    CHECK_FALSE(reassembly.add(written({65'528, 7, false}), start));
    CHECK(reassembly.incomplete() == 1);
    CHECK(reassembly.bytes() == 0);
}

TEST_CASE("mobile ipv6 fragments: the first one gives the headers") {
    // Hop-by-hop options before the Fragment header, in the first fragment alone.
    auto const content = bytes("0001020304050607");
    auto const before = fmt::format("00 40 {} {} 2c00 01040000 0000", care_of_hex, agent_hex);
    auto const first = bytes(fmt::format("6a000000 0018 {} 3a00 0001 00000001", before)) + content;
    Reassembly reassembly;
    CHECK_FALSE(reassembly.add(written({8, 4, false, 1, 99}), start));
    CHECK(
        reassembly.add(first, start) ==
        bytes(fmt::format("6a000000 0014 00 40 {} {} 3a00 01040000 0000", care_of_hex, agent_hex)) +
            content + bytes("08090a0b"));
    CHECK(after({{16, 4, false, 1, 99}, {8, 8, true, 1, 98}, {0, 8, true, 1, 4}}) == whole(20, 4));
}

TEST_CASE("mobile ipv6 fragments: a mark of congestion on one is one on the packet") {
    auto const with = [](std::string_view first, std::string_view second) {
        return after({{0, 8, true, 1, 41, 0, first}, {8, 4, false, 1, 41, 0, second}});
    };
    CHECK(with("02", "02") == whole(12, 41, "02"));
    CHECK(with("02", "03") == whole(12, 41, "03"));
    CHECK(with("b9", "03") == whole(12, 41, "bb"));
    CHECK(with("03", "02") == whole(12, 41, "03"));
    CHECK(with("00", "03") == whole(12, 41, "00"));
}

TEST_CASE("mobile ipv6 fragments: a packet of one fragment is given at once, apart from others") {
    Reassembly reassembly;
    CHECK_FALSE(reassembly.add(written({0, 16}), start));
    CHECK(reassembly.add(written({0, 5, false, 1, 4}), start) == whole(5, 4));
    CHECK(reassembly.add(written({16, 4, false}), start) == whole(20));
    CHECK(reassembly.incomplete() == 0);
}

TEST_CASE("mobile ipv6 fragments: packets are told apart by addresses and number") {
    Reassembly reassembly;
    auto const mine = fragment(outer_packet(1'500), 1'280, 1);
    auto const second = fragment(outer_packet(1'500), 1'280, 2);
    auto const from_other = fragment(outer_packet(1'500, ip("2001:db8:3::1")), 1'280, 1);
    CHECK_FALSE(reassembly.add(mine[0], start));
    CHECK_FALSE(reassembly.add(second[1], start));
    CHECK_FALSE(reassembly.add(from_other[1], start));
    CHECK(reassembly.packets() == 3);
    CHECK(reassembly.add(mine[1], start));
    CHECK(reassembly.add(second[0], start));
    CHECK((reassembly.add(from_other[0], start) == outer_packet(1'500, ip("2001:db8:3::1"))));
    CHECK(reassembly.packets() == 0);
}

TEST_CASE("mobile ipv6 fragments: they are kept for a time") {
    Reassembly reassembly({.age = 500ms});
    CHECK_FALSE(reassembly.add(written({0, 8, true, 1}), start));
    CHECK_FALSE(reassembly.add(written({0, 8, true, 2}), start + 400ms));
    CHECK(reassembly.add(written({8, 4, false, 1}), start + 500ms) == whole(12));
    CHECK_FALSE(reassembly.add(written({0, 8, true, 3}), start + 600ms));
    reassembly.expire(start + 900ms);
    CHECK(reassembly.packets() == 2);
    reassembly.expire(start + 901ms);
    CHECK(reassembly.packets() == 1);
    CHECK(reassembly.incomplete() == 1);
    CHECK_FALSE(reassembly.add(written({8, 4, false, 2}), start + 901ms));
    reassembly.expire(start + 10s);
    CHECK(reassembly.packets() == 0);
    CHECK(reassembly.bytes() == 0);
    CHECK(reassembly.incomplete() == 3);
}

TEST_CASE("mobile ipv6 fragments: what they take is limited in number") {
    Reassembly reassembly({.packets = 2});
    for (std::uint32_t number = 1; number <= 3; ++number) {
        CHECK_FALSE(reassembly.add(written({0, 8, true, number}), start));
    }
    CHECK(reassembly.packets() == 2);
    CHECK(reassembly.incomplete() == 1);
    // The oldest is gone; the two others are whole. Its late fragment pushes none of them out.
    CHECK(reassembly.add(written({8, 4, false, 3}), start) == whole(12));
    CHECK_FALSE(reassembly.add(written({8, 4, false, 1}), start));
    CHECK(reassembly.add(written({8, 4, false, 2}), start) == whole(12));
}

TEST_CASE("mobile ipv6 fragments: what they take is limited in bytes") {
    constexpr std::size_t limit = 20'000;
    Reassembly reassembly({.bytes = limit});
    std::uint64_t before = 0;
    for (std::uint32_t number = 1; number <= 100; ++number) {
        CHECK_FALSE(reassembly.add(written({0, 1'232, true, number}), start));
        CHECK(reassembly.bytes() <= limit);
        CHECK(reassembly.bytes() >= reassembly.packets() * 1'232);
        CHECK(reassembly.incomplete() >= before);
        before = reassembly.incomplete();
    }
    CHECK(reassembly.packets() >= 8);
    CHECK(reassembly.packets() + reassembly.incomplete() == 100);
    CHECK((reassembly.add(written({1'232, 4, false, 100}), start) == whole(1'236)));
    // One packet that is too large alone.
    CHECK_FALSE(after(reassembly, {{0, 16'000, true, 200}, {16'000, 4'000, true, 200}}));
    CHECK(reassembly.bytes() <= limit);
    CHECK(reassembly.packets() == 1);
}

TEST_CASE("mobile ipv6 fragments: a packet of too many fragments is abandoned") {
    Reassembly reassembly({.fragments = 4});
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK_FALSE(reassembly.add(written({i * 8, 8}), start));
        CHECK(reassembly.incomplete() == (i == 4 ? 1 : 0));
    }
    CHECK_FALSE(reassembly.add(written({40, 8, false}), start));
    CHECK(after(reassembly,
                {{0, 8, true, 2}, {8, 8, true, 2}, {16, 8, true, 2}, {24, 8, false, 2}}) ==
          whole(32));
}

TEST_CASE("mobile ipv6 fragments: packets of a link that loses, repeats and reorders") {
    std::mt19937 random(18);
    std::vector<Bytes> line;
    std::vector<Bytes> complete;
    for (std::uint32_t number = 0; number < 200; ++number) {
        auto packet = outer_packet(1'241 + random() % 4'000);
        auto const parts = fragment(packet, 1'280, number);
        bool lost = false;
        for (auto const& part : parts) {
            if (random() % 20 == 0) {
                lost = true;
                continue;
            }
            line.push_back(part);
            if (random() % 10 == 0) line.push_back(part);
        }
        if (!lost) complete.push_back(std::move(packet));
    }
    // Each moves by up to 30 places.
    for (std::size_t i = 0; i + 1 < line.size(); ++i) {
        std::swap(line[i], line[std::min(line.size() - 1, i + random() % 30)]);
    }
    Reassembly reassembly;
    std::vector<Bytes> delivered;
    for (auto const& part : line) {
        if (auto joined = reassembly.add(part, start)) delivered.push_back(*std::move(joined));
    }
    std::ranges::sort(delivered);
    std::ranges::sort(complete);
    CHECK((delivered == complete));
    CHECK(complete.size() > 100);
    CHECK(complete.size() < 200);
}

}  // namespace mobile_ipv6_fragments_cases
