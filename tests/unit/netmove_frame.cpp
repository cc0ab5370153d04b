// The frames of netmove/frame.hpp. Built frames are compared with vectors written by hand from the
// RFCs (an independent decoder reads them in tests/process/netmove_decoder.cpp). Then: what is
// learnt from a frame.
#include <catch2/catch.hpp>

#include "netmove/adjacency.hpp"
#include "netmove/frame.hpp"

namespace netmove_frame_cases {

namespace {

using namespace netmove;

MacAddress mac(char const* text) { return MacAddress::parse(text).value(); }
Address ip(char const* text) { return Address::parse(text).value(); }

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const other = mac("52:54:00:aa:bb:cc");

int hex_value(char c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; }

/// "ffff 0806" -> bytes
Bytes bytes(std::string_view hex) {
    Bytes out;
    int high = -1;
    for (char c : hex) {
        if (c == ' ') continue;
        if (high < 0) {
            high = hex_value(c);
        } else {
            out.push_back(static_cast<std::uint8_t>(high * 16 + hex_value(c)));
            high = -1;
        }
    }
    return out;
}

Bytes padded(Bytes frame) {
    frame.resize(60);
    return frame;
}

Learned learn_frame(Bytes const& frame) {
    auto const parsed = parse_ethernet(frame);
    REQUIRE(parsed);
    return learn(guest, *parsed);
}

/// A minimal IPv4 packet from the guest.
Bytes ipv4_frame(std::string_view source, std::string_view ttl) {
    return bytes(fmt::format(
        "525400aabbcc 525400123456 0800 45000014 00000000 {}110000 {} c0000201", ttl, source));
}

/// An IPv6 packet from the guest with the given payload.
Bytes ipv6_frame(std::string_view source, std::string_view hops, std::string_view next,
                 std::string_view payload) {
    auto const size = bytes(payload).size();
    return bytes(
        fmt::format("3333000000ff 525400123456 86dd 60000000 {:04x} {} {} {} "
                    "ff020000000000000000000000000001 {}",
                    size, next, hops, source, payload));
}

constexpr auto v6_global = "20010db8000000000000000000000010";
constexpr auto v6_link_local = "fe80000000000000505400fffe123456";
constexpr auto v6_unspecified = "00000000000000000000000000000000";
constexpr auto own_option = "0201525400123456";

}  // namespace

TEST_CASE("a RARP announcement is QEMU's, byte for byte", "[netmove]") {
    CHECK(rarp_announcement(guest) ==
          padded(bytes("ffffffffffff 525400123456 8035 0001 0800 06 04 0003 "
                       "525400123456 00000000 525400123456 00000000")));
}

TEST_CASE("gratuitous ARP has its two forms", "[netmove]") {
    CHECK(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request) ==
          padded(bytes("ffffffffffff 525400123456 0806 0001 0800 06 04 0001 "
                       "525400123456 c000020a 000000000000 c000020a")));
    CHECK(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::reply, 7) ==
          padded(bytes("ffffffffffff 525400123456 8100 0007 0806 0001 0800 06 04 0002 "
                       "525400123456 c000020a 525400123456 c000020a")));
}

TEST_CASE("a neighbour advertisement overrides, and says router only when told so", "[netmove]") {
    // The checksum was computed independently of this code, with RFC 4443's pseudo-header.
    auto const host = neighbour_advertisement(guest, ip("2001:db8::10"), false);
    CHECK(host == bytes("333300000001 525400123456 86dd 60000000 0020 3a ff "
                        "20010db8000000000000000000000010 ff020000000000000000000000000001 "
                        "8800 7451 20000000 20010db8000000000000000000000010 0201525400123456"));
    auto const router = neighbour_advertisement(guest, ip("2001:db8::10"), true);
    CHECK(router[14 + 40 + 4] == 0xa0);
    auto const view = ByteView(router).subspan(14 + 40);
    CHECK(icmpv6_checksum(ip("2001:db8::10"), ip("ff02::1"), view) == 0);
}

TEST_CASE("a multicast report joins the solicited-node groups", "[netmove]") {
    auto const group = solicited_node(ip("2001:db8::1234:5678"));
    CHECK(group.text() == "ff02::1:ff34:5678");
    Address const groups[] = {group, solicited_node(ip("fe80::1"))};
    auto const frame = multicast_report(guest, ip("fe80::1"), groups);
    REQUIRE(frame.size() == 14 + 40 + 8 + 8 + 2 * 20);
    CHECK(Bytes(frame.begin(), frame.begin() + 14) == bytes("333300000016 525400123456 86dd"));
    CHECK(Bytes(frame.begin() + 54, frame.begin() + 62) == bytes("3a00 0502 0000 0100"));
    auto const message = ByteView(frame).subspan(62);
    CHECK(message[0] == 143);
    CHECK(message[7] == 2);
    CHECK(icmpv6_checksum(ip("fe80::1"), ip("ff02::16"), message) == 0);
}

TEST_CASE("the checksum takes odd lengths", "[netmove]") {
    auto const odd = bytes("8000 0000 0001 0002 ab");
    auto const even = bytes("8000 0000 0001 0002 ab00");
    // The same sum, except that the length in the pseudo-header is one more.
    auto const sum_odd = icmpv6_checksum(ip("::1"), ip("::1"), odd);
    auto const sum_even = icmpv6_checksum(ip("::1"), ip("::1"), even);
    CHECK(sum_odd == sum_even + 1);
}

TEST_CASE("an interface is announced in all it uses", "[netmove]") {
    GuestAddress const all[] = {{ip("192.0.2.10"), 0},
                                {ip("2001:db8::10"), 0},
                                {ip("fe80::10"), 0},
                                {ip("198.51.100.1"), 30}};
    auto const frames = announcements(guest, all, false, ArpForm::request);
    REQUIRE(frames.size() == 7);
    CHECK(frames[0] == rarp_announcement(guest));
    CHECK(frames[1] == gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request));
    CHECK(frames[2] == neighbour_advertisement(guest, ip("2001:db8::10"), false));
    CHECK(frames[3] == neighbour_advertisement(guest, ip("fe80::10"), false));
    // Both addresses end in the same 24 bits: one group, reported from the link-local address.
    Address const group[] = {solicited_node(ip("fe80::10"))};
    CHECK(frames[4] == multicast_report(guest, ip("fe80::10"), group));
    CHECK(frames[5] == rarp_announcement(guest, 30));
    CHECK(frames[6] == gratuitous_arp(guest, ip("198.51.100.1"), ArpForm::request, 30));

    CHECK(announcements(guest, {}, false, ArpForm::request).size() == 1);
}

TEST_CASE("a guest with more groups than one report holds gets several", "[netmove]") {
    std::vector<GuestAddress> many;
    for (int i = 0; i < 70; ++i)
        many.push_back({ip(fmt::format("2001:db8::{}", i + 1).c_str()), 0});
    auto const frames = announcements(guest, many, false, ArpForm::request);
    CHECK(frames.size() == 1 + 70 + 2);
    for (auto const& frame : frames) CHECK(frame.size() <= 14 + 1500);
}

TEST_CASE("ethernet is parsed within its bytes", "[netmove]") {
    CHECK_FALSE(parse_ethernet(bytes("ffffffffffff 525400123456 08")));
    CHECK_FALSE(parse_ethernet({}));
    auto const tagged = bytes("ffffffffffff 525400123456 8100 2007 0806 aa");
    auto const parsed = parse_ethernet(tagged);
    REQUIRE(parsed);
    CHECK(parsed->vlan == 7);
    CHECK(parsed->tags == 1);
    CHECK(parsed->ether_type == 0x0806);
    CHECK(parsed->payload.size() == 1);
    CHECK_FALSE(parse_ethernet(bytes("ffffffffffff 525400123456 8100 2007 08")));
    CHECK_FALSE(
        parse_ethernet(bytes("ffffffffffff 525400123456 8100 0001 8100 0002 8100 0003 0800")));
    auto const twice = parse_ethernet(bytes("ffffffffffff 525400123456 88a8 0001 8100 0002 0800"));
    REQUIRE(twice);
    CHECK(twice->tags == 2);
    CHECK(twice->vlan == 2);
}

TEST_CASE("ARP teaches the sender of requests and of gratuitous replies", "[netmove]") {
    auto const arp = [](std::string_view operation, std::string_view sender_mac,
                        std::string_view sender, std::string_view target) {
        return bytes(
            fmt::format("ffffffffffff 525400123456 0806 0001 0800 06 04 {} {} {} "
                        "000000000000 {}",
                        operation, sender_mac, sender, target));
    };
    auto const own = "525400123456";
    CHECK(learn_frame(arp("0001", own, "c000020a", "c0000201")).address == ip("192.0.2.10"));
    CHECK(learn_frame(arp("0002", own, "c000020a", "c000020a")).address == ip("192.0.2.10"));
    // A reply may come from a proxy; a probe has no sender address yet; another MAC is not the
    // guest.
    CHECK_FALSE(learn_frame(arp("0002", own, "c000020a", "c0000201")).address);
    CHECK_FALSE(learn_frame(arp("0001", own, "00000000", "c000020a")).address);
    CHECK_FALSE(learn_frame(arp("0001", "525400aabbcc", "c000020a", "c0000201")).address);
    CHECK_FALSE(learn_frame(arp("0001", own, "e0000001", "c0000201")).address);
    CHECK_FALSE(learn_frame(arp("0001", own, "7f000001", "c0000201")).address);
    auto short_one = arp("0001", own, "c000020a", "c0000201");
    short_one.pop_back();
    CHECK_FALSE(learn_frame(short_one).address);
    // Our own announcements teach the same address.
    CHECK(learn_frame(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request)).address);
    CHECK(learn_frame(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::reply)).address);
    CHECK_FALSE(learn_frame(rarp_announcement(guest)).address);
}

TEST_CASE("IP packets teach their source only where the guest made them", "[netmove]") {
    CHECK(learn_frame(ipv4_frame("c000020a", "40")).address == ip("192.0.2.10"));
    CHECK(learn_frame(ipv4_frame("c000020a", "80")).address == ip("192.0.2.10"));
    // Routed through the guest: the hop limit is one less.
    CHECK_FALSE(learn_frame(ipv4_frame("c000020a", "3f")).address);
    CHECK_FALSE(learn_frame(ipv4_frame("ffffffff", "40")).address);
    CHECK_FALSE(learn_frame(ipv4_frame("00000000", "40")).address);  // DHCP
    CHECK(learn_frame(ipv6_frame(v6_global, "40", "11", "")).address == ip("2001:db8::10"));
    CHECK_FALSE(learn_frame(ipv6_frame(v6_global, "3f", "11", "")).address);
    CHECK_FALSE(learn_frame(ipv6_frame(v6_unspecified, "40", "11", "")).address);
    auto foreign = ipv4_frame("c000020a", "40");
    foreign[11] ^= 1;
    CHECK_FALSE(learn_frame(foreign).address);
    auto const frame = neighbour_advertisement(other, ip("2001:db8::99"), false);
    CHECK_FALSE(learn_frame(frame).address);
}

TEST_CASE("neighbour discovery teaches addresses and the router flag", "[netmove]") {
    auto const na = [](std::string_view source, std::string_view flags, std::string_view options,
                       std::string_view hops = "ff") {
        return ipv6_frame(
            source, hops, "3a",
            fmt::format("8800 0000 {}000000 20010db8000000000000000000000010 {}", flags, options));
    };
    auto learned = learn_frame(na(v6_link_local, "20", own_option));
    CHECK(learned.address == ip("2001:db8::10"));
    CHECK(learned.router == false);
    CHECK(learn_frame(na(v6_link_local, "a0", own_option)).router == true);
    CHECK(learn_frame(na(v6_global, "60", "")).address == ip("2001:db8::10"));
    // Without the Override flag a proxy may have sent it: only the source address is certain.
    CHECK(learn_frame(na(v6_link_local, "40", own_option)).address ==
          ip("fe80::5054:ff:fe12:3456"));
    CHECK_FALSE(learn_frame(na(v6_link_local, "20", "0201525400aabbcc")).address);
    CHECK_FALSE(learn_frame(na(v6_link_local, "20", "0200525400123456")).address);  // length 0
    CHECK_FALSE(learn_frame(na(v6_link_local, "20", "0202525400123456")).address);  // too long
    CHECK_FALSE(learn_frame(na(v6_link_local, "20", own_option, "fe")).address);

    auto const dad = "8700 0000 00000000 20010db8000000000000000000000010";
    CHECK_FALSE(learn_frame(ipv6_frame(v6_unspecified, "ff", "3a", dad)).address);
    CHECK(learn_frame(ipv6_frame(v6_global, "ff", "3a", dad)).address == ip("2001:db8::10"));
    auto const ra = "8600 0000 40000708 0000000000000000";
    learned = learn_frame(ipv6_frame(v6_link_local, "ff", "3a", ra));
    CHECK(learned.router == true);
    CHECK(learned.address == ip("fe80::5054:ff:fe12:3456"));
    // A payload length that is longer, or shorter, than the payload.
    auto lying = na(v6_link_local, "20", own_option);
    lying[14 + 5] = 0xff;
    CHECK(learn_frame(lying).address);
    lying[14 + 5] = 4;
    CHECK_FALSE(learn_frame(lying).router);
    // The same for our own advertisements.
    CHECK(learn_frame(neighbour_advertisement(guest, ip("2001:db8::10"), true)).router == true);
}

TEST_CASE("addresses are learnt in their VLAN, but not under two tags", "[netmove]") {
    auto const frame = gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request, 12);
    CHECK(learn_frame(frame).address == ip("192.0.2.10"));
    Bytes twice(frame.begin(), frame.begin() + 12);
    twice.insert(twice.end(), {0x88, 0xa8, 0, 5});
    twice.insert(twice.end(), frame.begin() + 12, frame.end());
    CHECK_FALSE(learn_frame(twice).address);
}

TEST_CASE("every prefix of a frame is parsed without harm", "[netmove]") {
    for (auto const& frame :
         {neighbour_advertisement(guest, ip("2001:db8::10"), true, 3), ipv4_frame("c000020a", "40"),
          gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::reply, 12)}) {
        for (std::size_t size = 0; size <= frame.size(); ++size) {
            Bytes const part(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size));
            if (auto const parsed = parse_ethernet(part)) (void)learn(guest, *parsed);
        }
    }
}

TEST_CASE("adjacency frame: an ARP probe for the dummy address, with the number in it") {
    auto const frame = adjacency_frame(guest, 0x0102'0304'0506);
    CHECK(frame == padded(bytes("ffffffffffff 525400123456 0806 0001 0800 06 04 0001"
                                "525400123456 00000000 010203040506 c0000008")));
    CHECK(adjacency_number(frame) == 0x0102'0304'0506U);
    CHECK(adjacency_number(adjacency_frame(other, adjacency_number_max)) == adjacency_number_max);
    CHECK(adjacency_number(adjacency_frame(other, 0)) == 0U);
    CHECK_FALSE(adjacency_number(ByteView(frame).first(41)));
    CHECK_FALSE(adjacency_number({}));
    for (std::size_t const changed : {0U, 12U, 15U, 21U, 28U, 38U, 41U}) {
        auto another = frame;
        another[changed] ^= 1U;
        CHECK_FALSE(adjacency_number(another));
    }
    CHECK_FALSE(adjacency_number(gratuitous_arp(guest, ip("192.0.2.1"), ArpForm::request)));
}

}  // namespace netmove_frame_cases
