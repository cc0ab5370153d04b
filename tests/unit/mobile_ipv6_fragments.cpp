// Outer fragments of Mobile IPv6, as fragment() of netmove/mobile_ipv6/packet.hpp makes them. The
// kernel joins those that arrive; scapy joins ours in tests/process/mobile_ipv6_scapy.cpp.
#include <catch2/catch.hpp>

#include "netmove/frame_fields.hpp"
#include "netmove/mobile_ipv6/packet.hpp"
#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_ipv6_fragments_cases {

namespace {

using namespace netmove::mobile_ipv6;
using namespace mobile;

Address const agent = ip("2001:db8:1::1");
Address const care_of = ip("2001:db8:2::1");
constexpr auto agent_hex = "20010db8000100000000000000000001";
constexpr auto care_of_hex = "20010db8000200000000000000000001";

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

/// The packet that these are of: they follow each other, and only the last says that it is.
Bytes joined(std::vector<Bytes> const& parts) {
    Bytes data;
    for (auto const& part : parts) {
        unsigned const more = &part == &parts.back() ? 0 : 1;
        CHECK(netmove::get16(part, 42) == (data.size() | more));
        data.insert(data.end(), part.begin() + 48, part.end());
    }
    auto const& first = parts.front();
    Bytes packet(first.begin(), first.begin() + 40);
    packet[4] = static_cast<std::uint8_t>(data.size() >> 8);
    packet[5] = static_cast<std::uint8_t>(data.size() & 0xff);
    packet[6] = first[40];
    return packet + data;
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
            auto const parts = fragment(packet, mtu, 7);
            if (parts.size() == 1) continue;
            for (auto const& part : parts) {
                CHECK(part.size() <= mtu);
                CHECK_FALSE(decapsulate(part));
            }
            CHECK((joined(parts) == packet));
        }
    }
}

}  // namespace mobile_ipv6_fragments_cases
