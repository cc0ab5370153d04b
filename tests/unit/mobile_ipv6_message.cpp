// Messages of Mobile IPv6 (netmove/mobile_ipv6/message.hpp). What is encoded is compared with bytes
// written by hand from the RFCs; other decoders read it in tests/process/mobile_ipv6_decoders.cpp.
#include "netmove/mobile_ipv6/message.hpp"

#include <catch2/catch.hpp>

#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_ipv6_message_cases {

namespace {

using namespace netmove::mobile_ipv6;
using namespace mobile;

Address const home = ip("2001:db8:1::100");
Address const agent = ip("2001:db8:1::1");
Address const care_of = ip("2001:db8:2::1");

/// Of the mobile node for what it sends, of the home agent for all else.
struct Route {
    Address source;
    Address destination;
};
Route route_of(Message const& message) {
    if (std::holds_alternative<BindingUpdate>(message)) return {home, agent};
    return {agent, home};
}

Bytes encoded(Message const& message) {
    auto const [source, destination] = route_of(message);
    return encode(message, source, destination);
}

/// A Mobility Header written by hand, as of a mobile node.
Bytes by_hand(std::string_view hex) { return sealed(bytes(hex), home, agent); }

core::Result<Message> parsed(Bytes const& bytes) { return parse_message(bytes, home, agent); }

template <class T>
T parsed_as(Bytes const& bytes) {
    auto const message = parsed(bytes);
    if (!message) FAIL(message.error().sentence());
    REQUIRE(std::holds_alternative<T>(*message));
    return std::get<T>(*message);
}

std::string fault(Bytes const& bytes) {
    auto const message = parsed(bytes);
    REQUIRE_FALSE(message);
    CHECK(message.error().code == core::Errc::protocol);
    return message.error().what;
}

void check_round_trip(Message const& message) {
    auto const [source, destination] = route_of(message);
    auto const bytes = encode(message, source, destination);
    auto const again = parse_message(bytes, source, destination);
    if (!again) FAIL(again.error().sentence());
    CHECK(*again == message);
    CHECK(bytes.size() % 8 == 0);
    CHECK(bytes.size() == 8 * (std::size_t{bytes[1]} + 1));
    CHECK(bytes[0] == 59);
    CHECK(bytes[3] == 0);
    CHECK_FALSE(is_checksum_wrong(bytes, source, destination));
}

/// Each combination of options of one message, the widest value of each.
std::vector<BindingUpdate> updates_with_options() {
    std::vector<BindingUpdate> all;
    for (int choice = 0; choice < 8; ++choice) {
        BindingUpdate update{.sequence = 0xfedc, .lifetime = LifetimeUnits(0x1234)};
        if (choice & 1) update.alternate_care_of = care_of;
        if (choice & 2) update.ipv4_home = Ipv4HomeAddress{ip("192.0.2.77"), 32, true};
        if (choice & 4) update.ipv4_care_of = ip("198.51.100.9");
        all.push_back(update);
    }
    return all;
}
std::vector<BindingAcknowledgement> acknowledgements_with_options() {
    std::vector<BindingAcknowledgement> all;
    for (int choice = 0; choice < 8; ++choice) {
        BindingAcknowledgement made{.sequence = 0xfedc, .lifetime = LifetimeUnits(0x1234)};
        if (choice & 1) made.refresh_advice = LifetimeUnits(0xabcd);
        if (choice & 2)
            made.ipv4_home = Ipv4Acknowledgement{Ipv4Status::accepted, 32, ip("192.0.2.77")};
        if (choice & 4) made.nat = NatDetection{true, 0xfffefdfc};
        all.push_back(made);
    }
    return all;
}

/// Which options there are and that each is aligned as its RFC says; padding is Pad1 or zeroes, and
/// never longer than it must be.
std::vector<int> check_alignment(Bytes const& header) {
    std::vector<int> types;
    for (std::size_t at = 12; at < header.size();) {
        int const type = header[at];
        if (type == 0) {
            ++at;
            continue;
        }
        std::size_t const size = std::size_t{header[at + 1]} + 2;
        REQUIRE(at + size <= header.size());
        if (type == 1) {
            CHECK(size < 8);
            for (std::size_t i = at + 2; i < at + size; ++i) CHECK(header[i] == 0);
        } else {
            types.push_back(type);
            if (type == 2) CHECK(at % 2 == 0);
            if (type == 3) CHECK(at % 8 == 6);
            if (type >= 29) CHECK(at % 4 == 0);
        }
        at += size;
    }
    return types;
}

}  // namespace

TEST_CASE("mobile ipv6 message: a Binding Update as a home agent in the field accepts it") {
    BindingUpdate const update{.sequence = 1,
                               .key_management_mobility = true,
                               .lifetime = LifetimeUnits(15),
                               .alternate_care_of = care_of};
    auto const vector =
        bytes("3b030500 6103 0001 d000 000f 0100 0310 20010db8000200000000000000000001");
    // The vector's flags: A, H, and K as bit 3.
    CHECK(encode(update, home, agent) == vector);
    CHECK(parsed_as<BindingUpdate>(vector) == update);
}

TEST_CASE("mobile ipv6 message: each message as the RFCs draw it") {
    CHECK(encoded(BindingRefreshRequest{}) == sealed(bytes("3b00 0000 0000 0000"), agent, home));
    CHECK(encoded(BindingUpdate{.sequence = 0x0102, .lifetime = lifetime_infinite}) ==
          by_hand("3b00 0500 0000 0102 c000 ffff 01020000"));
    CHECK(encoded(BindingAcknowledgement{.status = BindingStatus::sequence_out_of_window,
                                         .sequence = 0x0102,
                                         .lifetime = LifetimeUnits(3)}) ==
          sealed(bytes("3b00 0600 0000 8700 0102 0003 01020000"), agent, home));
    CHECK(encoded(BindingError{1, home}) ==
          sealed(bytes("3b00 0700 0000 0100 20010db8000100000000000000000100"), agent, home));
    CHECK(encoded(UnknownMessage{22}) == sealed(bytes("3b00 1600 0000 0000"), agent, home));
}

TEST_CASE("mobile ipv6 message: each option as the RFCs draw it") {
    auto const update_with = [](BindingUpdate update) { return encoded(update); };
    auto const begin = [](char const* options) {
        return by_hand(std::string("3b00 0500 0000 0000 c000 0000 ") + options);
    };
    CHECK(update_with({.alternate_care_of = care_of}) ==
          begin("0100 0310 20010db8000200000000000000000001"));
    // Prefix length in the upper six bits, then P.
    CHECK(update_with({.ipv4_home = Ipv4HomeAddress{ip("192.0.2.1"), 24, true}}) ==
          begin("1d06 6200 c0000201 0102 0000"));
    CHECK(update_with({.ipv4_home = Ipv4HomeAddress{}}) == begin("1d06 8000 00000000 0102 0000"));
    CHECK(update_with({.ipv4_care_of = ip("192.0.2.1")}) == begin("2006 0000 c0000201 0102 0000"));

    auto const acknowledgement_with = [](BindingAcknowledgement one) { return encoded(one); };
    auto const acknowledgement = [](char const* options) {
        return sealed(bytes(std::string("3b00 0600 0000 0000 0000 0000 ") + options), agent, home);
    };
    CHECK(acknowledgement_with({.refresh_advice = LifetimeUnits(0x0102)}) ==
          acknowledgement("0202 0102"));
    CHECK(acknowledgement_with({.ipv4_home = Ipv4Acknowledgement{Ipv4Status::incorrect_address, 24,
                                                                 ip("192.0.2.1")}}) ==
          acknowledgement("1e06 8260 c0000201 0102 0000"));
    CHECK(acknowledgement_with({.nat = NatDetection{true, 0x01020304}}) ==
          acknowledgement("1f06 8000 01020304 0102 0000"));
    // All of them: advice at 12, then both at multiples of four.
    CHECK(acknowledgement_with({.refresh_advice = LifetimeUnits(1),
                                .ipv4_home = Ipv4Acknowledgement{{}, 32, ip("192.0.2.1")},
                                .nat = NatDetection{}}) ==
          acknowledgement("0202 0001 1e06 0080 c0000201 1f06 0000 00000000"));
}

TEST_CASE("mobile ipv6 message: each flag has its bit") {
    struct Case {
        unsigned bit;
        bool BindingUpdate::* flag;
    };
    for (auto const& [bit, flag] :
         {Case{0x8000, &BindingUpdate::acknowledge},
          Case{0x4000, &BindingUpdate::home_registration},
          Case{0x2000, &BindingUpdate::link_local_compatible},
          Case{0x1000, &BindingUpdate::key_management_mobility},
          Case{0x0100, &BindingUpdate::force_udp}, Case{0x0080, &BindingUpdate::tlv_header}}) {
        BindingUpdate update{.acknowledge = false, .home_registration = false};
        update.*flag = true;
        auto const bytes = encoded(update);
        CHECK(netmove::get16(bytes, 8) == bit);
        check_round_trip(update);
    }
    BindingAcknowledgement acknowledgement{.key_management_mobility = true};
    CHECK(encoded(acknowledgement)[7] == 0x80);
    check_round_trip(acknowledgement);
    acknowledgement = {.tlv_header = true};
    CHECK(encoded(acknowledgement)[7] == 0x10);
    check_round_trip(acknowledgement);
}

TEST_CASE("mobile ipv6 message: flags of other protocols and reserved bits are ignored") {
    // M, R, P, B and what is reserved.
    auto const update = parsed_as<BindingUpdate>(by_hand("3b00 05ff 0000 0001 0e7f 0002 01020000"));
    CHECK(update == BindingUpdate{.sequence = 1,
                                  .acknowledge = false,
                                  .home_registration = false,
                                  .lifetime = LifetimeUnits(2)});
    auto const acknowledgement = parsed_as<BindingAcknowledgement>(
        by_hand("3b00 06ff 0000 006f 0001 0002 1e06 0083 c0000201 1f06 7fff 00000005 0102 0000"));
    CHECK(acknowledgement ==
          BindingAcknowledgement{.sequence = 1,
                                 .lifetime = LifetimeUnits(2),
                                 .ipv4_home = Ipv4Acknowledgement{{}, 32, ip("192.0.2.1")},
                                 .nat = NatDetection{false, 5}});
    auto const request = by_hand("3b00 0000 0000 ffff");
    CHECK(parsed_as<BindingRefreshRequest>(request) == BindingRefreshRequest{});
    auto const addresses =
        parsed_as<BindingUpdate>(by_hand("3b00 0500 0000 0000 c000 0000 2006 ffff c0000201"
                                         "1d06 81ff c0000202 01020000"));
    CHECK(addresses.ipv4_care_of == ip("192.0.2.1"));
    CHECK(addresses.ipv4_home == Ipv4HomeAddress{ip("192.0.2.2"), 32, false});
}

TEST_CASE("mobile ipv6 message: every value of every field comes back") {
    for (unsigned const value : {0U, 1U, 0x00ffU, 0x0100U, 0x7fffU, 0x8000U, 0xffffU}) {
        auto const number = static_cast<std::uint16_t>(value);
        check_round_trip(BindingUpdate{.sequence = number});
        check_round_trip(BindingUpdate{.lifetime = LifetimeUnits(number)});
        check_round_trip(BindingAcknowledgement{.sequence = number});
        check_round_trip(BindingAcknowledgement{.lifetime = LifetimeUnits(number)});
        check_round_trip(BindingAcknowledgement{.refresh_advice = LifetimeUnits(number)});
        check_round_trip(BindingAcknowledgement{.nat = NatDetection{false, value << 16 | value}});
    }
    for (int value = 0; value < 256; ++value) {
        auto const byte = static_cast<std::uint8_t>(value);
        check_round_trip(BindingAcknowledgement{.status = BindingStatus{byte}});
        check_round_trip(
            BindingAcknowledgement{.ipv4_home = Ipv4Acknowledgement{Ipv4Status{byte}, 0, {}}});
        check_round_trip(BindingError{byte, care_of});
        if (value > 7 || (value > 0 && value < 5)) check_round_trip(UnknownMessage{byte});
    }
    for (int length = 0; length <= 32; ++length) {
        auto const address = ip("203.0.113.255");
        check_round_trip(BindingUpdate{.ipv4_home = Ipv4HomeAddress{address, length, false}});
        check_round_trip(BindingUpdate{.ipv4_home = Ipv4HomeAddress{address, length, true}});
        check_round_trip(
            BindingAcknowledgement{.ipv4_home = Ipv4Acknowledgement{{}, length, address}});
    }
    check_round_trip(BindingError{});
    check_round_trip(BindingRefreshRequest{});
}

TEST_CASE("mobile ipv6 message: each combination of options is aligned and comes back") {
    for (auto const& update : updates_with_options()) {
        check_round_trip(update);
        std::vector<int> wanted;
        if (update.alternate_care_of) wanted.push_back(3);
        if (update.ipv4_home) wanted.push_back(29);
        if (update.ipv4_care_of) wanted.push_back(32);
        CHECK(check_alignment(encoded(update)) == wanted);
    }
    for (auto const& acknowledgement : acknowledgements_with_options()) {
        check_round_trip(acknowledgement);
        std::vector<int> wanted;
        if (acknowledgement.refresh_advice) wanted.push_back(2);
        if (acknowledgement.ipv4_home) wanted.push_back(30);
        if (acknowledgement.nat) wanted.push_back(31);
        CHECK(check_alignment(encoded(acknowledgement)) == wanted);
    }
}

TEST_CASE("mobile ipv6 message: it is refused wherever it is cut off") {
    std::vector<Message> messages{BindingRefreshRequest{}, BindingError{1, home},
                                  UnknownMessage{22}};
    for (auto const& one : updates_with_options()) messages.emplace_back(one);
    for (auto const& one : acknowledgements_with_options()) messages.emplace_back(one);
    for (auto const& message : messages) {
        auto const whole = encoded(message);
        auto const [source, destination] = route_of(message);
        for (std::size_t size = 0; size < whole.size(); ++size) {
            // A copy of its own, so that a sanitizer sees each byte beyond.
            Bytes const part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            auto const read = parse_message(part, source, destination);
            REQUIRE_FALSE(read);
            CHECK(read.error().what ==
                  fmt::format("the Mobility Header is cut off after {} bytes", size));
            CHECK_FALSE(is_checksum_wrong(part, source, destination));
        }
    }
}

TEST_CASE("mobile ipv6 message: it is refused with any bit changed") {
    for (Message const& message : {Message(updates_with_options().back()),
                                   Message(acknowledgements_with_options().back())}) {
        auto const [source, destination] = route_of(message);
        auto bytes = encode(message, source, destination);
        for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
            auto const flip = static_cast<std::uint8_t>(1U << bit % 8);
            bytes[bit / 8] ^= flip;
            CHECK_FALSE(parse_message(bytes, source, destination));
            bytes[bit / 8] ^= flip;
        }
        CHECK(parse_message(bytes, source, destination) == message);
    }
}

TEST_CASE("mobile ipv6 message: the checksum covers both addresses, not what follows") {
    auto const bytes = encoded(BindingUpdate{});
    CHECK(is_checksum_wrong(bytes, care_of, agent));
    CHECK(is_checksum_wrong(bytes, home, care_of));
    // A sum does not see which address is which.
    CHECK_FALSE(is_checksum_wrong(bytes, agent, home));
    auto const wrong = parse_message(bytes, care_of, agent);
    REQUIRE_FALSE(wrong);
    CHECK(wrong.error().what == "the Mobility Header's checksum is wrong");
    CHECK(parsed_as<BindingUpdate>(bytes + Bytes{1, 2, 3}) == BindingUpdate{});
}

TEST_CASE("mobile ipv6 message: a wrong Mobility Header is refused by the field that is wrong") {
    CHECK(fault(by_hand("2900 0500 0000 0001 c000 000f 01020000")) ==
          "the Mobility Header is followed by next header 41");
    CHECK(fault(by_hand("3b00 0500 0000 0001")) ==
          "a Mobility Header of type 5 has 8 bytes, less than 12");
    CHECK(fault(by_hand("3b00 0600 0000 0001")) ==
          "a Mobility Header of type 6 has 8 bytes, less than 12");
    CHECK(fault(by_hand("3b00 0700 0000 0100 0000000000000000")) ==
          "a Mobility Header of type 7 has 16 bytes, less than 24");
}

TEST_CASE("mobile ipv6 message: a wrong option is refused") {
    std::string const update = "3b00 0500 0000 0001 c000 000f ";
    std::string const acknowledgement = "3b00 0600 0000 0000 0001 000f ";
    std::string const cut_off = "the last mobility option is cut off";
    CHECK(fault(by_hand(update + "00000003")) == cut_off);
    CHECK(fault(by_hand(update + "01030000")) == cut_off);
    CHECK(fault(by_hand(update + "c8ff0000")) == cut_off);
    CHECK(fault(by_hand(acknowledgement + "00000002")) == cut_off);
    CHECK(fault(by_hand("3b00 0000 0000 0000 0000000000000001")) == cut_off);
    CHECK(fault(by_hand("3b00 0700 0000 0100 " + std::string(32, '0') + "0000000000000001")) ==
          cut_off);

    CHECK(fault(by_hand(update + "03020000")) == "mobility option 3 has 2 bytes, not 16");
    CHECK(fault(by_hand(update + "1d020000")) == "mobility option 29 has 2 bytes, not 6");
    CHECK(fault(by_hand(update + "20020000")) == "mobility option 32 has 2 bytes, not 6");
    CHECK(fault(by_hand(acknowledgement + "02010000")) == "mobility option 2 has 1 bytes, not 2");
    CHECK(fault(by_hand(acknowledgement + "1e020000")) == "mobility option 30 has 2 bytes, not 6");
    CHECK(fault(by_hand(acknowledgement + "1f020000")) == "mobility option 31 has 2 bytes, not 6");

    CHECK(fault(by_hand(update + "1d06 8400 c0000201 01020000")) ==
          "mobility option 29 has an IPv4 prefix of 33 bits");
    CHECK(fault(by_hand(acknowledgement + "1e06 00fc c0000201 01020000")) ==
          "mobility option 30 has an IPv4 prefix of 63 bits");
    // Also where it is a repetition, which does not count.
    CHECK(fault(by_hand(update + "1d06 8000 c0000201 1d06 8400 c0000201 01020000")) ==
          "mobility option 29 has an IPv4 prefix of 33 bits");
}

TEST_CASE("mobile ipv6 message: options that say nothing here are skipped") {
    std::string const update = "3b00 0500 0000 0000 c000 0000 ";
    // Pad1 four times; an unknown option; options of an acknowledgement, of any length.
    CHECK(parsed_as<BindingUpdate>(by_hand(update + "00000000")) == BindingUpdate{});
    CHECK(parsed_as<BindingUpdate>(by_hand(update + "c8020000")) == BindingUpdate{});
    CHECK(parsed_as<BindingUpdate>(by_hand(update + "02007f00")) == BindingUpdate{});
    CHECK(parsed_as<BindingAcknowledgement>(by_hand("3b00 0600 0000 0000 0000 0000 03020000")) ==
          BindingAcknowledgement{});
    CHECK(parsed_as<BindingRefreshRequest>(by_hand("3b00 0000 0000 0000 03020000 00000000")) ==
          BindingRefreshRequest{});
    CHECK(parsed_as<BindingError>(
              by_hand("3b00 0700 0000 0100 20010db8000200000000000000000001 c806000000000000")) ==
          BindingError{1, care_of});
    // Padding with something in it, and options that are not aligned.
    CHECK(parsed_as<BindingUpdate>(by_hand(update + "0101ff 2006 0000 c0000201 00")).ipv4_care_of ==
          ip("192.0.2.1"));
    // Before others.
    CHECK(parsed_as<BindingUpdate>(by_hand(update + "c8020000 2006 0000 c0000201")).ipv4_care_of ==
          ip("192.0.2.1"));
}

TEST_CASE("mobile ipv6 message: of an option that is repeated the first counts") {
    auto const update = parsed_as<BindingUpdate>(
        by_hand("3b00 0500 0000 0000 c000 0000 2006 0000 c0000201 2006 0000 c0000202 00000000"));
    CHECK(update.ipv4_care_of == ip("192.0.2.1"));
}

TEST_CASE("mobile ipv6 message: a type that is not read here is reported, whatever follows") {
    CHECK(parsed_as<UnknownMessage>(by_hand("3b00 1600 0000 0000")).type == 22);
    CHECK(parsed_as<UnknownMessage>(by_hand("3b00 0100 0000 ffff ffffffffffffffff")).type == 1);
}

TEST_CASE("mobile ipv6 message: a status is named") {
    CHECK(text(BindingStatus::sequence_out_of_window) == "sequence number out of window (135)");
    CHECK(text(BindingStatus::invalid_care_of_address) == "invalid care-of address (174)");
    CHECK(text(BindingStatus{200}) == "status 200");
    CHECK(text(Ipv4Status::prefix_allocation_unauthorized) ==
          "prefix allocation unauthorized (133)");
    CHECK(text(Ipv4Status{77}) == "status 77");
    CHECK(is_accepted(BindingStatus::accepted_prefix_discovery_necessary));
    CHECK(is_accepted(BindingStatus{127}));
    CHECK_FALSE(is_accepted(BindingStatus::reason_unspecified));
}

}  // namespace mobile_ipv6_message_cases
