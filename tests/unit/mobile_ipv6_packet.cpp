// Packets of Mobile IPv6 (netmove/mobile_ipv6/packet.hpp): signalling, and packets in packets. What
// is made is compared with bytes written by hand from the RFCs; other decoders read it in
// tests/process/mobile_ipv6_decoders.cpp. Fragments: mobile_ipv6_fragments.cpp.
#include "netmove/mobile_ipv6/packet.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_ipv6_packet_cases {

namespace {

using namespace netmove::mobile_ipv6;
using namespace mobile;

Address const home = ip("2001:db8:1::100");
Address const agent = ip("2001:db8:1::1");
Address const care_of = ip("2001:db8:2::1");
Address const ipv4_care_of = ip("198.51.100.7");
Address const ipv4_agent = ip("192.0.2.1");

constexpr auto home_hex = "20010db8000100000000000000000100";
constexpr auto agent_hex = "20010db8000100000000000000000001";
constexpr auto care_of_hex = "20010db8000200000000000000000001";

/// An IPv6 packet from the care-of address to the home agent.
Bytes ipv6(std::string_view next, Bytes const& content) {
    return bytes(fmt::format("60000000 {:04x} {} 40 {} {}", content.size(), next, care_of_hex,
                             agent_hex)) +
           content;
}

/// A Binding Update from the home address, whatever the IPv6 header says.
Bytes update() { return sealed(bytes("3b00 0500 0000 0001 c000 000f 01020000"), home, agent); }
std::string home_option(std::string_view next, std::string_view address = home_hex) {
    return fmt::format("{} 02 01020000 c910 {}", next, address);
}
std::string routing_header(std::string_view next, std::string_view address = home_hex) {
    return fmt::format("{} 02 02 01 00000000 {}", next, address);
}

NotSignalling refusal(Bytes const& packet) {
    auto const read = parse_packet(packet);
    REQUIRE_FALSE(read);
    return read.error();
}

/// A packet of a guest: IPv6 or IPv4, UDP inside.
Bytes inner_ipv6(std::string_view traffic_class = "00", std::size_t payload = 16) {
    return bytes(fmt::format("6{}00000 {:04x} 11 3f {} {}", traffic_class, payload, home_hex,
                             agent_hex)) +
           Bytes(payload, 0x5a);
}
Bytes with_checksum(Bytes packet) {
    packet[10] = packet[11] = 0;
    auto const sum = netmove::internet_checksum(ByteView(packet).first((packet[0] & 15U) * 4));
    packet[10] = static_cast<std::uint8_t>(sum >> 8);
    packet[11] = static_cast<std::uint8_t>(sum & 0xff);
    return packet;
}
Bytes inner_ipv4(std::string_view service = "00", std::string_view flags = "4000",
                 std::size_t payload = 16, std::string_view protocol = "11") {
    return with_checksum(bytes(fmt::format("45{} {:04x} 0001 {} 40 {} 0000 cb007101 c0000263",
                                           service, payload + 20, flags, protocol))) +
           Bytes(payload, 0x5a);
}

Bytes with_header(Address const& from, Address const& to, Bytes const& inner) {
    auto const header = outer_header(from, to, inner);
    return Bytes(header.begin(), header.end()) + inner;
}
Bytes over_ipv4(Ipv4End const& from, Ipv4End const& to, Bytes const& inner) {
    return outer_ipv4_header(from, to, inner) + inner;
}

Bytes copy(ByteView view) { return {view.begin(), view.end()}; }

}  // namespace

TEST_CASE("mobile ipv6 packet: a Binding Update as a home agent in the field accepts it") {
    SignallingPacket const packet{.source = care_of,
                                  .destination = agent,
                                  .home_option = home,
                                  .message = BindingUpdate{.sequence = 1,
                                                           .key_management_mobility = true,
                                                           .lifetime = LifetimeUnits(15),
                                                           .alternate_care_of = care_of}};
    auto const vector = bytes(
        "6000000000383c40 20010db8000200000000000000000001 20010db8000100000000000000000001 8702 "
        "01020000 c910 20010db8000100000000000000000100 3b030500 6103 0001 d000 000f 0100 0310 "
        "20010db8000200000000000000000001");
    CHECK(encode(packet) == vector);
    CHECK(parse_packet(vector) == packet);
    CHECK(packet.home_address() == home);
}

TEST_CASE("mobile ipv6 packet: each way of addressing, as the RFC draws it") {
    BindingAcknowledgement const answer{.sequence = 1, .lifetime = LifetimeUnits(15)};
    auto const answer_bytes = sealed(bytes("3b00 0600 0000 0000 0001 000f 01020000"), agent, home);
    SignallingPacket packet{
        .source = agent, .destination = care_of, .routing_home = home, .message = answer};
    CHECK(encode(packet) ==
          bytes(fmt::format("60000000 0028 2b 40 {} {}", agent_hex, care_of_hex)) +
              bytes(routing_header("87")) + answer_bytes);
    CHECK(parse_packet(encode(packet)) == packet);
    CHECK(packet.home_address() == home);

    packet = {.source = agent, .destination = home, .message = answer};
    CHECK(encode(packet) ==
          bytes(fmt::format("60000000 0010 87 40 {} {}", agent_hex, home_hex)) + answer_bytes);
    CHECK(parse_packet(encode(packet)) == packet);
    CHECK(packet.home_address() == home);

    packet = {.source = home, .destination = agent, .message = BindingUpdate{}};
    CHECK(encode(packet)[6] == 135);
    CHECK(parse_packet(encode(packet)) == packet);
    CHECK(packet.home_address() == home);

    // Both: from one mobile node to another.
    packet = {.source = care_of,
              .destination = ip("2001:db8:3::3"),
              .home_option = home,
              .routing_home = ip("2001:db8:4::4"),
              .message = BindingRefreshRequest{}};
    CHECK(parse_packet(encode(packet)) == packet);
    CHECK(packet.home_address() == home);
}

TEST_CASE("mobile ipv6 packet: hop-by-hop options and options that may be skipped are skipped") {
    SignallingPacket const wanted{
        .source = care_of,
        .destination = agent,
        .home_option = home,
        .message = BindingUpdate{.sequence = 1, .lifetime = LifetimeUnits(15)}};
    auto const option = bytes(home_option("87"));
    // Router alert; then padding alone.
    CHECK(parse_packet(ipv6("00", bytes("3c00 05020000 0000") + option + update())) == wanted);
    CHECK(parse_packet(ipv6("00", bytes("3c00 0104 00000000") + option + update())) == wanted);
    // In the same header, before it; and in a header of its own, after it.
    CHECK(parse_packet(ipv6(
              "3c", bytes(fmt::format("8702 1e020000 c910 {}", home_hex)) + update())) == wanted);
    CHECK(parse_packet(ipv6(
              "3c", bytes(home_option("3c")) + bytes("8700 1e04 00000000") + update())) == wanted);
    // A routing header that has been followed to its end.
    CHECK(parse_packet(ipv6("2b", bytes("3c00 0300 00000000") + option + update())) == wanted);
    // What follows the packet, as Ethernet's padding.
    CHECK(parse_packet(ipv6("3c", option + update()) + Bytes(7, 0xff)) == wanted);
}

TEST_CASE("mobile ipv6 packet: what must not be skipped makes it malformed") {
    auto const malformed = [](std::string_view next, Bytes const& content) {
        return refusal(ipv6(next, content + update())) == NotSignalling::malformed;
    };
    // Options that ask for it by their first two bits, in both headers.
    for (char const* type : {"40", "80", "c0"}) {
        CHECK(malformed("3c", bytes(fmt::format("8700 {}04 00000000", type))));
        CHECK(malformed("00", bytes(fmt::format("8700 {}04 00000000", type))));
    }
    // A Home Address option twice, of another length, in the wrong header, cut off.
    CHECK(malformed("3c", bytes(home_option("3c")) + bytes(home_option("87"))));
    CHECK(malformed("3c", bytes("8700 c904 00000000")));
    CHECK(malformed("00", bytes(home_option("87"))));
    CHECK(malformed("3c", bytes("8700 0105 00000000")));
    CHECK(malformed("3c", bytes("8700 01020000 00c9")));
    // Home addresses that no host has, or that are of one link.
    for (char const* address :
         {"ff020000000000000000000000000001", "00000000000000000000000000000000",
          "00000000000000000000000000000001", "00000000000000000000ffffc0000201",
          "fe800000000000000000000000000001"}) {
        CHECK(malformed("3c", bytes(home_option("87", address))));
        CHECK(malformed("2b", bytes(routing_header("87", address))));
    }
    // Routing headers: other types with a segment left; of type 2 none left, two, too long, twice.
    CHECK(malformed("2b", bytes(fmt::format("8702 0001 00000000 {}", home_hex))));
    CHECK(malformed("2b", bytes(fmt::format("8702 0200 00000000 {}", home_hex))));
    CHECK(malformed("2b", bytes(fmt::format("8702 0202 00000000 {}", home_hex))));
    CHECK(malformed("2b", bytes(fmt::format("8704 0201 00000000 {} {}", home_hex, home_hex))));
    CHECK(malformed("2b", bytes(routing_header("2b")) + bytes(routing_header("87"))));
    // Hop-by-hop options that are not first.
    CHECK(malformed("3c", bytes("0000 01040000 0000 8700 01040000 0000")));
    // A fragment of a Mobility Header.
    CHECK(malformed("2c", bytes("8700 0001 00000001")));
}

TEST_CASE("mobile ipv6 packet: from a source that no host has it is malformed") {
    for (char const* address : {"ff02::1", "::", "::1", "::ffff:192.0.2.1"}) {
        SignallingPacket const packet{ip(address), agent, home, {}, BindingUpdate{}};
        CHECK(refusal(encode(packet)) == NotSignalling::malformed);
    }
}

TEST_CASE("mobile ipv6 packet: one without a Mobility Header is for others") {
    CHECK(refusal({}) == NotSignalling::other);
    CHECK(refusal(inner_ipv4()) == NotSignalling::other);
    CHECK(refusal(inner_ipv6()) == NotSignalling::other);
    CHECK(refusal(with_header(care_of, agent, inner_ipv6())) == NotSignalling::other);
    CHECK(refusal(ipv6("3b", {})) == NotSignalling::other);
    CHECK(refusal(ipv6("3c", bytes("1100 01040000 0000"))) == NotSignalling::other);
    // A fragment of something else; ESP.
    CHECK(refusal(ipv6("2c", bytes("2900 0001 00000001") + Bytes(8))) == NotSignalling::other);
    CHECK(refusal(ipv6("2c", {})) == NotSignalling::other);
    CHECK(refusal(ipv6("32", Bytes(24))) == NotSignalling::other);
}

TEST_CASE("mobile ipv6 packet: a wrong checksum is told from other faults") {
    auto const option = bytes(home_option("87"));
    auto changed = ipv6("3c", option + update());
    CHECK(parse_packet(changed));
    changed.back() ^= 1;
    CHECK(refusal(changed) == NotSignalling::bad_checksum);
    // Under the care-of address, not the home address.
    auto const of_care_of = sealed(bytes("3b00 0500 0000 0001 c000 000f 01020000"), care_of, agent);
    CHECK(refusal(ipv6("3c", option + of_care_of)) == NotSignalling::bad_checksum);
    CHECK(parse_packet(ipv6("87", of_care_of)));
    auto const wrong_option = sealed(bytes("3b00 0500 0000 0001 c000 000f 03020000"), home, agent);
    CHECK(refusal(ipv6("3c", option + wrong_option)) == NotSignalling::malformed);
}

TEST_CASE("mobile ipv6 packet: it is refused wherever it is cut off") {
    SignallingPacket const packet{.source = care_of,
                                  .destination = ip("2001:db8:3::3"),
                                  .home_option = home,
                                  .routing_home = ip("2001:db8:4::4"),
                                  .message = BindingUpdate{.alternate_care_of = care_of}};
    auto const whole = encode(packet);
    for (std::size_t size = 1; size < whole.size(); ++size) {
        Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK(refusal(part) == NotSignalling::malformed);
        if (size < 40) continue;
        // Now with a length that says so.
        part[4] = static_cast<std::uint8_t>((size - 40) >> 8);
        part[5] = static_cast<std::uint8_t>((size - 40) & 0xff);
        CHECK(refusal(part) == NotSignalling::malformed);
    }
    CHECK(parse_packet(whole) == packet);
}

TEST_CASE("mobile ipv6 packet: what is in a UDP datagram is read without a header between") {
    for (auto const& packet : {inner_ipv6(), inner_ipv4()}) {
        auto const with_more = packet + Bytes(3, 0xee);
        auto const read = ip_packet(with_more);
        REQUIRE(read);
        CHECK(copy(*read) == packet);
        for (std::size_t size = 0; size < packet.size(); ++size) {
            CHECK_FALSE(ip_packet(ByteView(packet).first(size)));
        }
    }
    // Neither family; lengths that do not fit.
    CHECK_FALSE(ip_packet(Bytes(64, 0x50)));
    CHECK_FALSE(ip_packet(bytes("ff")));
    auto wrong = inner_ipv4();
    wrong[0] = 0x44;
    CHECK_FALSE(ip_packet(wrong));
    wrong = inner_ipv4();
    wrong[0] = 0x4f;
    CHECK_FALSE(ip_packet(wrong));
    wrong = inner_ipv4();
    wrong[3] = 19;
    CHECK_FALSE(ip_packet(wrong));
}

TEST_CASE("mobile ipv6 packet: the outer header, as the RFC draws it") {
    auto const header = outer_header(agent, care_of, inner_ipv6("b8"));
    CHECK(copy(header) == bytes(fmt::format("6b800000 0038 29 40 {} {}", agent_hex, care_of_hex)));
    CHECK(copy(outer_header(agent, care_of, inner_ipv4("ba"))) ==
          bytes(fmt::format("6ba00000 0024 04 40 {} {}", agent_hex, care_of_hex)));
    for (auto const& inner : {inner_ipv6("ff"), inner_ipv4("ff")}) {
        auto const packet = with_header(agent, care_of, inner) + Bytes(5, 0xee);
        auto const read = decapsulate(packet);
        REQUIRE(read);
        CHECK(read->source == agent);
        CHECK(read->destination == care_of);
        CHECK(read->traffic_class == 0xff);
        CHECK(read->udp_source == 0);
        CHECK(read->udp_destination == 0);
        CHECK(copy(read->inner) == inner);
        CHECK(read->inner_is_ipv4() == (inner[0] == 0x45));
    }
    // The largest.
    auto const large = inner_ipv6("00", 65'535 - 40);
    auto const packet = with_header(agent, care_of, large);
    auto const read = decapsulate(packet);
    REQUIRE(read);
    CHECK(std::ranges::equal(read->inner, large));
}

TEST_CASE("mobile ipv6 packet: over an IPv4 network, with UDP and without") {
    auto const inner = inner_ipv6("b9");
    auto const plain = over_ipv4({ipv4_agent}, {ipv4_care_of}, inner);
    CHECK(plain ==
          with_checksum(bytes("45b9 004c 0000 4000 40 29 0000 c0000201 c6336407")) + inner);
    CHECK(over_ipv4({ipv4_agent}, {ipv4_care_of}, inner_ipv4()) ==
          with_checksum(bytes("4500 0038 0000 4000 40 04 0000 c0000201 c6336407")) + inner_ipv4());
    auto const with_more = plain + Bytes(5, 0xee);
    auto read = decapsulate(with_more);
    REQUIRE(read);
    CHECK(read->source == ipv4_agent);
    CHECK(read->destination == ipv4_care_of);
    CHECK(read->traffic_class == 0xb9);
    CHECK(read->udp_source == 0);
    CHECK(copy(read->inner) == inner);

    auto const udp = over_ipv4({ipv4_agent, 4191}, {ipv4_care_of, 50'000}, inner_ipv4());
    CHECK(copy(ByteView(udp).first(26)) ==
          with_checksum(bytes("4500 0040 0000 4000 40 11 0000 c0000201 c6336407")) +
              bytes("105f c350 002c"));
    CHECK(netmove::get16(udp, 26) != 0);
    CHECK(netmove::upper_layer_checksum(ipv4_agent, ipv4_care_of, 17, ByteView(udp).subspan(20)) ==
          0);
    read = decapsulate(udp);
    REQUIRE(read);
    CHECK(read->udp_source == 4191);
    CHECK(read->udp_destination == 50'000);
    CHECK(copy(read->inner) == inner_ipv4());
}

TEST_CASE("mobile ipv6 packet: a UDP checksum that is 0 is sent as all bits set") {
    Ipv4End const from{ipv4_care_of, 4191};
    Ipv4End const to{ipv4_agent, 4191};
    auto inner = inner_ipv4("00", "4000", 4);
    // With zeroes at the end the checksum is what, put there, makes it 0.
    inner[22] = inner[23] = 0;
    auto const first = over_ipv4(from, to, inner);
    inner[22] = first[26];
    inner[23] = first[27];
    auto const packet = over_ipv4(from, to, inner);
    CHECK(netmove::get16(packet, 26) == 0xffff);
    CHECK(decapsulate(packet));
}

TEST_CASE("mobile ipv6 packet: an outer packet that carries none is refused") {
    auto const tunnelled = [](std::string_view next, Bytes const& inner) {
        return decapsulate(ipv6(next, inner)).has_value();
    };
    CHECK(tunnelled("29", inner_ipv6()));
    CHECK(tunnelled("04", inner_ipv4()));
    // Neither, or another family than is said, or cut off, or empty.
    CHECK_FALSE(tunnelled("29", inner_ipv4()));
    CHECK_FALSE(tunnelled("04", inner_ipv6()));
    CHECK_FALSE(tunnelled("11", inner_ipv6()));
    CHECK_FALSE(tunnelled("29", copy(ByteView(inner_ipv6()).first(55))));
    CHECK_FALSE(tunnelled("04", {}));
    // Behind the options of a tunnel (RFC 2473 4.1.1), not behind others.
    CHECK(tunnelled("3c", bytes("2900 0401 04 010100") + inner_ipv6()));
    CHECK_FALSE(tunnelled("3c", bytes("2900 4401 04 010100") + inner_ipv6()));
    CHECK_FALSE(tunnelled("3c", bytes(home_option("29")) + inner_ipv6()));
    CHECK_FALSE(tunnelled("2b", bytes(routing_header("29")) + inner_ipv6()));
    CHECK_FALSE(tunnelled("3c", bytes("29ff 0401 04 010100") + inner_ipv6()));
    CHECK_FALSE(tunnelled("2c", bytes("2900 0001 00000001") + inner_ipv6()));
    CHECK_FALSE(decapsulate(encode(SignallingPacket{care_of, agent, home, {}, BindingUpdate{}})));

    auto const outer_ipv4 = over_ipv4({ipv4_care_of}, {ipv4_agent}, inner_ipv6());
    auto const changed = [&](std::size_t at, std::uint8_t value) {
        auto packet = outer_ipv4;
        packet[at] = value;
        return decapsulate(with_checksum(packet)).has_value();
    };
    CHECK(changed(8, 1));  // TTL
    CHECK_FALSE(changed(6, 0x20));  // more fragments
    CHECK_FALSE(changed(7, 1));  // a later fragment
    CHECK_FALSE(changed(9, 4));  // IPv4 inside
    CHECK_FALSE(changed(9, 6));  // TCP
    CHECK_FALSE(changed(3, 59));  // the inner packet is cut off
    auto wrong = outer_ipv4;
    wrong[10] ^= 1;
    CHECK_FALSE(decapsulate(wrong));
}

TEST_CASE("mobile ipv6 packet: a UDP datagram that carries none is refused") {
    auto const packet = over_ipv4({ipv4_care_of, 50'000}, {ipv4_agent, 4191}, inner_ipv6());
    auto const changed = [&](std::size_t at, unsigned value) {
        auto made = packet;
        made[26] = made[27] = 0;  // no checksum
        made[at] = static_cast<std::uint8_t>(value >> 8);
        made[at + 1] = static_cast<std::uint8_t>(value & 0xff);
        return decapsulate(made).has_value();
    };
    CHECK(changed(26, 0));
    CHECK_FALSE(changed(26, 1));  // a wrong checksum
    CHECK_FALSE(changed(22, 4500));  // another port; the source's is none of ours either
    CHECK(changed(20, 4191));
    CHECK_FALSE(changed(20, 0));  // no port to answer to
    CHECK_FALSE(changed(24, 7));  // shorter than its header
    CHECK_FALSE(changed(24, 8));  // empty
    CHECK_FALSE(changed(24, 8 + 55));  // the packet in it is cut off
    CHECK_FALSE(changed(24, 8 + 57));  // longer than the IPv4 packet
    CHECK_FALSE(changed(28, 0x5000));  // neither IPv4 nor IPv6
    for (std::size_t size = 0; size < packet.size(); ++size) {
        CHECK_FALSE(
            decapsulate(Bytes(packet.begin(), packet.begin() + static_cast<std::ptrdiff_t>(size))));
    }
    auto short_udp = with_checksum(bytes("4500 001b 0000 4000 40 11 0000 c0000201 c6336407"));
    CHECK_FALSE(decapsulate(short_udp + bytes("105f105f000700")));
}

TEST_CASE("mobile ipv6 packet: congestion is carried into the inner packet") {
    constexpr unsigned dropped = 4;
    // RFC 6040 4.2: by the inner packet's field, and the outer one's: Not-ECT, ECT(1), ECT(0), CE.
    constexpr unsigned table[4][4] = {{0, 0, 0, dropped}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}};
    for (unsigned inner = 0; inner < 4; ++inner) {
        for (unsigned outer = 0; outer < 4; ++outer) {
            auto const wanted = table[inner][outer];
            auto const service = fmt::format("{:02x}", 0xb8 | inner);
            auto packet = inner_ipv6(service);
            CHECK(carry_congestion(static_cast<std::uint8_t>(0x40 | outer), packet) ==
                  (wanted != dropped));
            if (wanted != dropped)
                CHECK(packet == inner_ipv6(fmt::format("{:02x}", 0xb8 | wanted)));
            packet = inner_ipv4(service);
            CHECK(carry_congestion(static_cast<std::uint8_t>(0x40 | outer), packet) ==
                  (wanted != dropped));
            if (wanted != dropped)
                CHECK(packet == inner_ipv4(fmt::format("{:02x}", 0xb8 | wanted)));
        }
    }
    // A wrong checksum is not mended.
    auto packet = inner_ipv4("02");
    packet[10] ^= 0x10;
    CHECK(carry_congestion(3, packet));
    CHECK(packet != with_checksum(packet));
    packet[10] ^= 0x10;
    CHECK(packet == inner_ipv4("03"));
}

TEST_CASE("mobile ipv6 packet: packet too big, as RFC 4443 draws it") {
    auto const offending = inner_ipv6("00", 1460);
    auto const answer = packet_too_big(agent, offending, 1460);
    REQUIRE(answer);
    REQUIRE(answer->size() == 1280);
    CHECK(copy(ByteView(*answer).first(40)) ==
          bytes(fmt::format("60000000 04d8 3a 40 {} {}", agent_hex, home_hex)));
    auto const message = ByteView(*answer).subspan(40);
    CHECK(copy(message.first(2)) == bytes("0200"));
    CHECK(netmove::icmpv6_checksum(agent, home, message) == 0);
    CHECK(netmove::get32(message, 4) == 1460);
    CHECK(std::ranges::equal(message.subspan(8), ByteView(offending).first(1232)));

    auto const short_one = packet_too_big(agent, inner_ipv6(), 100);
    REQUIRE(short_one);
    CHECK(short_one->size() == 48 + inner_ipv6().size());
    CHECK(netmove::get32(*short_one, 44) == 1280);  // no link has less
}

TEST_CASE("mobile ipv6 packet: fragmentation needed, as RFC 1191 draws it") {
    auto const offending = inner_ipv4("00", "4000", 1480);
    auto const answer = packet_too_big(ipv4_agent, offending, 1452);
    REQUIRE(answer);
    REQUIRE(answer->size() == 576);
    CHECK(copy(ByteView(*answer).first(20)) ==
          with_checksum(bytes("4500 0240 0000 4000 40 01 0000 c0000201 cb007101")));
    auto const message = ByteView(*answer).subspan(20);
    CHECK(copy(message.first(2)) == bytes("0304"));
    CHECK(netmove::internet_checksum(message) == 0);
    CHECK(netmove::get32(message, 4) == 1452);
    CHECK(std::ranges::equal(message.subspan(8), ByteView(offending).first(548)));
    CHECK(netmove::get32(packet_too_big(ipv4_agent, offending, 20).value(), 24) == 68);
    CHECK(netmove::get32(packet_too_big(ipv4_agent, offending, 70'000).value(), 24) == 65'535);
}

TEST_CASE("mobile ipv6 packet: what must not be answered with packet too big is not") {
    auto const answered = [](Bytes const& packet) {
        return packet_too_big(packet[0] >> 4 == 4 ? ipv4_agent : agent, packet, 1280).has_value();
    };
    auto const icmpv6 = [](char const* message) { return ipv6("3a", bytes(message)); };
    CHECK(answered(icmpv6("8000 0000 00000000")));
    CHECK(answered(icmpv6("8800 0000 00000000")));
    CHECK_FALSE(answered(icmpv6("0200 0000 00000000")));
    CHECK_FALSE(answered(icmpv6("7f00 0000 00000000")));
    CHECK_FALSE(answered(icmpv6("8900 0000 00000000")));
    CHECK_FALSE(answered(icmpv6("")));
    // An error behind other headers, which a router does not judge.
    CHECK_FALSE(answered(ipv6("3c", bytes("3a00 c104 00000000 0100 0000 00000000"))));
    CHECK(answered(ipv6("3c", bytes("3a00 c104 00000000 8000 0000 00000000"))));
    CHECK_FALSE(answered(ipv6("2c", bytes("3a00 0001 00000001 0100 0000 00000000"))));
    CHECK(answered(ipv6("2c", bytes("1100 0001 00000001 0100 0000 00000000"))));
    auto anonymous = inner_ipv6();
    std::fill_n(anonymous.begin() + 8, 16, std::uint8_t{0});
    CHECK_FALSE(answered(anonymous));
    auto from_group = inner_ipv6();
    from_group[8] = 0xff;
    CHECK_FALSE(answered(from_group));

    CHECK(answered(inner_ipv4()));
    CHECK_FALSE(answered(inner_ipv4("00", "0000")));  // it may be fragmented
    CHECK_FALSE(answered(inner_ipv4("00", "4001")));  // a later fragment
    auto const icmpv4 = [](int type) {
        auto packet = inner_ipv4("00", "4000", 8, "01");
        packet[20] = static_cast<std::uint8_t>(type);
        return packet;
    };
    for (int const type : {0, 8, 13}) CHECK(answered(icmpv4(type)));
    for (int const type : {3, 4, 5, 11, 12}) CHECK_FALSE(answered(icmpv4(type)));
    CHECK_FALSE(answered(inner_ipv4("00", "4000", 0, "01")));
    auto to_group = inner_ipv4();
    to_group[16] = 239;
    CHECK_FALSE(answered(to_group));
    auto from_nobody = inner_ipv4();
    from_nobody[12] = 0;
    CHECK_FALSE(answered(from_nobody));
    CHECK_FALSE(answered(bytes("6000")));
    // Our own answers are not answered.
    CHECK_FALSE(answered(packet_too_big(agent, inner_ipv6(), 1280).value()));
    CHECK_FALSE(answered(packet_too_big(ipv4_agent, inner_ipv4(), 1280).value()));
}

}  // namespace mobile_ipv6_packet_cases
