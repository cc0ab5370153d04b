// Tracked connections as one sidecar sends them to the other: netmove/conntrack_entry.hpp.
#include <catch2/catch.hpp>

#include "netmove/conntrack_entry.hpp"

namespace netmove_conntrack_cases {

namespace {

using namespace netmove;
using core::Json;

Address ip(std::string const& text) { return Address::parse(text).value(); }

std::vector<Address> const guest{ip("192.0.2.10"), ip("2001:db8::10")};

ConntrackEntry tcp(std::string const& from, std::string const& to) {
    ConntrackEntry entry;
    entry.key = {ip(from), ip(to), 6, 40000, 443};
    entry.reply_source = entry.key.destination;
    entry.reply_destination = entry.key.source;
    entry.reply_source_port = 443;
    entry.reply_destination_port = 40000;
    entry.status = 0x0e;
    entry.timeout_s = 432000;
    entry.state = 3;
    return entry;
}

ConntrackEntry everything() {
    auto entry = tcp("2001:db8::10", "2001:db8:1::1");
    entry.key.zone = 9;
    entry.key.zone_of = ConntrackKey::ZoneOf::reply;
    entry.reply_destination = ip("2001:db8:2::2");
    entry.reply_destination_port = 61000;
    entry.mark = 0xffffffff;
    entry.tcp_flags = {0x23, 0x0b};
    entry.tcp_scale = {14, 0};
    entry.helper = "ftp-21";
    entry.labels.assign(16, 0xa5);
    entry.sequence = {1, 2, 3, 4, 5, 0xffffffff};
    entry.translated_to_host = true;
    return entry;
}

core::Result<ConntrackEntry> with(std::string_view member, Json value) {
    auto json = tcp("192.0.2.10", "198.51.100.1").to_json();
    json.set(member, std::move(value));
    return ConntrackEntry::from_json(json, guest);
}

std::string refusal(std::string_view member, Json value) {
    auto const read = with(member, std::move(value));
    if (read) return "taken";
    CHECK(read.error().code == core::Errc::protocol);
    return read.error().what;
}

}  // namespace

TEST_CASE("conntrack: entries arrive as they were sent") {
    auto ping = tcp("198.51.100.1", "192.0.2.10");
    ping.key.protocol = 1;
    ping.key.icmp_type = 8;
    ping.key.source_port = ping.key.destination_port = 5;
    ping.reply_source_port = ping.reply_destination_port = 5;
    ping.state = 0;
    auto sctp = tcp("192.0.2.10", "198.51.100.1");
    sctp.key.protocol = 132;
    sctp.sctp_tags = {7, 0xffffffff};
    for (auto const& entry : {tcp("192.0.2.10", "198.51.100.1"), everything(), ping, sctp}) {
        auto const text = entry.to_json().dump();
        INFO(text);
        CHECK(text.size() <= conntrack_entry_bytes_max);
        auto const read = ConntrackEntry::from_json(Json::parse(text).value(), guest);
        REQUIRE(read);
        CHECK(*read == entry);
        CHECK(ConntrackKey::from_json(entry.key.to_json()).value() == entry.key);
    }
}

TEST_CASE("conntrack: only what one of the guest's addresses is an end of is taken") {
    auto const taken = [](ConntrackEntry const& entry) {
        return ConntrackEntry::from_json(entry.to_json(), guest).has_value();
    };
    CHECK(taken(tcp("192.0.2.10", "198.51.100.1")));
    CHECK(taken(tcp("198.51.100.1", "192.0.2.10")));
    CHECK_FALSE(taken(tcp("192.0.2.11", "198.51.100.1")));
    // To the guest's address, but another address answers; and the other way round.
    auto turned = tcp("198.51.100.1", "192.0.2.10");
    turned.reply_source = ip("192.0.2.99");
    CHECK_FALSE(taken(turned));
    auto translated = tcp("198.51.100.1", "203.0.113.1");
    translated.reply_source = ip("192.0.2.10");
    CHECK(taken(translated));
    CHECK(translated.destination_translated());
    CHECK_FALSE(translated.source_translated());
}

TEST_CASE("conntrack: what cannot be is refused by name") {
    CHECK(refusal("from", "nobody").find("`from`") != std::string::npos);
    CHECK(refusal("from", 5).find("`from`") != std::string::npos);
    CHECK(refusal("to", "2001:db8::1").find("two protocols") != std::string::npos);
    CHECK(refusal("protocol", 47).find("47") != std::string::npos);
    CHECK(refusal("protocol", 58).find("58") != std::string::npos);  // ICMPv6 over IPv4
    CHECK(refusal("protocol", 256).find("`protocol`") != std::string::npos);
    CHECK(refusal("ports", Json::array({1})).find("`ports`") != std::string::npos);
    CHECK(refusal("ports", Json::array({1, 65536})).find("65536") != std::string::npos);
    CHECK(refusal("ports", Json::array({1, -1})).find("-1") != std::string::npos);
    CHECK(refusal("zone", Json::array({1, 3})).find("`zone`") != std::string::npos);
    CHECK(refusal("reply", Json::array({"192.0.2.10"})).find("`reply`") != std::string::npos);
    CHECK(refusal("reply", Json::array({"192.0.2.10", "2001:db8::1"})).find("another protocol") !=
          std::string::npos);
    CHECK(refusal("status", 1).find("`status`") != std::string::npos);  // the kernel's IPS_EXPECTED
    CHECK(refusal("status", Json()).find("`status`") != std::string::npos);
    CHECK(refusal("timeout", std::int64_t{1} << 32).find("`timeout`") != std::string::npos);
    CHECK(refusal("mark", "x").find("`mark`") != std::string::npos);
    CHECK(refusal("state", 10).find("`state`") != std::string::npos);
    CHECK(refusal("scale", Json::array({15, 0})).find("`scale`") != std::string::npos);
    CHECK(refusal("tags", Json::array({1, 1})).find("`tags`") != std::string::npos);
    CHECK(refusal("helper", "../../x").find("`helper`") != std::string::npos);
    CHECK(refusal("helper", "a-name-of-16-long").find("`helper`") != std::string::npos);
    CHECK(refusal("labels", "00").find("`labels`") != std::string::npos);
    CHECK(refusal("labels", std::string(32, 'g')).find("`labels`") != std::string::npos);
    CHECK(refusal("sequence", Json::array({1})).find("`sequence`") != std::string::npos);
    CHECK_FALSE(ConntrackEntry::from_json(Json(), guest));
    CHECK_FALSE(ConntrackEntry::from_json(Json::array(), guest));
}

TEST_CASE("conntrack: an entry differs by what does not pass by itself") {
    auto const before = everything();
    auto later = before;
    later.timeout_s = 5;
    CHECK(before.same_but_for_time(later));
    later.state = 4;
    CHECK_FALSE(before.same_but_for_time(later));
}

}  // namespace netmove_conntrack_cases
