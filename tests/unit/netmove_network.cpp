// Networks as values: which definitions are valid, the contents of their file, and the rules.
#include <catch2/catch.hpp>

#include "netmove/network_rules.hpp"
#include "sidecar/cli/options.hpp"

namespace netmove_network_cases {

using namespace netmove;

namespace {

bool contains(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}

NetworkDefinition native_ipv4() {
    NetworkDefinition made;
    made.name = "lan";
    made.native = true;
    made.uplink = "eth1";
    made.addresses = {HostAddress::parse("192.0.2.1/24").value()};
    made.allowed = {0x88b5, 0x88cc};
    return made;
}

std::string refusal(NetworkDefinition const& definition) {
    auto const done = definition.validate();
    REQUIRE_FALSE(done);
    return done.error().sentence();
}

/// The program's result for these arguments.
std::variant<sidecar::Options, int> parsed(std::vector<std::string> words) {
    words.insert(words.begin(), {"sidecar", "network"});
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    return sidecar::parse_options(static_cast<int>(argv.size()), argv.data());
}

}  // namespace

TEST_CASE("network: a definition says what is wrong with it", "[network]") {
    auto definition = native_ipv4();
    CHECK(definition.validate());
    SECTION("names") {
        for (auto const* good : {"v4", "guests-v6", "a.b_c", "x123456789012"}) {
            definition.name = good;
            CHECK(definition.validate());
        }
        for (auto const* bad : {"", "4v", "-v4", "x1234567890123", "v 4", "v4;", "w-eth0", "v/4"}) {
            definition.name = bad;
            CHECK(contains(refusal(definition), "is not a valid name of a network"));
        }
    }
    SECTION("an address of the other protocol") {
        definition.addresses.push_back(HostAddress::parse("2001:db8::1/64").value());
        CHECK(contains(refusal(definition), "2001:db8::1/64 is not an address of an IPv4 network"));
    }
    SECTION("an address of the host in a parallel network") {
        definition.native = false;
        CHECK(contains(refusal(definition), "the host has no address in it"));
    }
    SECTION("an uplink that is none") {
        definition.uplink = "a name too long for it";
        CHECK(contains(refusal(definition), "is not a name for a network interface"));
        definition.uplink = "lan";
        CHECK(contains(refusal(definition), "cannot have the name of its uplink"));
    }
}

TEST_CASE("network: addresses and EtherTypes as people write them", "[network]") {
    CHECK(HostAddress::parse("192.0.2.1/24").value().text() == "192.0.2.1/24");
    CHECK(HostAddress::parse("2001:DB8::0:1/64").value().text() == "2001:db8::1/64");
    for (auto const* bad : {"192.0.2.1", "192.0.2.1/33", "192.0.2.1/", "fe80::1/64", "224.0.0.1/4",
                            "2001:db8::1/129", "host/24", "192.0.2.1/24 "}) {
        INFO(bad);
        CHECK_FALSE(HostAddress::parse(bad));
    }
    CHECK(parse_ether_type("0x88cc").value() == 0x88cc);
    CHECK(parse_ether_type("88b5").value() == 0x88b5);
    // EtherTypes that carry a protocol, that hide one, and values that are lengths.
    for (auto const* bad : {"0x0800", "0x0806", "0x86dd", "0x8100", "0x88a8", "0x9100", "0x05ff",
                            "0x10000", "lldp", "", "0x"}) {
        INFO(bad);
        CHECK_FALSE(parse_ether_type(bad));
    }
}

TEST_CASE("network: a record is read back unchanged, and a bad one is reported", "[network]") {
    NetworkRecord record;
    record.definition = native_ipv4();
    record.mac = MacAddress::parse("02:5c:a2:01:02:03").value();
    record.uplink_before = {true, "0", "1"};
    record.rules = "table bridge sidecar-lan {\n}\n";
    record.made_from = network_rules(record.definition, {});
    auto const text = record.to_json().dump_pretty();
    auto const read = NetworkRecord::from_json(core::Json::parse(text).value());
    REQUIRE(read);
    CHECK(read->definition == record.definition);
    CHECK(read->mac == record.mac);
    CHECK(read->rules == record.rules);
    CHECK(read->made_from == record.made_from);
    REQUIRE(read->uplink_before);
    CHECK(read->uplink_before->addr_gen_mode == "1");

    auto const broken = [&](char const* member, core::Json value) {
        auto json = core::Json::parse(text).value();
        auto definition = json["definition"].clone();
        definition.set(member, std::move(value));
        json.set("definition", definition);
        return NetworkRecord::from_json(json);
    };
    CHECK(broken("name", "lan"));
    CHECK_FALSE(broken("name", "../lan"));
    CHECK_FALSE(broken("protocol", "ipx"));
    CHECK_FALSE(broken("allowed", core::Json::array({"0x86dd"})));
    CHECK_FALSE(broken("addresses", core::Json::array({"2001:db8::1/64"})));
    CHECK_FALSE(broken("shared_uplink", 1));
}

TEST_CASE("network: the rules pass one protocol and what is named", "[network]") {
    auto definition = native_ipv4();
    auto const ipv4 = network_rules(definition, {7, 9});
    CHECK(contains(ipv4, "elements = { 7, 9 }"));
    CHECK(contains(ipv4, "chain ipv4 {"));
    CHECK(contains(ipv4, "ether type 0x88cc accept"));
    CHECK_FALSE(contains(ipv4, "ether type ip6"));
    // A host with an address sends; a host without one does not.
    CHECK_FALSE(contains(ipv4, "hook output"));
    definition.addresses.clear();
    CHECK(contains(network_rules(definition, {}), "hook output"));
    definition.protocol = Protocol::ipv6;
    auto const ipv6 = network_rules(definition, {});
    CHECK(contains(ipv6, "ether type ip6 meta length >= 40 @ll,112,4 6 accept"));
    CHECK_FALSE(contains(ipv6, "ether type ip meta"));
    CHECK_FALSE(contains(ipv6, "ether type arp"));
    CHECK_FALSE(contains(ipv6, "elements"));
}

TEST_CASE("network: rules that differ are reported line by line", "[network]") {
    CHECK(rule_differences("a\n\tb\n", "  a\nb").empty());
    CHECK(rule_differences("a\nb\nb\n", "a\nb\nc\n") ==
          std::vector<std::string>{"the rule `b` is missing",
                                   "the rule `c` does not belong to the network"});
    CHECK(rule_differences("a\nb\n", "b\na\n") ==
          std::vector<std::string>{"the rules are in another order"});
}

TEST_CASE("network: what nftables lists is read, and anything else is refused", "[network]") {
    auto const listed = core::Json::parse(R"({"nftables": [{"metainfo": {}},
        {"set": {"name": "ports", "elem": ["lo", "17", 4]}}, {"set": {"name": "x", "elem": ["y"]}},
        {"rule": {"expr": [{"match": {}}, {"counter": {"packets": 5}}, {"drop": null}]}},
        {"rule": {"expr": [{"counter": {"packets": "many"}}]}}, 7]})");
    REQUIRE(listed);
    CHECK(ports_in(*listed) == std::vector<std::string>{"lo", "17", "4"});
    CHECK(dropped_in(*listed) == 5);
    CHECK(ports_in(core::Json()).empty());
}

TEST_CASE("network: the command line", "[network]") {
    auto const made = parsed({"create", "lan", "--ipv4", "--native", "--allow", "0x88cc", "--allow",
                              "88b5", "--address", "192.0.2.1/24", "--uplink", "eth1"});
    REQUIRE(std::holds_alternative<sidecar::Options>(made));
    auto const& network = std::get<sidecar::Options>(made).network;
    REQUIRE(network.definition);
    CHECK(*network.definition == native_ipv4());

    auto const again = parsed({"create", "lan"});
    REQUIRE(std::holds_alternative<sidecar::Options>(again));
    CHECK_FALSE(std::get<sidecar::Options>(again).network.definition);

    for (auto const& wrong : std::vector<std::vector<std::string>>{
             {},
             {"create"},
             {"create", "lan", "--ipv4"},
             {"create", "lan", "--native"},
             {"create", "lan", "--ipv4", "--ipv6", "--native"},
             {"create", "lan", "--ipv4", "--native", "--parallel"},
             {"create", "lan", "--ipv6", "--parallel", "--uplink", "a", "--shared-uplink", "a"},
             {"create", "lan", "--ipv6", "--parallel", "--allow", "0x0800"},
             {"create", "lan", "--ipv6", "--native", "--address", "192.0.2.1/24"},
             {"show"},
             {"delete"}}) {
        auto const refused = parsed(wrong);
        REQUIRE(std::holds_alternative<int>(refused));
        CHECK(std::get<int>(refused) == 2);
    }
}

}  // namespace netmove_network_cases
